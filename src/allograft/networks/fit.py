"""A stored tensor made to fit a network of other channels, dimensions or image size: pure
functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

TABLES = ("pos_embed", "position_embeddings", "relative_position_bias_table")
PATCHES = ("patch_embed.proj.weight", "stage.proj.weight")
"""Convolutions that make one token of each patch: timm's, and Swin UNETR's here."""


def fitted(name: str, value: Tensor, like: Tensor, *, in_channels: int | None, dims: int) -> tuple[Tensor, str] | None:
    """A stored tensor in the shape of ``like``, and how it got there; None when no way is known.

    Args:
        name: of the tensor in the network.
        in_channels: channels of the network's images: only convolutions that take the image itself
            are given other channels.
        dims: spatial dimensions of the network.

    Example:
        >>> found = fitted("stem.weight", torch.ones(4, 3, 3, 3), torch.ones(4, 1, 3, 3), in_channels=1, dims=2)
        >>> found[0].shape, found[1], found[0].unique().item()
        (torch.Size([4, 1, 3, 3]), 'channels 3 -> 1', 3.0)
    """
    if name.endswith(TABLES):
        table = resampled(value, like, dims)
        return None if table is None else (table, "table resampled")
    if like.ndim < 4:
        return None
    steps = []
    if value.ndim == 4 and like.ndim == 5:
        value = inflated(value, like.shape[2])
        steps.append("2-D -> 3-D")
    if name.endswith(PATCHES) and value.ndim == like.ndim and value.shape[2:] != like.shape[2:]:
        steps.append(f"patch {_sides(value)} -> {_sides(like)}")
        value = repatched(value, like.shape[2:])
    if value.ndim == like.ndim and value.shape[1] != like.shape[1] == in_channels:
        steps.append(f"channels {value.shape[1]} -> {like.shape[1]}")
        value = rechannelled(value, like.shape[1])
    return (value, ", ".join(steps)) if value.shape == like.shape else None


def rechannelled(weight: Tensor, channels: int) -> Tensor:
    """Mean over the stored input channels, repeated: (O, I, *kernel) -> (O, channels, *kernel).

    Scaled by I / channels, so that an image that shows the same in every channel has the same
    response as before.
    """
    mean = weight.mean(1, keepdim=True) * (weight.shape[1] / channels)
    return mean.expand(-1, channels, *weight.shape[2:]).clone()


def repatched(weight: Tensor, size: Sequence[int]) -> Tensor:
    """A patch embedding for patches of another size: (O, I, *kernel) -> (O, I, *size).

    Interpolated linearly, and scaled so that its sums, and with them the tokens of an even image,
    stay.

    >>> repatched(torch.ones(1, 1, 4, 4), (2, 2)).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    mode = "bilinear" if len(size) == 2 else "trilinear"
    made = F.interpolate(weight.float(), size=tuple(size), mode=mode, align_corners=False, antialias=len(size) == 2)
    dims = tuple(range(2, weight.ndim))
    scale = weight.float().mean(dims, keepdim=True) - made.mean(dims, keepdim=True)
    return ((made + scale) * (weight[0, 0].numel() / made[0, 0].numel())).to(weight.dtype)


def _sides(weight: Tensor) -> str:
    return "x".join(map(str, weight.shape[2:]))


def inflated(weight: Tensor, depth: int) -> Tensor:
    """(O, I, H, W) -> (O, I, depth, H, W): repeated along the new first axis and divided by its
    length (Carreira and Zisserman 2017).

    A volume that does not change along that axis has the response that its planes had.
    """
    return (weight[:, :, None] / depth).expand(-1, -1, depth, -1, -1).clone()


def resampled(table: Tensor, like: Tensor, dims: int) -> Tensor | None:
    """A position table for another grid: (1, N, C), class token first if there is one, or (N,
    heads) of relative positions.

    Interpolated over the grid: bicubic in 2-D, linear in 3-D. None where N is no square (cube).
    """
    if table.ndim != like.ndim or table.shape[-1] != like.shape[-1] or table.ndim not in (2, 3):
        return None
    rows, wanted = table.reshape(-1, table.shape[-1]), like.shape[-2]
    old, new = _grid(len(rows), dims), _grid(wanted, dims)
    if old is None or new is None or (new[1] and not old[1]):
        return None
    (side, tokens), (goal, kept) = old, new
    grid = rows[tokens:].T.reshape(1, rows.shape[1], *(side,) * dims).float()
    mode = "bicubic" if dims == 2 else "trilinear"
    moved = F.interpolate(grid, size=(goal,) * dims, mode=mode, align_corners=False).flatten(2)[0].T.to(table.dtype)
    whole = moved if not kept else torch.cat([rows[:kept], moved])
    return whole.reshape(like.shape)


def _grid(rows: int, dims: int) -> tuple[int, int] | None:
    """(side, tokens before the grid) of a table, with one token or none."""
    for tokens in (0, 1):
        side = round((rows - tokens) ** (1 / dims))
        if side > 0 and side**dims == rows - tokens:
            return side, tokens
    return None
