"""Boxes drawn over their image: found, missed and false ones in the colours of the overlays of
masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allograft.batch import Boxes
from allograft.grey import grey_of
from allograft.metrics.detection import THRESHOLDS, match
from allograft.report.overlay import AGREE, EXTRA, MISSED, png_of, scaled


def draw_boxes(image: NDArray[np.generic], truth: Boxes | None, predicted: Boxes) -> bytes:
    """A PNG of an image with boxes: green where a box found overlaps a true one by half or more,
    orange where it does not, blue for true boxes that none of them found.

    Args:
        image: (H, W) or (H, W, 3), any numbers.
        truth: None where there is none: all that is found is orange then.
        found: with scores.

    Returns:
        The file's bytes; its size is as for ``draw_overlay``.

    Example:
        >>> import torch
        >>> one = Boxes(torch.tensor([[1.0, 1, 5, 5]]), torch.tensor([1]), torch.tensor([0.9]))
        >>> draw_boxes(np.zeros((8, 8)), None, one)[:4]
        b'\\x89PNG'
    """
    from PIL import Image, ImageDraw

    scale, size = scaled(image.shape[:2])
    canvas = Image.fromarray(grey_of(image, None)).resize(size, Image.Resampling.BICUBIC).convert("RGB")
    pen = ImageDraw.Draw(canvas)
    for colour, boxes in _coloured(truth, predicted):
        for x0, y0, x1, y1 in (boxes.xyxy * scale).tolist():
            pen.rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=colour, width=2)
    return png_of(canvas)


def _coloured(truth: Boxes | None, predicted: Boxes) -> list[tuple[str, Boxes]]:
    if truth is None:
        return [(EXTRA, predicted)]
    assert predicted.score is not None
    predicted = predicted[predicted.score.argsort(descending=True, stable=True)]
    assert predicted.score is not None
    both = match(predicted.xyxy, predicted.label, predicted.score, truth.xyxy, truth.label, most=len(predicted))
    assert both.recalled is not None
    hit, recalled = both.matched[:, THRESHOLDS.index(0.5)], both.recalled[:, THRESHOLDS.index(0.5)]
    return [(MISSED, truth[~recalled]), (EXTRA, predicted[~hit]), (AGREE, predicted[hit])]
