"""Surface Dice of two masks: the share of their surfaces, by area, that lies within a tolerance of
the other one's."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError
from allograft.metrics.masks import box_of, check_masks, check_spacing

Codes = NDArray[np.uint8]
Places = NDArray[np.int64]
BALL = 400
"""Up to so many offsets within the tolerance are looked up one by one; beyond, a tree of points
answers sooner."""


def surface_dice(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor, tolerance: float) -> float:
    """Surface Dice at a tolerance (Nikolov et al. 2018, "Deep learning to achieve clinically
    applicable segmentation"), in [0, 1].

    With S_A the surface of a mask and d(x, S) the distance from x to the nearest point of S::

        (|{x in S_P: d(x, S_T) <= tolerance}| + |{x in S_T: d(x, S_P) <= tolerance}|) / (|S_P| + |S_T|)

    where |.| is an area in mm^2, in 2-D a length. As in the original, a surface is one element for
    each corner of the voxel grid whose 2^D voxels are not all alike; its area is that of marching
    cubes through the middles of the edges (where more than half of the voxels are inside, that of
    the inverted corner), and distances are those between such corners. Outside the image counts as
    background. Distances are compared in single precision, so that 3 voxels of 0.1 mm are 0.3 mm.

    Args:
        prediction: (*spatial) bool, 2-D or 3-D.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.
        tolerance: in mm, from 0 on.

    Returns:
        The share; 0 when one mask is empty, nan when both are.

    Raises:
        SpecError: the masks are not boolean, their shapes differ, they are neither 2-D nor 3-D, or
            spacing or tolerance does not fit.

    Example:
        >>> import torch
        >>> square = torch.zeros(8, 8, dtype=torch.bool)
        >>> square[2:6, 2:6] = True
        >>> surface_dice(square, square.roll(1, 0), (1.0, 1.0),
        ...     1.0), round(surface_dice(square, square.roll(2, 0), (1.0, 1.0), 1.0), 2)
        (1.0, 0.63)
    """
    sizes = _checked(prediction, target, spacing, tolerance)
    masks = prediction.cpu().numpy(), target.cpu().numpy()
    either = masks[0] | masks[1]
    if not either.any():
        return math.nan
    box = box_of(either)
    steps = _ball(sizes, float(tolerance), tuple(part.stop - part.start for part in box))
    reach = [0] * either.ndim if steps is None else np.abs(steps).max(axis=0, initial=0).tolist()
    # no step from a surface leaves the array or its row
    margin = [(1 + far, 1 + far) for far in reach]
    padded = [np.pad(mask[box].view(np.uint8), margin) for mask in masks]
    codes = [_codes(mask) for mask in padded]
    area = _measures(sizes)
    edges = [code - np.uint8(1) < len(area) - 2 for code in codes]  # 0 wraps to 255
    places = [np.flatnonzero(edge) for edge in edges]
    if not len(places[0]) or not len(places[1]):
        return 0.0
    near = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        count = np.bincount(codes[own][places[own]], minlength=len(area))
        if steps is None:
            far = _far_by_tree(padded[own].shape, places[own], places[other], sizes, tolerance)
        else:
            far = _far(places[own], edges[other], steps @ _strides(padded[own].shape))
        total += float(count @ area)
        near += float((count - np.bincount(codes[own][far], minlength=len(area))) @ area)
    return near / total


def _far(places: Places, other: NDArray[np.bool_], steps: Places) -> Places:
    """Those of the flat ``places`` that have none of ``other`` on them or a step away."""
    rest = places[~other[places]]  # distance 0: most of two good masks
    for step in steps.tolist():
        rest = rest[~other[rest + step]]
        if not len(rest):
            break
    return rest


def _far_by_tree(
    shape: tuple[int, ...], places: Places, others: Places, sizes: tuple[float, ...], tolerance: float
) -> Places:
    """Those of the flat ``places`` of a grid that are farther from every one of ``others`` than the
    tolerance."""
    from scipy.spatial import KDTree

    own, other = (np.stack(np.unravel_index(flat, shape), 1) * np.array(sizes) for flat in (places, others))
    distance, _ = KDTree(other).query(own, distance_upper_bound=tolerance * (1 + 1e-6) + 1e-12)
    return places[np.asarray(distance, dtype=np.float32) > np.float32(tolerance)]


@lru_cache(maxsize=32)
def _ball(sizes: tuple[float, ...], tolerance: float, shape: tuple[int, ...]) -> Places | None:
    """(N, D) whole-voxel offsets within the tolerance, nearest first, without 0 and without those
    that leave a box of ``shape`` voxels; None when they are too many."""
    reach = [min(int(tolerance / size * (1 + 1e-6)), n) for size, n in zip(sizes, shape, strict=True)]
    if math.prod(2 * r + 1 for r in reach) > 2 * BALL:
        return None
    grid = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))))
    distance = np.sqrt(((grid * np.array(sizes)) ** 2).sum(1))
    inside = (np.float32(distance) <= np.float32(tolerance)) & (distance > 0)
    ball: Places = grid[inside][np.argsort(distance[inside], kind="stable")]
    return ball if len(ball) <= BALL else None


def _strides(shape: tuple[int, ...]) -> Places:
    """How far apart in the flat array the neighbours along each axis are."""
    return np.cumprod([1, *shape[:0:-1]], dtype=np.int64)[::-1]


def _codes(mask: Codes) -> Codes:
    """Flat, one number a corner of the grid, one bit a voxel around it; the first voxel has the
    highest bit.

    A corner has the place of its first voxel. Background around the mask keeps what runs over the
    end of a row at 0. One long row goes fastest, and NumPy multiplies bytes faster than it shifts
    them.
    """
    code = mask.ravel()
    for stride, power in zip(_strides(mask.shape)[::-1].tolist(), (2, 4, 16), strict=False):
        code = code[:-stride] * np.uint8(power) + code[stride:]
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
    """(256, T, 3): half the cross products of the sides of each code's triangles, for voxels of 1
    mm; made once a process."""
    from skimage.measure import marching_cubes

    table = np.zeros((256, 5, 3))
    for code in range(1, 255):
        fewer = code if code.bit_count() <= 4 else 255 - code
        cell = np.array([fewer >> bit & 1 for bit in range(7, -1, -1)], dtype=np.float64).reshape(2, 2, 2)
        points, triangles, _, _ = marching_cubes(cell, 0.5, method="lorensen", allow_degenerate=False)
        # the middles of the edges, exactly
        a, b, c = np.round(2 * points[triangles]).transpose(1, 0, 2) / 2
        table[code, : len(triangles)] = np.cross(b - a, c - a) / 2
    return table


def _checked(
    prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor, tolerance: float
) -> tuple[float, ...]:
    check_masks(prediction, target)
    if prediction.ndim not in (2, 3):
        raise SpecError(f"masks have {prediction.ndim} axes, expected 2 or 3")
    sizes = check_spacing(spacing, prediction.ndim)
    if not 0 <= tolerance < math.inf:
        raise SpecError(f"tolerance is {tolerance}, expected a number of mm from 0 on")
    return sizes
