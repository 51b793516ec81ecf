"""Gradient reversal, and the losses with which features hide what a head looks for."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError
from allograft.nn.processes import mean_over_processes


def reverse_gradient(x: Tensor, strength: float) -> Tensor:
    """The identity whose gradient is multiplied by ``-strength`` (Ganin et al. 2016): (...) ->
    (...).

    Example:
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.1).sum().backward()
        >>> x.grad
        tensor([-0.1000, -0.1000])
    """
    reversed_: Tensor = _Reversal.apply(x, strength)
    return reversed_


class _Reversal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * gradients[0], None


def confusion_loss(logits: Tensor, target: Tensor | None = None) -> Tensor:
    """Mean cross-entropy to the uniform distribution, ``-1 / B sum_b sum_k log p_bk / K``; log K
    where the head knows nothing.

    Args:
        logits: (B, K).
        target: (B, K) in place of 1 / K. The released code draws U(0, 1) here, neither uniform nor
            a distribution.

    Example:
        >>> confusion_loss(torch.zeros(3, 4))  # log 4
        tensor(1.3863)
    """
    each = logits.log_softmax(1)
    return -(each.mean(1) if target is None else (target * each).sum(1)).mean()


def negative_conditional_entropy(logits: Tensor) -> Tensor:
    """Mean of ``sum_k p_k log p_k``: (B, K) -> (); -log K where the head knows nothing, 0 where it
    is sure.

    Example:
        >>> negative_conditional_entropy(torch.zeros(3, 4))
        tensor(-1.3863)
    """
    return (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def class_weights(counts: Tensor) -> Tensor:
    """``1 / count``, normalised to sum 1: (K,) -> (K,). ``SpecError`` for a class without cases.

    Example:
        >>> class_weights(torch.tensor([1, 3]))
        tensor([0.7500, 0.2500])
    """
    if (counts < 1).any():
        raise SpecError(f"class weights of counts {counts.tolist()}: a class has no case; leave it out")
    rarity = 1 / counts.to(torch.get_default_dtype())
    return rarity / rarity.sum()


def weighted_cross_entropy(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """``sum_b w_b CE_b / sum_b w_b`` with the weight of each case's class, over the batches of all
    processes.

    Args:
        logits: (B, K).
        target: (B,) int64; -100 does not count, and where nothing counts the loss is 0.
        weight: (K,).
    """
    losses = F.cross_entropy(logits, target, weight=weight, ignore_index=-100, reduction="none")
    total = (weight[target.clamp_min(0)] * (target >= 0)).sum()
    return losses.sum() / mean_over_processes(total).clamp_min(torch.finfo(total.dtype).tiny)
