"""What a critic and a generator minimise: the log GAN (Goodfellow et al. 2014) and the Wasserstein
GAN with a gradient penalty (Gulrajani et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Gan = Literal["log", "wasserstein"]


def critic_loss(real: Tensor, fake: Tensor, kind: Gan) -> Tensor:
    """Minus what the critic maximises: ``log``: mean log A(real) + mean log(1 - A(fake)), with A
    the logistic function of a logit; ``wasserstein``: the mean of real less that of fake.

    Args:
        real, fake: (B, 1) logits.

    Example:
        >>> critic_loss(torch.zeros(2, 1), torch.zeros(2, 1), "log")  # 2 log 2
        tensor(1.3863)
    """
    if kind == "log":
        return F.softplus(-real).mean() + F.softplus(fake).mean()
    return fake.mean() - real.mean()


def generator_loss(fake: Tensor, kind: Gan) -> Tensor:
    """``log``: minus mean log A(fake), whose gradient does not vanish where the critic is sure, as
    log(1 - A(fake)) has it; ``wasserstein``: minus the mean.

    Args:
        fake: (B, 1) logits.

    Example:
        >>> generator_loss(torch.zeros(2, 1), "log")  # log 2
        tensor(0.6931)
    """
    return F.softplus(-fake).mean() if kind == "log" else -fake.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mix: Tensor) -> Tensor:
    """Mean over images of (|gradient of the critic at mix * real + (1 - mix) * fake| - 1)^2.

    Args:
        critic: images -> (B, 1), each of its own image alone.
        real, fake: (B, C, *spatial); all channels are mixed.
        mix: (B,) in [0, 1].

    Returns:
        (), differentiable.

    Example:
        >>> images = torch.rand(2, 1, 2, 2)
        >>> gradient_penalty(lambda x: x.flatten(1).sum(1, keepdim=True), images, images, torch.ones(2)).item()
        1.0
    """
    share = mix.to(real).view(-1, *[1] * (real.ndim - 1))
    mixed = (share * real + (1 - share) * fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (gradient.flatten(1).norm(dim=1) - 1).square().mean()
