"""Boxes through a crop, a turn, a change of scale and a flip: the same that ``augmentation.apply``
does to the image."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from allograft.batch import Boxes
from allograft.transforms.augmentation import Draw, affine, crop_start

LEAST_SEEN = 0.25
"""A box of which a smaller share of its area is left in the crop is dropped. Ours."""


def move_boxes(
    boxes: Boxes,
    draw: Draw,
    shape: Sequence[int],
    *,
    size: Sequence[int],
    centre: Sequence[float] | None = None,
    spacing: Sequence[float] | None = None,
) -> Boxes:
    """Boxes of an image of ``shape`` after its augmentation: the upright boxes around the turned
    ones, cut to the crop.

    Args:
        boxes: in pixels, x along the columns.
        draw: the parameters; only angles, scale and flips move boxes.
        shape: (rows, columns) of the image.
        size: of the result.
        centre, spacing: as for ``augmentation.apply``.

    Returns:
        The boxes of which at least ``LEAST_SEEN`` is left, in their order.

    Example:
        >>> one = Boxes(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([1]))
        >>> move_boxes(one, Draw(flips=(False, True)), (4, 4), size=(4, 4)).xyxy.tolist()
        [[2.0, 1.0, 4.0, 3.0]]
    """
    # theta leads from the crop to the image, both in [-1, 1] with x first; boxes go the other way
    theta = affine(draw, shape, size, crop_start(shape, size, centre), spacing)
    given = torch.tensor([shape[1], shape[0]], dtype=torch.float64)
    wanted = torch.tensor([size[1], size[0]], dtype=torch.float64)
    x0, y0, x1, y1 = boxes.xyxy.double().unbind(1)
    corners = torch.stack([torch.stack(pair, 1) for pair in ((x0, y0), (x1, y0), (x0, y1), (x1, y1))], 1)  # (N, 4, 2)
    moved = ((2 * corners / given - 1) - theta[:, 2]) @ torch.linalg.inv(theta[:, :2]).T
    moved = (moved + 1) / 2 * wanted
    low, high = moved.amin(1), moved.amax(1)
    seen_low, seen_high = low.clamp_min(0), high.minimum(wanted)
    share = (seen_high - seen_low).clamp_min(0).prod(1) / (high - low).prod(1)
    xyxy = torch.cat([seen_low, seen_high], 1).to(boxes.xyxy)
    return Boxes(xyxy, boxes.label, boxes.score)[share >= LEAST_SEEN]
