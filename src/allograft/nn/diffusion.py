"""Diffusion of vectors about a prior: noise is added, and taken away step by step."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["respaced", "released"]
BETAS = (1e-4, 0.02)
"""The first and the last beta."""


def diffuse(y0: Tensor, prior: Tensor, alpha_bar: Tensor | float, noise: Tensor) -> Tensor:
    """``sqrt(a) y0 + sqrt(1 - a) noise + (1 - sqrt(a)) prior`` with a = alpha_bar (eq. 2, with one
    prior: the sum of both in the paper, the fused one in the released code).

    Args:
        y0, prior, noise: (B, C).
        alpha_bar: product of the alphas up to the step: one number, (B,) or (B, 1).

    Example:
        >>> diffuse(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]]), 0.25, torch.zeros(1, 2))
        tensor([[0.7500, 0.2500]])
    """
    a = torch.as_tensor(alpha_bar, dtype=y0.dtype, device=y0.device)
    a = a[:, None] if a.ndim == 1 else a
    return a.sqrt() * y0 + (1 - a).sqrt() * noise + (1 - a.sqrt()) * prior


def denoise_step(
    y: Tensor, t: Tensor | int, prior: Tensor, predicted_noise: Tensor, noise: Tensor, alphas: Tensor
) -> Tensor:
    """y_t -> y_{t-1} of DDPM about a prior; at t = 0 the denoised vector itself, without noise.

    With u = y - prior the forward process of eq. 2 is that of DDPM (Ho et al. 2020, eqs. 7 and 15):
    ``u0 = (u_t - sqrt(1 - A_t) e) / sqrt(A_t)``, A the product of the alphas, and u_{t-1} has the
    mean ``c0 u0 + c1 u_t`` and the variance v of the posterior. In y the mean is ``c0 y0 + c1 y_t +
    (1 - c0 - c1) prior``: the prior is a third term of each step.

    Args:
        y, prior, predicted_noise, noise: (B, C).
        t: index into ``alphas`` from 0: one number, or (B,).
        alphas: (T,); float64 keeps the small differences of the first steps.

    Returns:
        (B, C).
    """
    at = torch.as_tensor(t, device=alphas.device)
    bars = torch.cat([alphas.new_ones(1), alphas.cumprod(0)])
    alpha, before, bar = (value[..., None] for value in (alphas[at], bars[at], bars[at + 1]))
    c0, c1 = before.sqrt() * (1 - alpha) / (1 - bar), alpha.sqrt() * (1 - before) / (1 - bar)
    deviation = ((1 - before) / (1 - bar) * (1 - alpha)).sqrt()
    share, level, c0, c1, deviation = (each.to(y) for each in (bar.sqrt(), (1 - bar).sqrt(), c0, c1, deviation))
    u0 = ((y - prior) - level * predicted_noise) / share
    return prior + c0 * u0 + c1 * (y - prior) + deviation * noise


def implicit_step(y: Tensor, t: int, prior: Tensor, predicted_noise: Tensor, alphas: Tensor) -> Tensor:
    """As ``denoise_step`` without noise of its own: DDIM with eta = 0 (Song et al. 2021, eq.
    12)."""
    bars = torch.cat([alphas.new_ones(1), alphas.cumprod(0)])
    before, bar = bars[t], bars[t + 1]
    share, level, next_share, next_level = (
        v.to(y) for v in (bar.sqrt(), (1 - bar).sqrt(), before.sqrt(), (1 - before).sqrt())
    )
    u0 = ((y - prior) - level * predicted_noise) / share
    return prior + next_share * u0 + next_level * predicted_noise


def linear_alphas(steps: int) -> Tensor:
    """1 - beta, beta rising linearly from 1e-4 to 0.02: (steps,) float64."""
    return 1 - torch.linspace(*BETAS, steps, dtype=torch.float64)


def sampling_alphas(steps: int, count: int, spacing: Spacing) -> tuple[list[int], Tensor]:
    """Which of the training's steps a sampler takes, in rising order, and the alphas between them.

    ``respaced``: ``count`` steps evenly over all, from the first to the last; an alpha is the
        product of
    those it skips. ``released``: the first ``count`` steps as they are, so that sampling begins far
    from noise.

    >>> sampling_alphas(10, 4, "respaced")[0], sampling_alphas(10, 4, "released")[0]
    ([0, 3, 6, 9], [0, 1, 2, 3])
    """
    alphas = linear_alphas(steps)
    if spacing == "released":
        return list(range(count)), alphas[:count]
    times = torch.linspace(0, steps - 1, count, dtype=torch.float64).round().long() if count > 1 else torch.tensor([-1])
    times = times % steps
    bars = torch.cat([alphas.new_ones(1), alphas.cumprod(0)[times]])
    return times.tolist(), bars[1:] / bars[:-1]
