"""Where two files meet: do they lie at the same place? What is only permuted or flipped is turned,
the rest is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from allograft.cohort.picture import Grid, Picture
from allograft.errors import ImageError

TOLERANCE = 0.1
"""Two grids are one when no corner is further off than this share of the smallest voxel side."""


def aligned(other: Picture, grid: Grid, name: Path | str, image: Path | str) -> Picture:
    """Bring a picture onto the axes of an image that it belongs to, without resampling.

    Axes are permuted and reversed as the two affines say; a sparse picture is filled up with 0. Two
    pictures without an affine need the same shape. A picture without one meets an image with one
    only where both are rows and columns as shown (a PNG drawn on a DICOM plane): the axes of a
    voxel grid and of a picture are not the same.

    Args:
        other: a mask, region, paired image, channel or prediction.
        grid: where the image lies.
        name: the file of ``other``, for errors.
        image: the image, for errors.

    Returns:
        The picture, on ``grid``.

    Raises:
        ImageError: another shape, place, direction or voxel size, with the distance in mm.

    >>> there = Grid((3, 2), np.diag([1.0, 2.0, 1.0, 1.0]))
    >>> swapped = Picture(np.arange(6).reshape(1, 2, 3), np.diag([1.0, 2.0, 1.0, 1.0])[:, [1, 0, 2, 3]])
    >>> aligned(swapped, there, "mask.nii.gz", "image.nii.gz").array[0].tolist()
    [[0, 3], [1, 4], [2, 5]]
    """
    if grid.affine is None or other.affine is None:
        _check_shapes(other.grid, grid, name, image)
        return _on(grid, other, other.array)
    if other.sparse and len(grid.shape) == 2:
        return _on(grid, other, aligned(other, _as_slice(grid, other.affine), name, image).array[..., 0])
    axes, flips = _turn(other, grid, name, image)
    array = np.flip(other.array.transpose(0, *(1 + axis for axis in axes)), tuple(1 + axis for axis in flips))
    turned = _turned(other.affine, array.shape[1:], axes, flips)
    if other.sparse:
        array, turned = _filled(array, turned, grid, name, image)
    _check_place(Grid(array.shape[1:], turned, other.dropped, other.thickness), grid, name, image)
    return _on(grid, other, np.ascontiguousarray(array))


def _on(grid: Grid, other: Picture, array: np.ndarray) -> Picture:
    placed = replace(other, array=array, affine=grid.affine, sparse=False)
    return replace(placed, dropped=grid.dropped, thickness=grid.thickness, shown=grid.shown)


def shift(affine: np.ndarray, shape: tuple[int, ...]) -> float:
    """By how many mm a distance within the grid can be wrong when its axes are taken as at right
    angles.

    For two axes of lengths a and b in mm and an angle t between them: min(a, b) |cos t|, which
    bounds the difference between sqrt(a^2 + b^2 + 2 a b cos t) and sqrt(a^2 + b^2).

    >>> round(shift(np.array([[1.0, 0.1, 0, 0], [0, 1.0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), (10, 31, 12)), 2)
    0.9
    """
    columns = affine[:3, : len(shape)]
    steps = np.linalg.norm(columns, axis=0)
    lengths = steps * (np.array(shape) - 1)
    cosines = np.abs((columns / steps).T @ (columns / steps))
    return float((cosines * np.minimum(*np.meshgrid(lengths, lengths)))[~np.eye(len(shape), dtype=bool)].max())


def check_right_angles(name: Path | str, affine: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuse a sheared grid (a tilted gantry, say), along whose axes distances are not distances in
    mm.

    Axes that are off by less than one voxel over the whole image are taken as at right angles, so
    that rounded headers pass.

    Raises:
        ImageError: with the error in mm and the angle.
    """
    skewed_mm = shift(affine, shape)
    columns = affine[:3, : len(shape)]
    lengths = np.linalg.norm(columns, axis=0)
    if skewed_mm > lengths.min():
        cosines = np.abs((columns / lengths).T @ (columns / lengths)) - np.eye(len(shape))
        angle = np.degrees(np.arcsin(min(1.0, float(cosines.max()))))
        raise ImageError(
            f"{name}: its axes are {angle:.3g} degrees off a right angle (a tilted gantry?), so that distances along "
            "them are wrong "
            f"by up to {skewed_mm:.3g} mm; expected less than one voxel, {lengths.min():.3g} mm; straighten it, "
            "dcm2niix does, or resample it to a straight grid"
        )


def _as_slice(grid: Grid, affine: np.ndarray) -> Grid:
    """A plane as a volume of one slice, as far from the next as the slices of ``affine`` are."""
    assert grid.affine is not None
    columns = affine[:3, :3]
    along = grid.affine[:3, 2] @ columns / np.linalg.norm(columns, axis=0)
    across = int(np.abs(along).argmax())
    thick = grid.affine.copy()
    thick[:3, 2] = columns[:, across] * np.sign(along[across])
    return Grid((*grid.shape, 1), thick)


def _check_shapes(other: Grid, grid: Grid, name: Path | str, image: Path | str) -> None:
    if (other.affine is None) != (grid.affine is None) and not (other.displayed and grid.displayed):
        bare, placed = (name, image) if other.affine is None else (image, name)
        raise ImageError(
            f"{name}: {bare} has no voxel size and position, but {placed} has, so it cannot be checked that they "
            "overlap; store both as NIfTI with one affine: nibabel.Nifti1Image(array, image.affine)"
        )
    if other.shape != grid.shape:
        raise ImageError(
            f"{name}: has shape {other.shape}, expected {grid.shape}, that of {image}; export it again at the image's "
            "size"
        )


def _turn(other: Picture, grid: Grid, name: Path | str, image: Path | str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(axes, flips): axis d of the grid is axis ``axes[d]`` of the picture, and reversed where d is
    in ``flips``."""
    assert other.affine is not None
    assert grid.affine is not None
    dimensions = len(grid.shape)
    if len(other.spatial) != dimensions:
        raise ImageError(
            f"{name}: has shape {other.spatial}, expected {grid.shape}, that of {image}; export it again on the "
            "image's grid"
        )
    here, there = (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) for affine in (grid.affine, other.affine))
    cosines = (here.T @ there)[:dimensions, :dimensions]
    axes = tuple(int(axis) for axis in np.abs(cosines).argmax(1))
    if len(set(axes)) < dimensions:  # neither: turned by about 45 degrees, or planes that cross
        apart = _apart(other.affine, grid.affine, grid.shape)
        raise ImageError(
            f"{name}: its axes point in other directions than those of {image}, up to {apart:.1f} mm apart; "
            "resample it onto the image"
        )
    return axes, tuple(axis for axis, old in enumerate(axes) if cosines[axis, old] < 0)


def _turned(affine: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    """The affine of an array whose axes were permuted, then reversed; ``shape`` is that of the
    result."""
    turned = affine.copy()
    turned[:, : len(axes)] = affine[:, list(axes)]
    for axis in flips:
        turned[:3, 3] += turned[:3, axis] * (shape[axis] - 1)
        turned[:3, axis] *= -1
    return turned


def _check_place(found: Grid, grid: Grid, name: Path | str, image: Path | str) -> None:
    """Raise unless shape, corners and voxel sizes agree."""
    assert found.affine is not None
    assert grid.affine is not None
    apart, allowed = _apart(found.affine, grid.affine, found.shape), TOLERANCE * min(grid.spacing)
    fix = f"resample it onto {image}; where only its header is wrong, store it again with the image's affine"
    pairs = list(zip(_sides(found), _sides(grid), strict=False))
    if max(abs(mine_mm / two - 1) for mine_mm, two in pairs) > 0.01:
        mine, wanted = (" x ".join(f"{mm:.4g}" for mm in lengths) for lengths in zip(*pairs, strict=True))
        lie = f", and it lies up to {apart:.1f} mm away" if apart > allowed else ""
        raise ImageError(f"{name}: found voxels of {mine} mm, expected {wanted} mm, those of {image}{lie}; {fix}")
    if apart > allowed:
        limit = f"expected at most {allowed:.2g} mm (a tenth of a voxel)"
        raise ImageError(f"{name}: found up to {apart:.1f} mm from {image}, {limit}; {fix}")
    if found.shape != grid.shape:
        fix = "export it again on the image's grid"
        raise ImageError(f"{name}: has shape {found.shape}, expected {grid.shape}, that of {image}; {fix}")


def _sides(grid: Grid) -> tuple[float, ...]:
    """Voxel sides in mm; of a plane from a file of three axes its thickness too."""
    return (*grid.spacing, *(() if grid.thickness is None or grid.dropped is None else (grid.thickness,)))


def _apart(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance in mm between the corners of two grids of one shape."""
    corners = np.array(list(product(*((0, length - 1) for length in shape), *((0,),) * (3 - len(shape)), (1,))), float)
    return float(np.linalg.norm((corners @ (affine - other).T)[:, :3], axis=1).max())


def _filled(
    array: np.ndarray, affine: np.ndarray, grid: Grid, name: Path | str, image: Path | str
) -> tuple[np.ndarray, np.ndarray]:
    """A sparse array put into zeros of the grid's shape, where its first voxel says."""
    assert grid.affine is not None
    start = np.linalg.solve(grid.affine, affine[:, 3])[: len(grid.shape)]
    first = np.rint(start).astype(int)
    moved = affine.copy()
    moved[:3, 3] -= affine[:3, : len(first)] @ first
    whole = np.zeros((len(array), *grid.shape), array.dtype)
    ends = [min(begin + length, size) for begin, length, size in zip(first, array.shape[1:], grid.shape, strict=True)]
    goal = tuple(slice(max(begin, 0), max(end, 0)) for begin, end in zip(first, ends, strict=True))
    source = tuple(slice(part.start - begin, part.stop - begin) for part, begin in zip(goal, first, strict=True))
    whole[(slice(None), *goal)] = array[(slice(None), *source)]
    if (lost := np.count_nonzero(array) - np.count_nonzero(whole)) > 0:
        raise ImageError(
            f"{name}: {lost} voxels of the segmentation lie outside {image}; expected all inside; export both from "
            "one series"
        )
    return whole, moved
