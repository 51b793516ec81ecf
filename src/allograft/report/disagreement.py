"""Where recipes disagree about an image: it needs no truth, and says where to look first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError
from allograft.grey import grey_of
from allograft.report.overlay import enlarged, png_of, scaled
from allograft.report.svg import colour_at

HEAT = ("#781c6d", "#a52c60", "#cf4446", "#ed6925", "#fb9b06", "#f7d13d", "#fcffa4")
"""Inferno without its dark end, which could not be told from the image: lighter is more."""
HIGHEST = 0.5
"""A share of recipes at which the scale ends; two classes cannot disagree more."""


def votes(masks: Sequence[NDArray[np.generic]]) -> NDArray[np.uint16]:
    """How many recipes find each class: R masks (*spatial) of class indices -> (classes, *spatial).

    Example:
        >>> votes([np.array([0, 1]), np.array([0, 2])])[:, 1].tolist()
        [0, 1, 1]
    """
    if len(masks) < 2 or len({mask.shape for mask in masks}) > 1:
        raise SpecError(
            f"disagreement: found masks of shapes {[mask.shape for mask in masks]}; expected at least two on one grid"
        )
    counts = np.zeros((max(int(mask.max(initial=0)) for mask in masks) + 1, *masks[0].shape), dtype=np.uint16)
    for mask in masks:
        for index in range(len(counts)):
            counts[index] += mask == index
    return counts


def dissent(counts: NDArray[np.uint16]) -> NDArray[np.float64]:
    """The share of recipes that do not find what most of them find, at each pixel: (classes,
    *spatial) -> (*spatial) in [0, 1)."""
    share: NDArray[np.float64] = 1.0 - counts.max(0) / counts.sum(0)
    return share


def mean_disagreement(counts: NDArray[np.uint16]) -> float:
    """The share of pairs of recipes that differ at a pixel, mean over the pixels that any recipe
    marks; 0 where none marks one.

    Of R recipes, n_c of which find class c, the share of pairs that agree is sum_c n_c (n_c - 1) /
    (R (R - 1)).
    """
    total = int(counts.sum(0).flat[0])
    marked = counts[0] < total
    if not marked.any():
        return 0.0
    n = counts[:, marked].astype(np.float64)
    return float(1.0 - (n * (n - 1)).sum(0).mean() / (total * (total - 1)))


def draw_dissent(
    image: NDArray[np.generic], share: NDArray[np.float64], window: tuple[float, float] | None = None
) -> bytes:
    """A PNG of a grey image, on which the share of dissenting recipes glows: nothing at 0,
    brightest from 0.5.

    Args:
        image: (H, W) or (H, W, 3), any numbers.
        share: (H, W) in [0, 1].
        window: what becomes black and white; by default the image's own percentiles.

    Raises:
        SpecError: shapes that do not fit together.
    """
    from PIL import Image

    if image.shape[:2] != share.shape or share.ndim != 2 or not share.size:
        raise SpecError(
            f"disagreement: image {image.shape}, share {share.shape}; expected (H, W) or (H, W, 3), and (H, W)"
        )
    _, size = scaled(share.shape)
    grey = np.asarray(Image.fromarray(grey_of(image, window)).resize(size, Image.Resampling.BICUBIC), dtype=np.float64)
    steps = enlarged(np.round(np.clip(share / HIGHEST, 0, 1) * 32).astype(np.int64), size).astype(np.int64)
    table = np.array(
        [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (colour_at(n / 32, HEAT) for n in range(33))]
    )
    alpha = np.where(steps > 0, 0.35 + 0.45 * steps / 32, 0.0)[..., None]
    painted = (1 - alpha) * 0.8 * grey[..., None] + alpha * table[steps]
    return png_of(Image.fromarray(painted.round().astype(np.uint8)))
