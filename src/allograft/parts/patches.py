"""Images as grids of square patches, in 2-D and 3-D: what pre-trainings of transformers share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def in_patches(image: Tensor, patch: int) -> Tensor:
    """(B, C, *spatial) -> (B, N, C, *patch), patches in row-major order.

    >>> in_patches(torch.arange(8.0).view(1, 1, 2, 4), 2)[0, 1, 0].tolist()
    [[2.0, 3.0], [6.0, 7.0]]
    """
    grid = [side // patch for side in image.shape[2:]]
    dims = len(grid)
    split = image.reshape(*image.shape[:2], *(n for side in grid for n in (side, patch)))
    places, inside = [2 + 2 * axis for axis in range(dims)], [3 + 2 * axis for axis in range(dims)]
    return split.permute(0, *places, 1, *inside).reshape(len(image), math.prod(grid), -1, *(patch,) * dims)


def from_patches(patches: Tensor, grid: Sequence[int]) -> Tensor:
    """Back to the image: (B, N, C, *patch) -> (B, C, *spatial).

    >>> image = torch.rand(2, 3, 4, 6)
    >>> bool((from_patches(in_patches(image, 2), (2, 3)) == image).all())
    True
    """
    dims = len(grid)
    laid = patches.unflatten(1, tuple(grid))
    order = [axis for number in range(dims) for axis in (1 + number, 2 + dims + number)]
    lengths = [side * length for side, length in zip(grid, patches.shape[3:], strict=True)]
    return laid.permute(0, 1 + dims, *order).reshape(len(patches), -1, *lengths)


def pixels_of(values: Tensor, patch: int) -> Tensor:
    """What a linear layer on each patch's feature says of its pixels: (B, C * patch^D, *grid) ->
    (B, C, *spatial)."""
    grid = values.shape[2:]
    rows = values.flatten(2).mT.unflatten(2, (-1, *(patch,) * len(grid)))
    return from_patches(rows, grid)


def enlarged(grid: Tensor, factor: int) -> Tensor:
    """Each cell repeated along every axis: (B, *grid) -> (B, *grid * factor).

    >>> enlarged(torch.tensor([[0, 1]]), 2).tolist()
    [[0, 0, 1, 1]]
    """
    for axis in range(1, grid.ndim):
        grid = grid.repeat_interleave(factor, axis)
    return grid


def permutations(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Permutations of ``size`` things: (count, size) int64, all of them at once."""
    return torch.rand(count, size, generator=generator, dtype=torch.float64).argsort(1)
