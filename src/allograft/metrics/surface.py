"""Surface Dice of two masks: the share of their surfaces, by area, that lies within a tolerance of the other one's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError

Codes = NDArray[np.uint8]
BALL = 400
"""Up to so many offsets within the tolerance are looked up one by one; beyond, a tree of points answers sooner."""


def surface_dice(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor, tolerance: float) -> float:
    """Surface Dice at a tolerance (Nikolov et al. 2018, "Deep learning to achieve clinically applicable segmentation"), in [0, 1].

    With S_A the surface of a mask and d(x, S) the distance from x to the nearest point of S::

        (|{x in S_P: d(x, S_T) <= tolerance}| + |{x in S_T: d(x, S_P) <= tolerance}|) / (|S_P| + |S_T|)

    |.| is an area in mm^2, in 2-D a length. As in the original, a surface is one element for each corner of the voxel grid whose 2^D
    voxels are not all alike; its area is that of marching cubes through the middles of the edges (where more than half of the voxels
    are inside, that of the inverted corner), and distances are those between such corners. Outside the image counts as background.
    Distances are compared in single precision, so that 3 voxels of 0.1 mm are 0.3 mm.

    Args:
        prediction: (*spatial) bool, 2-D or 3-D.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.
        tolerance: in mm, from 0 on.

    Returns:
        The share; 0 when one mask is empty, nan when both are.

    Raises:
        SpecError: the masks are not boolean, their shapes differ, they are neither 2-D nor 3-D, or spacing or tolerance does not fit.

    Example:
        >>> square = torch.zeros(8, 8, dtype=torch.bool)
        >>> square[2:6, 2:6] = True
        >>> surface_dice(square, square.roll(1, 0), (1.0, 1.0), 1.0), round(surface_dice(square, square.roll(2, 0), (1.0, 1.0), 1.0), 2)
        (1.0, 0.63)
    """
    sizes = _checked(prediction, target, spacing, tolerance)
    first, second = _cropped(prediction.cpu().numpy(), target.cpu().numpy())
    if not first.any() and not second.any():
        return math.nan
    codes = _codes(first), _codes(second)
    area = _measures(sizes)
    total = sum(float(np.bincount(code.ravel(), minlength=len(area)) @ area) for code in codes)
    edges = tuple((code - 1).astype(np.uint8) < len(area) - 2 for code in codes)  # 0 wraps to 255
    if not edges[0].any() or not edges[1].any():
        return 0.0
    near = 0.0
    for code, own, other in ((codes[0], edges[0], edges[1]), (codes[1], edges[1], edges[0])):
        found = code.ravel()[_within(own, other, sizes, tolerance)]
        near += float(np.bincount(found, minlength=len(area)) @ area)
    return near / total


def _within(own: NDArray[np.bool_], other: NDArray[np.bool_], sizes: tuple[float, ...], tolerance: float) -> NDArray[np.int64]:
    """Flat places of ``own`` that have one of ``other`` within the tolerance."""
    both = own & other  # distance 0: most of two good masks
    done, rest = np.flatnonzero(both), np.flatnonzero(own & ~both)
    if not len(rest) or tolerance < min(sizes) * (1 - 1e-6):
        return done
    offsets = _ball(sizes, float(tolerance), own.shape)
    if offsets is None:
        near = _by_tree(own.shape, rest, other, sizes, tolerance)
        return np.concatenate([done, rest[near]])
    reach = np.abs(offsets).max(axis=0)
    padded = np.pad(other, [(int(r), int(r)) for r in reach]).ravel()
    shape = [n + 2 * int(r) for n, r in zip(own.shape, reach, strict=True)]
    strides = np.cumprod([1, *shape[:0:-1]])[::-1]
    places = (np.stack(np.unravel_index(rest, own.shape), 1) + reach) @ strides
    parts = [done]
    for step in (offsets @ strides).tolist():
        hit = padded[places + step]
        parts.append(rest[hit])
        rest, places = rest[~hit], places[~hit]
        if not len(rest):
            break
    return np.concatenate(parts)


@lru_cache(maxsize=32)
def _ball(sizes: tuple[float, ...], tolerance: float, shape: tuple[int, ...]) -> NDArray[np.int64] | None:
    """Whole-voxel offsets within the tolerance, nearest first, without 0; None when they are too many."""
    reach = [min(int(tolerance / size * (1 + 1e-6)), n - 1) for size, n in zip(sizes, shape, strict=True)]
    if math.prod(2 * r + 1 for r in reach) > 2 * BALL:
        return None
    grid = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    distance = np.sqrt(((grid * np.array(sizes)) ** 2).sum(1))
    inside = (np.float32(distance) <= np.float32(tolerance)) & (distance > 0)
    order = np.argsort(distance[inside], kind="stable")
    ball: NDArray[np.int64] = grid[inside][order].reshape(-1, len(sizes))
    return ball if 0 < len(ball) <= BALL else None


def _by_tree(
    shape: tuple[int, ...], places: NDArray[np.int64], other: NDArray[np.bool_], sizes: tuple[float, ...], tolerance: float
) -> NDArray[np.bool_]:
    from scipy.spatial import KDTree

    points = np.stack(np.unravel_index(places, shape), 1) * np.array(sizes)
    distance, _ = KDTree(np.argwhere(other) * np.array(sizes)).query(points, distance_upper_bound=tolerance * (1 + 1e-6) + 1e-12)
    near: NDArray[np.bool_] = np.asarray(distance, dtype=np.float32) <= np.float32(tolerance)
    return near


def _codes(mask: NDArray[np.bool_]) -> Codes:
    """One number a corner of the grid, one bit a voxel around it; the first voxel has the highest bit."""
    code: Codes = mask.view(np.uint8)
    for axis, bits in zip(range(mask.ndim - 1, -1, -1), (1, 2, 4), strict=False):
        length = code.shape[axis]
        before, after = ((slice(None),) * axis + (part,) for part in (slice(0, length - 1), slice(1, length)))
        code = ((code[before] << bits) | code[after]).astype(np.uint8, copy=False)
    return code


@lru_cache(maxsize=32)
def _measures(sizes: tuple[float, ...]) -> NDArray[np.float64]:
    """Area in mm^2 (length in mm) of each code for a voxel size."""
    if len(sizes) == 2:
        rows, columns = sizes
        corner = math.hypot(rows, columns) / 2
        lengths = {1: corner, 2: corner, 3: columns, 4: corner, 5: rows, 6: 2 * corner, 7: corner}
        return np.array([0.0, *lengths.values(), *reversed(lengths.values()), 0.0])
    x, y, z = sizes
    areas: NDArray[np.float64] = np.sqrt(((_normals() * np.array([y * z, x * z, x * y])) ** 2).sum(-1)).sum(-1)
    return areas


@lru_cache(maxsize=1)
def _normals() -> NDArray[np.float64]:
    """(256, T, 3): half the cross products of the sides of each code's triangles, for voxels of 1 mm; made once a process."""
    from skimage.measure import marching_cubes

    table = np.zeros((256, 5, 3))
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code
        cell = np.array([fewer >> bit & 1 for bit in range(7, -1, -1)], dtype=np.float64).reshape(2, 2, 2)
        points, triangles, _, _ = marching_cubes(cell, 0.5, method="lorensen", allow_degenerate=False)
        a, b, c = np.round(2 * points[triangles]).transpose(1, 0, 2) / 2  # the middles of the edges, exactly
        table[code, : len(triangles)] = np.cross(b - a, c - a) / 2
    return table


def _cropped(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks in the box that holds them, and one voxel of background around."""
    box, rest = [], first | second
    for axis in range(first.ndim):
        held = np.flatnonzero(rest.any(axis=tuple(other for other in range(first.ndim) if other != axis)))
        box.append(slice(held[0], held[-1] + 1) if len(held) else slice(0, 0))
    return np.pad(first[tuple(box)], 1), np.pad(second[tuple(box)], 1)


def _checked(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor, tolerance: float) -> tuple[float, ...]:
    if prediction.shape != target.shape:
        raise SpecError(f"prediction has shape {tuple(prediction.shape)} but target {tuple(target.shape)}; bring them to one grid")
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask.dtype != torch.bool:
            raise SpecError(f"{name} is {mask.dtype}, expected torch.bool; threshold it or compare it with a class first")
    if prediction.ndim not in (2, 3):
        raise SpecError(f"masks have {prediction.ndim} axes, expected 2 or 3")
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != prediction.ndim or not all(0 < size < math.inf for size in sizes):
        raise SpecError(f"spacing is {list(sizes)}, expected {prediction.ndim} positive numbers in mm, one per axis of the mask")
    if not 0 <= tolerance < math.inf:
        raise SpecError(f"tolerance is {tolerance}, expected a number of mm from 0 on")
    return sizes
