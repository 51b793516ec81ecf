"""What becomes of imperfect boxes while they are corrected: how many change in each epoch,
pictures, and the boxes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from allograft.batch import Boxes
from allograft.cohort import Cohort
from allograft.figure import TILE, Images, Lines, Relabelled
from allograft.grey import grey_of, plane
from allograft.transforms.cloning import cloned

AGREE = 0.5
"""The intersection over union from which two boxes of one class are the same one."""
KEPT = 50_000
"""Boxes that are kept of a correction, about; of more, every k-th epoch back from the last."""


def boxes_of(cohorts: Sequence[Cohort]) -> list[Boxes]:
    """The training boxes of every image, on the study's grid."""
    every = [cohort.case(index).labels["boxes"] for cohort in cohorts for index in range(len(cohort))]
    return [boxes for (boxes,) in every if isinstance(boxes, Boxes)]


def shared(some: Sequence[Boxes], others: Sequence[Boxes]) -> int:
    """How many boxes of ``some`` overlap one of ``others`` in the same image, of the same class, by
    at least ``AGREE``.

    >>> import torch
    >>> one = Boxes(torch.tensor([[0.0, 0, 8, 8]]), torch.tensor([1]))
    >>> shared([one], [one]), shared([one], [Boxes(one.xyxy + 8, one.label)])
    (1, 0)
    """
    count = 0
    for here, there in zip(some, others, strict=True):
        if len(here) and len(there):
            alike = (box_iou(here.xyxy, there.xyxy) >= AGREE) & (here.label[:, None] == there.label)
            count += int(alike.any(1).sum())
    return count


def change_figure(noisy: Sequence[Boxes], corrected: Mapping[int, Sequence[Boxes]], kept: int = 0) -> Lines:
    """The boxes of the target by epoch, beside those that it came with.

    Args:
        noisy: (images,) as they came.
        corrected: epoch, from 0 -> (images,) as that epoch trained on them.
        kept: epochs whose correction would have left no box in any image, so that all kept theirs.
    """
    before = [noisy, *corrected.values()]
    lines = {
        "boxes": [sum(map(len, boxes)) for boxes in corrected.values()],
        "of these, among those that came": [shared(boxes, noisy) for boxes in corrected.values()],
        "of these, there the epoch before": [
            shared(boxes, last) for boxes, last in zip(corrected.values(), before, strict=False)
        ],
    }
    stayed = f"; {kept} of {len(corrected)} epochs detect nothing in any image and keep the boxes" if kept else ""
    return Lines(
        f"boxes of the target while they are corrected; it came with {sum(map(len, noisy))}{stayed}",
        tuple(float(epoch + 1) for epoch in corrected),
        {name: tuple(map(float, values)) for name, values in lines.items()},
        "epoch",
        f"boxes; the same where they overlap by {AGREE}",
    )


def relabelled(target: Sequence[Cohort], corrected: Mapping[int, Sequence[Boxes]], *, most: int = KEPT) -> Relabelled:
    """The boxes that each epoch trained on, for the report to compare, in hundredths of a pixel.

    Args:
        target: the images.
        corrected: epoch, from 0 -> (images,) as that epoch trained on them.
        most: boxes to keep, about; those of the last epoch are kept however many they are.
    """
    stride = max(1, -(-sum(len(boxes) for every in corrected.values() for boxes in every) // most))
    epochs = sorted(corrected)[::-stride][::-1]
    kept = [corrected[epoch] for epoch in epochs]
    return Relabelled(
        tuple(case.name for cohort in target for case in cohort.cases),
        tuple(epochs),
        tuple(tuple(_rounded(boxes.xyxy) for boxes in every) for every in kept),
        tuple(tuple(tuple(boxes.label.tolist()) for boxes in every) for every in kept),
    )


def _rounded(xyxy: Tensor) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(round(side, 2) for side in box) for box in xyxy.tolist())


def correction_images(noisy: Sequence[Cohort], corrected: Sequence[Cohort], background: str, most: int = 4) -> Images:
    """The first images of the target with the boxes that they came with, with the corrected ones,
    and as they are trained on (Fig. 3 of Elbatel, Bornberg et al. 2022)."""
    rows, captions, subjects = [], [], []
    pairs = [(*both, index) for both in zip(noisy, corrected, strict=True) for index in range(len(both[0]))]
    for came, now, index in pairs[:most]:
        case = came.case(index)
        (before,), (after,) = case.labels["boxes"], now.case(index).labels["boxes"]
        assert isinstance(before, Boxes)
        assert isinstance(after, Boxes)
        grey = _grey(case.image[0])
        rows.append([outlined(grey, before), outlined(grey, after)])
        captions.append([f"boxes that came: {len(before)}", f"corrected: {len(after)}"])
        if background != "none":
            rows[-1].append(_grey(cloned(case.image[0], after, background)))
            captions[-1].append(f"cloned onto {background} blur")
        subjects.append([case.subjects[0]] * len(rows[-1]))
    return Images.from_arrays("boxes before and after their correction", rows, captions=captions, subjects=subjects)


def outlined(grey: NDArray[np.uint8], boxes: Boxes) -> NDArray[np.uint8]:
    """(H, W) uint8 -> the same with white frames, wide enough to be seen at ``TILE`` pixels."""
    made, (height, width) = grey.copy(), grey.shape
    thick = max(1, round(max(height, width) / TILE))
    for x0, y0, x1, y1 in boxes.xyxy.round().int().tolist():
        left, right = (min(max(x, 0), width) for x in (x0, x1))
        top, bottom = (min(max(y, 0), height) for y in (y0, y1))
        frame = np.zeros_like(made, dtype=bool)
        frame[top:bottom, left:right] = True
        frame[top + thick : bottom - thick, left + thick : right - thick] = False
        made[frame] = 255
    return made


def _grey(image: Tensor) -> NDArray[np.uint8]:
    return grey_of(plane(image.numpy()))
