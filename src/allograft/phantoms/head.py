"""A head, drawn from ellipsoids and smooth noise: its random parameters, and the tissue of each
voxel.

Research and testing only: it is of no patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allograft.phantoms.parts import stretched

AIR, WHITE_MATTER, GREY_MATTER, CSF, SKULL, SCALP = range(6)
"""Tissue indices."""


@dataclass(frozen=True, eq=False)
class Head:
    """The random parameters of one anatomy, lengths in half image sides, axes (anterior-posterior,
    lateral[, vertical]).

    ``cortex`` (mean thickness), ``ventricle`` and ``nucleus`` are shares of ``radii``.
    """

    centre: NDArray[np.float64]  # (D,)
    radii: NDArray[np.float64]  # (D,) semi-axes of the scalp
    angle: float  # rotation in the first two axes, degrees
    warp: NDArray[np.float64]  # (D, *coarse) displacement
    # (2, *finer) standard normal: depth of the sulci and of the grey-white boundary
    folds: NDArray[np.float64]
    cortex: float
    ventricle: NDArray[np.float64]  # (D,) semi-axes of either lateral ventricle
    nucleus: NDArray[np.float64]  # (D,) semi-axes of either deep grey nucleus


def draw_head(rng: np.random.Generator, dims: int) -> Head:
    """Draw one head in ``dims`` (2 or 3) dimensions.

    >>> draw_head(np.random.default_rng(0), 3).radii.shape
    (3,)
    """
    return Head(
        centre=rng.uniform(-0.06, 0.06, dims),
        radii=np.array([0.86, 0.74, 0.80])[:dims] * rng.uniform(0.92, 1.06, dims),
        angle=float(rng.uniform(-12, 12)),
        warp=0.035 * rng.standard_normal((dims, *(4,) * dims)),
        folds=rng.standard_normal((2, *(14,) * dims)),
        cortex=float(rng.uniform(0.13, 0.20)),
        ventricle=np.array([0.30, 0.075, 0.22])[:dims] * rng.uniform(0.75, 1.45, dims),
        nucleus=np.array([0.20, 0.10, 0.18])[:dims] * rng.uniform(0.8, 1.25, dims),
    )


def within_head(head: Head, shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """Where each voxel lies in a head, one array (*shape) an axis: the scalp is the unit sphere, 0
    the centre.

    >>> len(within_head(draw_head(np.random.default_rng(0), 3), (8, 8, 8)))
    3
    """
    dims = len(shape)
    axes = np.meshgrid(*((np.arange(n) + 0.5) / n * 2 - 1 for n in shape), indexing="ij", sparse=True)
    x = [axes[d] - head.centre[d] + stretched(head.warp[d], shape) for d in range(dims)]
    cosine, sine = np.cos(np.radians(head.angle)), np.sin(np.radians(head.angle))
    x[0], x[1] = cosine * x[0] - sine * x[1], sine * x[0] + cosine * x[1]
    return [x[d] / head.radii[d] for d in range(dims)]


def label_head(head: Head, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Rasterise a head: (*shape) tissue indices ``AIR``, ``WHITE_MATTER``, ``GREY_MATTER``,
    ``CSF``, ``SKULL``, ``SCALP``.

    >>> label_head(draw_head(np.random.default_rng(0), 2), (32, 32)).shape
    (32, 32)
    """
    dims, x = len(shape), within_head(head, shape)
    radius = np.sqrt(sum(axis**2 for axis in x))
    sulci, gyri = (stretched(field, shape) for field in head.folds)
    pial = 0.82 - 0.06 * np.clip(sulci, 0, 2)
    white = pial - head.cortex + 0.06 * np.clip(gyri, -1.5, 1.5)
    # the falx: between the hemispheres, the cortex reaches deep in front and behind (and above)
    midline = (np.abs(x[1]) < 0.05) & (radius > 0.5) & (x[0] ** 2 + (x[2].clip(0) ** 2 if dims == 3 else 0) > 0.2)

    def pair(semi_axes: NDArray[np.float64], lateral: float) -> NDArray[np.bool_]:
        square = sum(((np.abs(x[d]) - lateral if d == 1 else x[d]) / semi_axes[d]) ** 2 for d in range(dims))
        return np.asarray(square < 1)

    tissue = np.select(
        [
            radius > 1,
            radius > 0.93,
            radius > 0.87,
            radius > pial,
            pair(head.ventricle, 0.13),
            (radius > white) | midline,
        ],
        [AIR, SCALP, SKULL, CSF, CSF, GREY_MATTER],
        default=WHITE_MATTER,
    )
    tissue[pair(head.nucleus, 0.36) & (tissue == WHITE_MATTER)] = GREY_MATTER
    return tissue.astype(np.uint8)
