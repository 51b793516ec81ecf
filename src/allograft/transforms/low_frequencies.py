"""Low frequencies on the half spectrum of an image: which those of a window are, and their
waves."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Window = Literal["circle", "square"]


def low_frequencies(height: int, width: int, beta: float, window: Window) -> Tensor:
    """The window on the half spectrum of ``rfft2``: (H, W // 2 + 1) bool, not shifted."""
    rows = (torch.fft.fftfreq(height, dtype=torch.float64) * height).round()[:, None].abs()
    columns = torch.arange(width // 2 + 1, dtype=torch.float64)
    radius = beta * min(height, width)
    if window == "square":
        return torch.maximum(rows, columns) <= math.floor(radius)
    return torch.sqrt(rows**2 + columns**2) < radius


def disc_block(height: int, width: int, beta: float) -> tuple[list[int], int]:
    """Rows (frequencies -r to r, as indices) and the number of columns that hold the disc."""
    r = max(math.ceil(beta * min(height, width)) - 1, 0)
    return [row % height for row in range(-r, r + 1)], min(r, width // 2) + 1 if beta > 0 else 0


@lru_cache(maxsize=16)
def disc(height: int, width: int, beta: float) -> Tensor:
    """The disc within its block: (2 r + 1, c) bool."""
    rows, columns = disc_block(height, width, beta)
    return low_frequencies(height, width, beta, "circle")[rows, :columns]


def low_block(image: Tensor, rows: int, columns: int) -> Tensor:
    """The frequencies -r to r by 0 to c - 1 of (..., H, W): (..., 2 r + 1, c). Only the kept
    columns are transformed along the height."""
    spectrum = torch.fft.fft(torch.fft.rfft(image)[..., :columns], dim=-2)
    r = rows // 2
    return torch.cat([spectrum[..., image.shape[-2] - r :, :], spectrum[..., : r + 1, :]], dim=-2)


@lru_cache(maxsize=16)
def waves(height: int, width: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """exp(2 pi i u r / H) / H as (H, 2 r + 1); cosine and negative sine over W of each v in turn as
    (2 c, W), twice where v is -v too."""
    u, v = torch.arange(-(rows // 2), rows // 2 + 1, dtype=torch.float64), torch.arange(columns, dtype=torch.float64)
    angle = 2 * math.pi * torch.outer(torch.arange(height, dtype=torch.float64), u) / height
    turn = 2 * math.pi * torch.outer(v, torch.arange(width, dtype=torch.float64)) / width
    share = torch.where(v > 0, 2.0, 1.0).to(torch.float64)[:, None] / width
    across = torch.stack([share * turn.cos(), -share * turn.sin()], dim=1).flatten(0, 1)
    return torch.polar(torch.full_like(angle, 1 / height), angle), across


def spectrum_and_phase(image: Tensor) -> tuple[Tensor, Tensor]:
    """(..., H, W) -> two of (..., H, W // 2 + 1), complex: F, and F / |F|."""
    spectrum = torch.fft.rfft2(image.to(torch.promote_types(image.dtype, torch.float32)))
    # sgn is F / |F| without dividing by a tiny |F|; it is 0 where F is 0, where the formula's phase
    # 0 wants 1.
    return spectrum, torch.where(spectrum == 0, torch.ones_like(spectrum), torch.sgn(spectrum))
