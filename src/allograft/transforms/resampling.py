"""An image and its label maps on another grid: resampled together, or cropped; what lies outside
the input is not labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resample(
    image: Tensor, labels: Mapping[str, Tensor], theta: Tensor, size: tuple[int, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The image (C, *spatial) and maps (K, *spatial) at the places that ``theta`` of
    ``affine_grid`` names, (C, *size) and (K, *size): bilinear for the image and for floating-point
    maps, nearest for the others."""
    grid = F.affine_grid(theta[None].to(image), [1, 1, *size], align_corners=False)
    flat, outside = _nearest_voxels(grid[0], image.shape[1:])
    moved = {}
    for name, label in labels.items():
        if label.is_floating_point():
            value = F.grid_sample(label[None], grid.to(label), padding_mode="border", align_corners=False)[0]
        else:  # by index, because grid_sample has no integers and float32 does not hold all of them
            value = label.flatten(1)[:, flat].reshape(len(label), *size)
        moved[name] = value.masked_fill(outside, ignored(label))
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0], moved


def _nearest_voxels(grid: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The flat index of the voxel nearest to each place of the grid, (prod(size),), and where that
    lies outside, (*size) bool."""
    flat = torch.zeros(grid.shape[:-1], dtype=torch.int64, device=grid.device)
    outside = torch.zeros(grid.shape[:-1], dtype=torch.bool, device=grid.device)
    for axis, count in enumerate(shape):
        index = (((grid[..., len(shape) - 1 - axis] + 1) * count - 1) / 2).round().long()
        outside |= (index < 0) | (index >= count)
        flat = flat * count + index.clamp(0, count - 1)
    return flat.flatten(), outside


def crop(tensor: Tensor, start: Sequence[int], size: Sequence[int], value: float | bool) -> Tensor:
    """(C, *spatial) -> (C, *size) from the voxel ``start`` on, with ``value`` outside the input."""
    pads: list[int] = []
    for axis, (first, wanted) in enumerate(zip(start, size, strict=True), start=1):
        last, given = first + wanted, tensor.shape[axis]
        low, high = min(max(first, 0), given), max(min(last, given), 0)
        inside = max(high - low, 0)
        before = min(max(-first, 0), wanted - inside)
        tensor = tensor.narrow(axis, low, inside)
        pads = [before, wanted - inside - before, *pads]
    return F.pad(tensor, pads, value=value) if any(pads) else tensor


def ignored(label: Tensor) -> float | bool:
    """What says "not labelled" in a map of this type."""
    if label.dtype == torch.bool:
        return False
    return math.nan if label.is_floating_point() else -100
