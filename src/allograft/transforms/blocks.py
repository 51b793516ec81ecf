"""Boxes on an image's grid, and where the pixels of many of them lie, all at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Windows:
    """Boxes on the image's grid.

    Args:
        start, size: (N, D) int64; the first voxel, and the voxels along each axis.
    """

    start: Tensor
    size: Tensor

    def inside(self, shape: Sequence[int]) -> Tensor:
        """Whether a voxel lies in any of them: (*shape) bool.

        >>> Windows(torch.tensor([[1]]), torch.tensor([[2]])).inside((4,)).tolist()
        [False, True, True, False]
        """
        inside = torch.zeros(tuple(shape), dtype=torch.bool)
        for start, size in zip(self.start.tolist(), self.size.tolist(), strict=True):
            inside[tuple(slice(first, first + length) for first, length in zip(start, size, strict=True))] = True
        return inside


def permutations(chances: NDArray[np.float64], length: Indices) -> Indices:
    """The order of the chances of each block, one block after another: blocks of one length are
    sorted together, each in a row of its own."""
    order = np.empty(len(chances), np.int64)
    begins = length.cumsum() - length
    for pixels in np.unique(length):
        rows = begins[length == pixels, None] + np.arange(pixels)
        order[rows] = chances[rows].argsort(1)
    return order


def pixels_of(blocks: Windows, shape: Sequence[int], channels: int) -> tuple[Indices, Indices]:
    """The flat places (C, *spatial) of the pixels of each block, one block after another, row-major
    in each; and for each of these pixels how many lie in earlier blocks.

    Blocks of one size have the same pixels but for where they start, so divisions are done once a
    size.
    """
    strides = np.array([math.prod(shape[axis + 1 :]) for axis in range(len(shape))])
    size, first = blocks.size.numpy(), blocks.start.numpy() @ strides
    radix = (int(size.max()) + 1) ** np.arange(len(shape))
    _, kind, kinds = np.unique(size @ radix, return_index=True, return_inverse=True)
    offsets, lengths = _offsets(size[kind], [math.prod(shape), *strides], channels)
    length = lengths[kinds]
    before = length.cumsum() - length
    begins = lengths.cumsum() - lengths
    rows = np.repeat(begins[kinds] - before, length)
    rows += np.arange(len(rows))
    return offsets[rows] + np.repeat(first, length), np.repeat(before, length)


def _offsets(sizes: Indices, strides: Sequence[int], channels: int) -> tuple[Indices, Indices]:
    """The places of the pixels of a block of each size that starts at 0, one block after another,
    and how many each has."""
    extents = np.concatenate([np.full((len(sizes), 1), channels), sizes], 1)
    length = extents.prod(1)
    number = np.repeat(np.arange(len(length)), length)
    left = np.arange(len(number)) - (length.cumsum() - length)[number]
    offsets = np.zeros_like(left)
    for axis in reversed(range(extents.shape[1])):
        rest, inside = np.divmod(left, extents[number, axis])
        offsets += inside * strides[axis]
        left = rest
    return offsets, length
