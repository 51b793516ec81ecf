"""An image as stored: its pixels, the grid that they lie on, and what its header says besides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from allograft.errors import ImageError

MOST_PIXELS = 2**30
"""Numbers in one image, channels counted: four gigabytes as float32. A few bytes of a header can
ask for more."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Where the voxels of an image lie, in the order of the file.

    Args:
        shape: (*spatial), 2 or 3 lengths.
        affine: (4, 4), voxel -> mm in RAS world coordinates, or None for photographs and arrays. A
            2-D grid with an affine is a plane of a volume: the first two columns belong to its
            axes, the third leads across it.
        dropped: of a plane, which of the file's three axes was of length one and is left out; None
            where it has two.
        thickness: of a plane, mm across it; None where the file does not state it.
        shown: of a plane with an affine, whether its axes are rows and columns as a viewer shows
            them (DICOM).

    >>> grid = Grid((4, 5), np.diag([0.5, 0.7, 5.0, 1.0]), dropped=2, thickness=5.0)
    >>> grid.spacing, grid.voxel
    ((0.5, 0.7), (1.75, 'mm3'))
    """

    shape: tuple[int, ...]
    affine: np.ndarray | None
    dropped: int | None = None
    thickness: float | None = None
    shown: bool = False

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each spatial axis; ones for photographs."""
        if self.affine is None:
            return (1.0,) * len(self.shape)
        # Affines are stored in single precision: 0.7 comes back as 0.69999998.
        return tuple(round(float(norm), 6) for norm in np.linalg.norm(self.affine[:3, : len(self.shape)], axis=0))

    @property
    def voxel(self) -> tuple[float, str]:
        """Size of one voxel and its unit: mm3, mm2 of a plane of unknown thickness, pixels of a
        photograph.

        The determinant of the affine's columns, not the product of their lengths.
        """
        if self.affine is None:
            return 1.0, "pixels"
        axes = self.affine[:3, :3]
        if len(self.shape) == 3:
            return _seven_digits(abs(float(np.linalg.det(axes)))), "mm3"
        normal = np.cross(axes[:, 0], axes[:, 1])
        area = float(np.linalg.norm(normal))
        if self.thickness is None:
            return _seven_digits(area), "mm2"
        # of a slab that leans the height, not the length of its edge
        upright = abs(float(normal @ axes[:, 2])) / (area * float(np.linalg.norm(axes[:, 2])))
        return _seven_digits(area * self.thickness * upright), "mm3"

    @property
    def displayed(self) -> bool:
        """Whether the two axes are rows and columns as a viewer shows them: photographs and planes
        of DICOM."""
        return len(self.shape) == 2 and (self.affine is None or self.shown)

    @property
    def axis(self) -> int | None:
        """Where ``write_mask`` puts the axis of length one, so that a mask has the shape of its
        image."""
        return 2 if self.dropped is None and self.shown else self.dropped


def _seven_digits(number: float) -> float:
    return float(f"{number:.7g}")  # what is left of single precision


@dataclass(frozen=True, eq=False)
class Picture:
    """One image as stored.

    Args:
        array: (C, *spatial) in file order: (C, H, W) for photographs, voxels (C, i, j, k) for NIfTI
            and DICOM series.
        affine, dropped, thickness, shown: as of ``Grid``.
        turn: the EXIF orientation that was applied, 1 to 8; 1 = none.
        sparse: the file holds the slices that have something in them; what it leaves out is
            background.
        notes: topic -> what is worth knowing of the file, for ``allograft doctor``.

    >>> picture = Picture(np.zeros((1, 4, 5)), np.diag([2.0, 3.0, 1.0, 1.0]))
    >>> picture.spatial, picture.spacing
    ((4, 5), (2.0, 3.0))
    """

    array: np.ndarray
    affine: np.ndarray | None
    dropped: int | None = None
    thickness: float | None = None
    shown: bool = False
    turn: int = 1
    sparse: bool = False
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Where its voxels lie."""
        return Grid(self.spatial, self.affine, self.dropped, self.thickness, self.shown)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Lengths of the spatial axes, in voxels."""
        return tuple(self.array.shape[1:])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each spatial axis; ones for photographs."""
        return self.grid.spacing


def check_pixels(name: Path | str, shape: Sequence[int], fix: str = "cut it into tiles, or export it again") -> None:
    """Raise ``ImageError``, before anything is allocated, for a shape of more than ``MOST_PIXELS``.

    >>> check_pixels("a.png", (3, 64, 64))
    """
    if math.prod(map(int, shape)) > MOST_PIXELS:
        raise ImageError(f"{name}: an image of shape {tuple(shape)} has more than {MOST_PIXELS} pixels; {fix}")
