"""Optimizers as plain ``torch.optim.Optimizer``, usable without the rest of Allograft."""

from allograft.optim.avagrad import AvaGrad

__all__ = ["AvaGrad"]
