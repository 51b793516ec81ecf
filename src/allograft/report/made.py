"""An image that was made, beside what it was made of, the true one, and the error between the
two."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError
from allograft.grey import grey_of
from allograft.report.disagreement import HEAT
from allograft.report.overlay import png_of, scaled
from allograft.report.svg import colour_at

HIGHEST = 0.25
"""The absolute error, as a share of the range, at which its scale ends."""
STEPS, GAP = 32, 4
"""Colours of the error's scale, and pixels between two panels."""


def draw_made(
    image: NDArray[np.generic],
    made: NDArray[np.generic],
    truth: NDArray[np.generic] | None = None,
    window: tuple[float, float] | None = None,
) -> bytes:
    """A PNG of panels side by side: the image, and what was made of it; between the two the true
    image where there is one, and at the right the absolute error, dark at 0 and lightest from a
    quarter of the range.

    Args:
        image: (H, W) or (H, W, 3), any numbers.
        made, truth: (H, W) or (H, W, 3), shares of their range from 0 to 1; nan in the truth is
            drawn as 0 and has no error.
        window: what becomes black and white in the image; by default its own percentiles.

    Raises:
        SpecError: shapes that do not fit together.

    Example:
        >>> draw_made(np.zeros((8, 8)), np.zeros((8, 8)))[:4]
        b'\\x89PNG'
    """
    from PIL import Image

    shapes = {values.shape[:2] for values in (image, made, truth) if values is not None}
    if len(shapes) > 1 or not made.size or (truth is not None and truth.shape != made.shape):
        true = "none" if truth is None else str(truth.shape)
        raise SpecError(f"made image: image {image.shape}, made {made.shape}, truth {true}; expected one grid")
    _, size = scaled(made.shape[:2])

    def panel(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
        drawn = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC))
        return np.repeat(drawn[..., None], 3, axis=-1)

    panels = [panel(grey_of(image, window))]
    if truth is not None:
        panels.append(panel(grey_of(truth, (0.0, 1.0))))
    panels.append(panel(grey_of(made, (0.0, 1.0))))
    if truth is not None:
        apart = np.asarray(made, np.float64) - np.asarray(truth, np.float64)
        error = np.abs(apart).reshape(*made.shape[:2], -1).mean(-1)
        drawn = Image.fromarray(_heat(np.nan_to_num(error, nan=0.0))).resize(size, Image.Resampling.NEAREST)
        panels.append(np.asarray(drawn))
    gap = np.full((size[1], GAP, 3), 255, np.uint8)
    row = [part for drawn_panel in panels for part in (gap, drawn_panel)][1:]
    return png_of(Image.fromarray(np.concatenate(row, axis=1)))


def _heat(error: NDArray[np.floating]) -> NDArray[np.uint8]:
    """(H, W) -> (H, W, 3): black at 0, then the colours of the scale."""
    colours = [colour_at(n / STEPS, HEAT) for n in range(1, STEPS + 1)]
    table = np.array([[0, 0, 0], *([int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in colours)], np.uint8)
    return table[np.round(np.clip(error / HIGHEST, 0, 1) * STEPS).astype(np.int64)]
