"""Distances between the surfaces of two masks: three exact searches, and which of them answers
soonest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Flat = NDArray[np.intp]
Distances = NDArray[np.float64]
TINY, SPARSE, LARGE = 8192, 8, 32768
"""A transform answers soonest in a box of fewer than ``TINY`` voxels, or where more than one in
``SPARSE`` of them is on a surface; columns do in a box of at least ``LARGE`` voxels in 3-D."""
REACH = 8
"""How many columns away a voxel looks for the other surface, in the finer direction."""
LEAF = 48
"""Points in a leaf of the tree: the fastest of 4 to 128."""


def surface_of(mask: Mask) -> Mask:
    """The mask minus its erosion by the cross-shaped element; outside the image is background.

    >>> surface_of(np.ones((3, 4), bool)).astype(int).tolist()
    [[1, 1, 1, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    """
    surface = mask.copy()
    for axis in range(mask.ndim):
        inner, whole = surface.swapaxes(0, axis), mask.swapaxes(0, axis)
        inner[1:] &= whole[:-1]
        inner[:-1] &= whole[1:]
        inner[:1] = inner[-1:] = False
    surface ^= mask  # the mask without its inner voxels
    return surface


def distances_between(first: Mask, second: Mask, spacing: Sequence[float]) -> tuple[Distances, Distances]:
    """Distance in mm from each voxel of one surface to the nearest of the other, both ways.

    Args:
        first: (*spatial), N voxels of it.
        second: (*spatial), M voxels of the same box.
        spacing: voxel size in mm, one number per axis.

    Returns:
        (N,) and (M,), in the order of the voxels in memory; inf to a surface without voxels.
    """
    places = np.flatnonzero(first), np.flatnonzero(second)
    counts = len(places[0]), len(places[1])
    if min(counts) and first.ndim == 3 and first.size >= LARGE:
        search = by_columns
    elif min(counts) and first.size >= TINY and SPARSE * sum(counts) <= first.size:
        search = by_tree
    else:
        search = by_transform
    return search(places[0], places[1], second, spacing), search(places[1], places[0], first, spacing)


def by_transform(places: Flat, others: Flat, mask: Mask, spacing: Sequence[float]) -> Distances:
    """Distance of each of the flat ``places`` to the nearest of ``others``, those of ``mask``, by a
    transform of the whole box: its time goes by the voxels."""
    from scipy.ndimage import distance_transform_edt

    if not len(places):
        return np.zeros(0)
    if not len(others):  # the transform would measure to a point outside the image
        return np.full(len(places), np.inf)
    distance: Distances = distance_transform_edt(~mask, sampling=spacing)
    return distance.ravel()[places]


def by_tree(places: Flat, others: Flat, mask: Mask, spacing: Sequence[float]) -> Distances:
    """The same by a k-d tree of ``others``: its time goes by the surfaces, and by how far apart
    they lie.

    The tree says which voxel is nearest; the distance to it is then computed as the transform does.
    Where two voxels are equally near but for rounding, the last bit may differ.
    """
    from scipy.spatial import KDTree

    mm, apart = np.asarray(spacing), ~mask.ravel()[places]
    own, other = (np.stack(np.unravel_index(flat, mask.shape), 1) for flat in (places[apart], others))
    tree = KDTree(other * mm, leafsize=LEAF, balanced_tree=False, compact_nodes=False)
    _, nearest = tree.query(own * mm)
    distance = np.zeros(len(places))
    distance[apart] = np.sqrt((((own - other[nearest]) * mm) ** 2).sum(1))
    return distance


def by_columns(places: Flat, others: Flat, mask: Mask, spacing: Sequence[float]) -> Distances:
    """The same in 3-D for surfaces that mostly lie close, to the last bit as ``by_tree``.

    A sweep along the axis of the finest voxels tells each voxel of the box how far the nearest of
    ``others`` in its column is. A place looks through the columns around its own, nearest first,
    until the next one is farther away than what it has. Places with nothing within ``REACH``
    columns are left to the tree.
    """
    axis = int(np.argmin(spacing))
    steps = steps_in_column(np.pad(np.moveaxis(mask, axis, 0), ((0, 0), (REACH, REACH), (REACH, REACH))))
    squares = (np.arange(len(steps) + 1) * spacing[axis]) ** 2
    squares[-1] = np.inf  # of a column without any
    aside = [index + REACH for index in np.unravel_index(places, mask.shape)]
    along = aside.pop(axis) - REACH
    flat, rest = np.ravel_multi_index((along, *aside), steps.shape), np.arange(len(places))
    square, reached = np.full(len(places), np.inf), np.full(len(places), np.inf)
    first, second = (size for k, size in enumerate(spacing) if k != axis)
    for terms, shifts in columns_within_reach((first, second), steps.shape[2]):
        still = reached > sum(terms)
        if not still.all():
            square[rest] = reached
            rest, flat, reached = rest[still], flat[still], reached[still]
        count = reduce(np.minimum, (steps.take(flat + shift) for shift in shifts))
        # summed in the order of the axes, as the transform does
        parts: list[Any] = [*terms[:axis], squares.take(count), *terms[axis:]]
        reached = np.minimum(reached, parts[0] + parts[1] + parts[2])
    square[rest] = reached
    distance: Distances = np.sqrt(square)
    far = distance > REACH * min(first, second)
    if far.any():
        distance[far] = by_tree(places[far], others, mask, spacing)
    return distance


def steps_in_column(mask: Mask) -> NDArray[np.unsignedinteger]:
    """Of each voxel the number of steps along the first axis to the nearest voxel of the mask; the
    length of the axis where its column holds none.

    >>> steps_in_column(np.array([[True, False], [False, False], [False, False]])).tolist()
    [[0, 3], [1, 3], [2, 3]]
    """
    kind = np.min_scalar_type(len(mask) + 1).type
    steps = np.where(mask, kind(0), kind(len(mask)))
    for n in range(1, len(mask)):
        np.minimum(steps[n], steps[n - 1] + kind(1), out=steps[n])
    for n in range(len(mask) - 1, 0, -1):
        np.minimum(steps[n - 1], steps[n] + kind(1), out=steps[n - 1])
    return steps


@lru_cache(maxsize=32)
def columns_within_reach(across: tuple[float, float], row: int) -> list[tuple[tuple[float, float], list[int]]]:
    """Nearest first: the squares of both components of a column's distance in mm, and the shifts of
    a flat index, up to four, that lead to the columns so far away."""
    grid = [(first, second) for first in range(REACH + 1) for second in range(REACH + 1)]
    near = [
        (
            ((first * across[0]) ** 2, (second * across[1]) ** 2),
            sorted({up * first * row + right * second for up in (1, -1) for right in (1, -1)}),
        )
        for first, second in grid
        if math.hypot(first * across[0], second * across[1]) <= REACH * min(across)
    ]
    return sorted(near, key=lambda column: sum(column[0]))
