"""Images whose change is to be recognised: quarter turns, blocks in another order, blocks turned
over, in 2-D and 3-D (Gidaris et al. 2018; Noroozi and Favaro 2016; Zhuang et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, permutations, product

import numpy as np
import torch
from torch import Tensor

from allograft.errors import SpecError


def turns(dims: int) -> tuple[tuple[tuple[int, int], int], ...]:
    """The classes of ``turn``: (axes of a plane, quarter turns), the identity first.

    4 of an image, and 10 of a volume: three planes by three turns. In the released code class 4 of
    8 repeats class 0, and classes 5 to 7 mirror the volume.

    >>> turns(2)
    (((0, 1), 0), ((0, 1), 1), ((0, 1), 2), ((0, 1), 3))
    >>> len(turns(3))
    10
    """
    planes = combinations(range(dims), 2)
    return (((0, 1), 0), *((plane, quarters) for plane in planes for quarters in (1, 2, 3)))


def turn(image: Tensor, label: int) -> Tensor:
    """The image turned as class ``label`` of ``turns``: (C, *spatial) -> the same shape where the
    plane's sides are equal, else with these sides exchanged by odd turns.

    Example:
        >>> turn(torch.tensor([[[0, 1], [2, 3]]]), 1).tolist()
        [[[2, 0], [3, 1]]]
    """
    (first, second), quarters = turns(image.ndim - 1)[label]
    return torch.rot90(image, quarters, (second + 1, first + 1))


@lru_cache
def permutation_set(size: int, count: int) -> Tensor:
    """Permutations of ``size`` things that are far apart: (min(count, size!), size) int64.

    Greedy from the identity: each next one has the largest Hamming distance to the nearest that is
    chosen; of several, the largest sum of distances to all, then the first in lexicographic order.
    The released table of 1000 maximises the sum alone, and holds pairs at distance 2.

    Example:
        >>> permutation_set(3, 3).tolist()
        [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    every = np.array(list(permutations(range(size))), np.int8)
    chosen, total = [0], np.zeros(len(every), np.int64)
    nearest = np.full(len(every), size, np.int64)
    while len(chosen) < min(count, len(every)):
        distance = (every != every[chosen[-1]]).sum(1)
        nearest, total = np.minimum(nearest, distance), total + distance
        chosen.append(int(np.argmax(nearest * (size * len(every) + 1) + total)))  # 0 apart = chosen: never again
    return torch.from_numpy(every[chosen].astype(np.int64))


def blocks(shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """The halves of each axis, combined: 2^D blocks in row-major order, as indices of (C,
    *spatial).

    Raises:
        SpecError: an odd side.
    """
    if any(side % 2 for side in shape):
        size = "x".join(map(str, shape))
        raise SpecError(
            f"blocks: an image of {size} cannot be cut into halves along each axis; set preprocessing: size, or "
            "patch, to even numbers"
        )
    halves = [(slice(0, side // 2), slice(side // 2, side)) for side in shape]
    return [(slice(None), *half) for half in product(*halves)]


def clear_centre(image: Tensor, share: float, value: float = 0.0) -> Tensor:
    """A gap between the blocks, so that edges do not tell which are neighbours: ``value`` in the
    middle ``2 * ceil(share * side / 2)`` pixels of each axis.

    Args:
        image: (C, *spatial), of even sides.
        share: of each side; 4 / 64 in the released jigsaw, 10 / 64 in its cube.

    Returns:
        (C, *spatial), a new tensor.

    Example:
        >>> clear_centre(torch.ones(1, 8), 0.25).tolist()
        [[1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0]]
    """
    cleared = image.clone()
    for axis, side in enumerate(image.shape[1:], 1):
        half = math.ceil(share * side / 2)
        cleared.narrow(axis, side // 2 - half, 2 * half).fill_(value)
    return cleared


def shuffle_blocks(image: Tensor, permutation: Sequence[int]) -> Tensor:
    """Position l of the result holds block ``permutation[l]`` of the image: (C, *spatial) -> the
    same shape; see ``blocks``.

    Example:
        >>> shuffle_blocks(torch.arange(4).view(1, 2, 2), (3, 2, 1, 0)).tolist()
        [[[3, 2], [1, 0]]]
    """
    places, shuffled = blocks(image.shape[1:]), torch.empty_like(image)
    if sorted(permutation) != list(range(len(places))):
        raise SpecError(f"shuffle_blocks: found {list(permutation)}; expected each of 0 to {len(places) - 1} once")
    for target, source in zip(places, permutation, strict=True):
        shuffled[target] = image[places[source]]
    return shuffled


def turn_blocks(image: Tensor, planes: Sequence[int]) -> Tensor:
    """Each block turned by 180 degrees in a plane: (C, *spatial) -> the same shape.

    Args:
        planes: one a block; 0 leaves it, 1 to 3 (in 2-D 1) count pairs of axes.

    Example:
        >>> turn_blocks(torch.arange(8).view(1, 2, 4), (0, 0, 1, 0)).tolist()
        [[[0, 1, 2, 3], [5, 4, 6, 7]]]
    """
    pairs, turned = list(combinations(range(1, image.ndim), 2)), image.clone()
    for block, plane in zip(blocks(image.shape[1:]), planes, strict=True):
        if plane:
            turned[block] = image[block].flip(pairs[plane - 1])
    return turned
