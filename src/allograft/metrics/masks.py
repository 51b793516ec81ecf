"""What masks, label maps and voxel sizes must be before they are measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError

IGNORED = -100
"""In a label map: not annotated."""


def check_masks(prediction: Tensor, target: Tensor) -> None:
    """Refuse two masks that are not boolean or have different shapes (``SpecError``)."""
    if prediction.shape != target.shape:
        raise SpecError(
            f"prediction has shape {tuple(prediction.shape)} but target {tuple(target.shape)}; bring them to one grid"
        )
    for name, mask in (("prediction", prediction), ("target", target)):
        if mask.dtype != torch.bool:
            raise SpecError(
                f"{name} is {mask.dtype}, expected torch.bool; threshold it or compare it with a class first"
            )


def check_spacing(spacing: Sequence[float] | Tensor, dims: int) -> tuple[float, ...]:
    """A voxel size in mm as numbers, one per axis; ``SpecError`` where it does not fit."""
    sizes = tuple(float(size) for size in spacing)
    if len(sizes) != dims or not all(0 < size < math.inf for size in sizes):
        raise SpecError(f"spacing is {list(sizes)}, expected {dims} positive numbers in mm, one per axis of the mask")
    return sizes


def check_maps(prediction: Tensor, target: Tensor, region: Tensor | None, classes: int) -> bool:
    """Refuse label maps with a value that is no class, of another type or of different shapes
    (``SpecError``).

    Args:
        prediction, target: (*spatial) integers from 0 to ``classes``; of the target -100 too.
        region: (*spatial) bool, or None.
        classes: how many, without the background.

    Returns:
        Whether every voxel of the target is annotated.
    """
    whole = True
    shapes = {tuple(each.shape) for each in (prediction, target, region) if each is not None}
    if len(shapes) > 1:
        raise SpecError(f"prediction, target and region have different shapes {sorted(shapes)}; bring them to one grid")
    if region is not None and region.dtype != torch.bool:
        raise SpecError(f"region is {region.dtype}, expected torch.bool (True = counts)")
    for name, labels, ignored in (("prediction", prediction, 0), ("target", target, IGNORED)):
        if labels.is_floating_point() or labels.is_complex():
            raise SpecError(
                f"{name} is {labels.dtype}, expected an integer label map; take the argmax of the logits first"
            )
        values = labels.cpu().numpy()
        # read without its sign, a negative number is larger than any class
        if not values.size or values.view(f"u{values.itemsize}").max() <= classes:
            continue
        whole = False
        wrong = ((values < 0) | (values > classes)) & (values != ignored)
        if wrong.any():
            raise SpecError(
                f"{name} holds {int(values[wrong][0])}, which is no class; expected 0 (background) to {classes}"
            )
    return whole


def box_of(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The smallest box that holds a mask, which must not be empty."""
    box: list[slice] = []
    while mask.ndim:
        held = np.flatnonzero(mask.reshape(len(mask), -1).any(axis=1))
        box.append(slice(int(held[0]), int(held[-1]) + 1))
        mask = np.logical_or.reduce(mask[box[-1]], axis=0)
    return tuple(box)
