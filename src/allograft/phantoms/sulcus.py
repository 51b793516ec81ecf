"""A sulcus that not every brain has: a fold beside the midline in front, absent, small or present,
as the paracingulate sulcus is.

Research and testing only: it is drawn as a part of a ring, from no patient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from allograft.phantoms.brain import SHIFTS, acquire
from allograft.phantoms.head import CSF, GREY_MATTER, WHITE_MATTER, Head, draw_head, label_head, within_head
from allograft.phantoms.parts import Row, draws, subjects_of

LABELS = ("absent", "small", "present")
EXTENT = {"small": (18.0, 28.0), "present": (55.0, 85.0)}
"""Degrees of the ring that a sulcus covers, lowest and highest."""
SKELETON, SULCUS = 1, 2
"""Mask values: other sulci, and the sulcus."""


@dataclass(frozen=True)
class Sulcus:
    """The random parameters of one sulcus, in half head sides and degrees.

    Args:
        label: absent, small or present.
        side: -1 or 1, the hemisphere.
        lateral: distance from the midline.
        radius: of the ring, in the plane of the midline.
        start, extent: the part of the ring, from the front upwards.
    """

    label: str
    side: int
    lateral: float
    radius: float
    start: float
    extent: float


def draw_sulcus(rng: np.random.Generator) -> Sulcus:
    """Draw one, each label as likely.

    >>> draw_sulcus(np.random.default_rng(0)).label in LABELS
    True
    """
    label = LABELS[int(rng.integers(len(LABELS)))]
    low, high = EXTENT.get(label, (0.0, 0.0))
    return Sulcus(
        label,
        side=-1,
        lateral=float(rng.uniform(0.13, 0.19)),
        radius=float(rng.uniform(0.56, 0.64)),
        start=float(rng.uniform(-5, 15)),
        extent=float(rng.uniform(low, high)),
    )


def with_sulcus(head: Head, sulcus: Sulcus, shape: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Rasterise a head with a sulcus: tissue (*shape) as of ``label_head``, and the mask.

    The sulcus is a sheet of CSF with grey matter around it. The skeleton is that of the CSF between
    the folds of the cortex, thinned to lines or sheets one voxel wide.

    >>> from allograft.phantoms.head import draw_head
    >>> rng = np.random.default_rng(0)
    >>> tissue, mask = with_sulcus(draw_head(rng, 2), draw_sulcus(rng), (48, 48))
    >>> tissue.shape == mask.shape == (48, 48)
    True
    """
    from skimage.morphology import skeletonize

    tissue, x = label_head(head, shape), within_head(head, shape)
    radius = np.sqrt(sum(axis**2 for axis in x))
    folds = (tissue == CSF) & (radius > 0.6) & (radius < 0.82)
    mask = np.where(skeletonize(folds), SKELETON, 0).astype(np.uint8)
    sheet = _sheet(x, sulcus, shape) & ((tissue == WHITE_MATTER) | (tissue == GREY_MATTER))
    around = ndimage.binary_dilation(sheet, iterations=max(1, shape[0] // 48)) & (tissue == WHITE_MATTER)
    tissue = np.where(around, GREY_MATTER, tissue)
    tissue = np.where(sheet, CSF, tissue).astype(np.uint8)
    return tissue, np.where(sheet, SULCUS, mask).astype(np.uint8)


def _sheet(x: list[NDArray[np.float64]], sulcus: Sulcus, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The voxels of the sulcus; none where it is absent. In 2-D, an axial slice, it is a line from
    behind forwards."""
    if sulcus.label == "absent":
        return np.zeros(shape, dtype=bool)
    thick = max(0.03, 1.3 / min(shape))
    beside = np.abs(x[1] - sulcus.side * sulcus.lateral) < thick
    if len(shape) == 2:
        length = np.radians(sulcus.extent) * sulcus.radius / 1.5
        return np.asarray(beside & (x[0] > sulcus.radius - length) & (x[0] < sulcus.radius + thick))
    ring = np.sqrt(x[0] ** 2 + x[2] ** 2)
    degrees = np.degrees(np.arctan2(x[2], x[0]))
    part = (degrees > sulcus.start) & (degrees < sulcus.start + sulcus.extent)
    return np.asarray(beside & part & (np.abs(ring - sulcus.radius) < 2 * thick))


def rows_of(sites: Mapping[str, str], subjects: int, shape: tuple[int, ...], seed: int) -> Iterator[Row]:
    """The rows of a cohort: image, mask, label, subject and site. Heads are those of the phantom
    without the sulcus."""
    for site, shift, _, subject in subjects_of(sites, subjects):
        head = draw_head(draws(seed, "anatomy", site, subject), len(shape))
        sulcus = draw_sulcus(draws(seed, "sulcus", site, subject))
        tissue, mask = with_sulcus(head, sulcus, shape)
        image = acquire(tissue, SHIFTS[shift], draws(seed, "scan", site, subject))
        yield {
            "image": np.rint(image).clip(0, 65535).astype(np.uint16),
            "mask": mask,
            "label": sulcus.label,
            "subject": subject,
            "site": site,
        }
