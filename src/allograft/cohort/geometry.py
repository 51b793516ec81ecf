"""From the grid of a file to the grid of a network and back. Pixels are little squares (half-pixel
centres), in both directions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from allograft.cohort.picture import Picture
from allograft.cohort.preprocessing import Preprocessing
from allograft.errors import ImageError, SpecError

if TYPE_CHECKING:
    import torch

_PAIRS = ("RL", "AP", "SI")


@dataclass(frozen=True)
class Geometry:
    """How the processed grid relates to the file's: permute by ``axes``, reverse ``flips``, resize
    to ``resampled``, then cut or pad.

    ``shape`` and ``stored_spacing`` follow the stored axes, all else the processed ones.
    ``axes[d]`` is the stored axis that becomes axis d; ``flips`` lists the processed axes that are
    reversed. The processed grid begins at ``start`` of the resampled one (negative = padding before
    it) and has ``size`` voxels. ``spacing``: mm on the processed grid, 1.0 for photographs. A
    resize keeps the outer edges, so it is the length divided by the number of voxels, up to half a
    voxel's share away from the one asked for.

    >>> Geometry((4, 6), (0, 1), (), (2, 3), (0, 0), (2, 3), (2.0, 2.0), (1.0, 1.0)).identity
    False
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    shape: tuple[int, ...]
    axes: tuple[int, ...]
    flips: tuple[int, ...]
    resampled: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    spacing: tuple[float, ...]
    stored_spacing: tuple[float, ...]

    @property
    def oriented(self) -> tuple[int, ...]:
        """The stored shape in the order of the processed axes."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def identity(self) -> bool:
        """Whether the processed grid is the stored one."""
        straight = self.axes == tuple(range(len(self.shape))) and not self.flips
        return straight and self.shape == self.resampled == self.size and not any(self.start)

    @property
    def uncut(self) -> Geometry:
        """The same without the cut: the resampled grid, padded where it is smaller than ``size``.

        >>> wide = Geometry((4, 8), (0, 1), (), (4, 8), (-1, 2), (6, 4), (1.0, 1.0), (1.0, 1.0)).uncut
        >>> wide.start, wide.size
        ((-1, 0), (6, 8))
        """
        start = tuple(min(first, 0) for first in self.start)
        return replace(self, start=start, size=tuple(map(max, self.size, self.resampled)))

    @property
    def share_cut_off(self) -> float:
        """The share of the image that lies outside the processed grid.

        >>> Geometry((4, 8), (0, 1), (), (4, 8), (-1, 2), (6, 4), (1.0, 1.0), (1.0, 1.0)).share_cut_off
        0.5
        """
        kept = (min(have, want) / have for have, want in zip(self.resampled, self.size, strict=True))
        return 1 - math.prod(kept)


def geometry(picture: Picture, preprocessing: Preprocessing, name: str, *, mirrored: bool = False) -> Geometry:
    """The geometry of one image under ``preprocessing``; ``name`` (a file or case) goes into the
    errors, and ``mirrored`` reverses the axis of ``preprocessing.mirror``.

    Oblique affines are turned by their closest axes: voxels are permuted and reversed, never
    interpolated, for orientation. Raises ``SpecError`` for an orientation, spacing or size that
    makes no sense for the image, ``ImageError`` for a spacing asked of an image that has no voxel
    size.

    >>> geometry(Picture(np.zeros((3, 10, 20)), None), Preprocessing(size=(5, 5)), "a.png").resampled
    (5, 5)
    """
    dimensions = len(picture.spatial)
    spacing = _positive(preprocessing.spacing, dimensions, "spacing", name)
    size = _positive(preprocessing.size, dimensions, "size", name)
    if spacing is not None and picture.affine is None:
        mend = "remove spacing, or store the image with its voxel size"
        raise ImageError(f"{name}: has no voxel size, but preprocessing asks for spacing {spacing}; {mend}")
    axes, flips = _orientation(picture, preprocessing.orientation, name)
    if mirrored and preprocessing.mirror is not None:
        flips = _toggled(flips, preprocessing.mirror.axis, dimensions, name)
    stored = picture.spacing
    oriented = tuple(picture.spatial[axis] for axis in axes)
    resampled = oriented
    if spacing is not None:
        # Rounded first: a float32 affine must not decide on which side of one half a length falls.
        ratios = (length * stored[axis] / mm for length, axis, mm in zip(oriented, axes, spacing, strict=True))
        resampled = tuple(max(1, math.floor(round(ratio, 3) + 0.5)) for ratio in ratios)
    elif size is not None:
        resampled = _covering(oriented, size) if preprocessing.fit == "crop" else tuple(map(int, size))
    final = resampled if size is None else tuple(int(length) for length in size)
    lengths = zip(axes, oriented, resampled, strict=True)
    return Geometry(
        shape=picture.spatial,
        axes=axes,
        flips=flips,
        resampled=resampled,
        start=tuple((have - want) // 2 for have, want in zip(resampled, final, strict=True)),
        size=final,
        spacing=tuple(
            1.0 if picture.affine is None else stored[axis] * before / after for axis, before, after in lengths
        ),
        stored_spacing=stored,
    )


def to_grid(array: np.ndarray, geometry: Geometry, *, nearest: bool) -> np.ndarray:
    """Bring (C, *shape) to (C, *size).

    ``nearest=False`` (images): float32, linear, with anti-aliasing along the axes that shrink;
    padding takes the smallest value of each channel, which is the background in a CT, an MRI or a
    z-score alike. ``nearest=True`` (masks): the type is kept, padding is 0. An axis whose length
    stays is not interpolated. Raises ``SpecError`` when the array is not of the geometry's shape.

    >>> plain = geometry(Picture(np.zeros((1, 2, 2)), None), Preprocessing(size=(4, 2)), "a.png")
    >>> to_grid(np.array([[[1, 2], [3, 4]]]), plain, nearest=True)[0].tolist()
    [[1, 2], [1, 2], [3, 4], [3, 4]]
    """
    if tuple(array.shape[1:]) != geometry.shape:
        raise SpecError(
            f"an array of shape {tuple(array.shape)} for a grid of {geometry.shape}; read the mask and the image of "
            "one case"
        )
    turned = array.transpose(0, *(1 + axis for axis in geometry.axes))
    turned = np.flip(turned, tuple(1 + axis for axis in geometry.flips)) if geometry.flips else turned
    if nearest:
        for axis, (before, after) in enumerate(zip(geometry.oriented, geometry.resampled, strict=True), 1):
            # In whole numbers: floor((i + 1/2) * before / after), where rounding cannot slip.
            turned = (
                turned if before == after else turned.take((2 * np.arange(after) + 1) * before // (2 * after), axis)
            )
    else:
        turned = turned.astype(np.float32)
        if geometry.oriented != geometry.resampled:
            import torch

            turned = _resize(torch.from_numpy(np.ascontiguousarray(turned)), geometry.resampled).numpy()
    if geometry.size == geometry.resampled:
        return np.ascontiguousarray(turned)
    source, goal = _overlap(geometry)
    result = np.zeros((len(turned), *geometry.size), turned.dtype)
    if not nearest:
        result += turned.reshape(len(turned), -1).min(1).reshape(-1, *(1,) * len(geometry.size))
    result[(slice(None), *goal)] = turned[(slice(None), *source)]
    return result


def from_grid(values: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """Bring probabilities (K, *size) back to (K, *shape) of the file: linear, sums over K are kept.

    What lies outside the processed grid is background: class 0 gets probability 1 and the others 0
    when K > 1, and 0 when K = 1. float32 unless given as float64, on the device given. Raises
    ``SpecError`` when the values are not of the geometry's size.

    >>> import torch
    >>> tall = geometry(Picture(np.zeros((1, 4, 2)), None), Preprocessing(size=(2, 2)), "a.png")
    >>> tuple(from_grid(torch.ones(1, 2, 2), tall).shape)
    (1, 4, 2)
    """
    import torch

    if tuple(values.shape[1:]) != geometry.size:
        raise SpecError(
            f"values of shape {tuple(values.shape)} for a grid of {geometry.size}; use the geometry they were made with"
        )
    values = values if values.dtype == torch.float64 else values.float()
    if geometry.size != geometry.resampled:
        source, goal = _overlap(geometry)
        whole = values.new_zeros((len(values), *geometry.resampled))
        if len(values) > 1:
            whole[0] = 1
        whole[(slice(None), *source)] = values[(slice(None), *goal)]
        values = whole
    values = _resize(values, geometry.oriented)
    values = values.flip([1 + axis for axis in geometry.flips]) if geometry.flips else values
    back = sorted(range(len(geometry.axes)), key=geometry.axes.__getitem__)
    return values.permute(0, *(1 + axis for axis in back)).contiguous()


def _positive(values: Sequence[float] | None, dimensions: int, key: str, name: str) -> tuple[float, ...] | None:
    if values is None:
        return None
    if len(values) != dimensions:
        found = f"preprocessing {key} {tuple(values)} has {len(values)} numbers, the image {dimensions} axes"
        mend = f"give one number for each axis, or remove the row where the other images have {len(values)} axes"
        raise SpecError(f"{name}: {found}; {mend}")
    whole = key == "size"
    if not all(math.isfinite(value) and value > 0 and (not whole or value == int(value)) for value in values):
        raise SpecError(
            f"{name}: preprocessing {key} {tuple(values)}; expected {'whole numbers' if whole else 'mm'} above 0"
        )
    return tuple(values)


def _covering(lengths: Sequence[int], size: Sequence[float]) -> tuple[int, ...]:
    """The lengths in their proportions, the smallest that cover ``size``.

    >>> _covering((30, 60), (10, 10)), _covering((30, 60), (20, 30))
    ((10, 20), (20, 40))
    """
    factor = max(wanted / given for given, wanted in zip(lengths, size, strict=True))
    grown = (math.floor(round(given * factor, 3) + 0.5) for given in lengths)
    return tuple(max(int(wanted), length) for wanted, length in zip(size, grown, strict=True))


def _toggled(flips: tuple[int, ...], axis: int, dimensions: int, name: str) -> tuple[int, ...]:
    if not 0 <= axis < dimensions:
        raise SpecError(f"{name}: preprocessing.mirror: axis is {axis}; expected 0 to {dimensions - 1}")
    return tuple(sorted({*flips} ^ {axis}))


def _orientation(picture: Picture, code: str | None, name: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Which stored axis becomes which, and which of them are then reversed; a plane keeps the order
    of its two axes in ``code``."""
    dimensions = len(picture.spatial)
    if code is not None and (len(code) != 3 or any(sum(letter in pair for letter in code) != 1 for pair in _PAIRS)):
        raise SpecError(
            f"preprocessing orientation '{code}'; expected one letter of each of R or L, A or P, S or I, such as RAS"
        )
    if code is None or picture.affine is None:
        return tuple(range(dimensions)), ()
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

    stored = io_orientation(picture.affine)
    if not np.isfinite(stored).all():
        raise ImageError(
            f"{name}: its affine does not say which way the axes point; store the image with its orientation"
        )
    turn = ornt_transform(stored, axcodes2ornt(tuple(code)))[:dimensions]
    axes = tuple(int(axis) for axis in np.argsort(turn[:, 0]))
    return axes, tuple(new for new, old in enumerate(axes) if turn[old, 1] < 0)


def _overlap(geometry: Geometry) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """The part that the resampled and the processed grid share, in the indices of each."""
    ends = [
        min(start + want, have)
        for start, want, have in zip(geometry.start, geometry.size, geometry.resampled, strict=True)
    ]
    begins = [max(start, 0) for start in geometry.start]
    source = tuple(slice(begin, end) for begin, end in zip(begins, ends, strict=True))
    return source, tuple(
        slice(part.start - start, part.stop - start) for part, start in zip(source, geometry.start, strict=True)
    )


def _resize(values: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Linear resize of (C, *spatial), anti-aliased where it shrinks; in 3-D one plane at a time,
    because torch has it for planes only."""
    from torch.nn.functional import interpolate

    if tuple(values.shape[1:]) == size:
        return values
    if len(size) == 2:
        return interpolate(values[None], size=size, mode="bilinear", align_corners=False, antialias=True)[0]
    channels, depth = values.shape[:2]
    if tuple(values.shape[2:]) != size[1:]:
        planes = values.reshape(channels * depth, 1, *values.shape[2:])
        planes = interpolate(planes, size=size[1:], mode="bilinear", align_corners=False, antialias=True)
        values = planes.reshape(channels, depth, *size[1:])
    if depth != size[0]:
        columns = values.reshape(channels, 1, depth, -1)
        columns = interpolate(
            columns, size=(size[0], columns.shape[-1]), mode="bilinear", align_corners=False, antialias=True
        )
        values = columns.reshape(channels, *size)
    return values
