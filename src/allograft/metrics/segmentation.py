"""Overlap and surface metrics of one case, from boolean masks or from label maps, in 2-D and
3-D."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.metrics.masks import IGNORED, box_of, check_maps, check_masks, check_spacing
from allograft.metrics.nearest import distances_between, surface_of
from allograft.metrics.surface import surface_dice

METRICS = ("dice", "iou", "hd95", "asd")
DISTANCES = ("hd95", "asd")
Missed = Literal["undefined", "diagonal"]
"""What the distance to a class is that only one of truth and prediction has."""


def dice(prediction: Tensor, target: Tensor) -> float:
    """Dice coefficient 2 |P and T| / (|P| + |T|), in [0, 1].

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.

    Returns:
        The coefficient; nan when both masks are empty, because no overlap is defined then.

    Raises:
        SpecError: the masks are not boolean, or their shapes differ.

    Example:
        >>> dice(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        0.6666666666666666
    """
    check_masks(prediction, target)
    return _dice(*_counts(prediction, target))


def iou(prediction: Tensor, target: Tensor) -> float:
    """Intersection over union |P and T| / |P or T| (Jaccard index), in [0, 1].

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.

    Returns:
        The index; nan when both masks are empty.

    Raises:
        SpecError: the masks are not boolean, or their shapes differ.

    Example:
        >>> iou(torch.tensor([True, True, False]), torch.tensor([True, False, False]))
        0.5
    """
    check_masks(prediction, target)
    return _iou(*_counts(prediction, target))


def surface_distances(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor) -> tuple[Tensor, Tensor]:
    """Distance in mm from each surface voxel of one mask to the nearest surface voxel of the other,
    both ways.

    A mask's surface is the mask minus its erosion by the cross-shaped element; voxels on the border
    of the image belong to it.

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.

    Returns:
        Two float64 tensors on the CPU, (N,) from the prediction's N surface voxels to the target's
        surface and (M,) back. An empty mask has no surface: N or M is 0, and the distances to it
        are inf.

    Raises:
        SpecError: the masks are not boolean, their shapes differ, or the spacing does not fit them.

    Example:
        >>> there, back = surface_distances(torch.tensor([[True, False, False]]),
        ...     torch.tensor([[False, False, True]]), (1.0, 0.5))
        >>> there.tolist(), back.tolist()
        ([1.0], [1.0])
    """
    check_masks(prediction, target)
    sampling = check_spacing(spacing, prediction.ndim)
    surfaces = [surface_of(mask) for mask in _joint_crop(prediction, target)]
    there, back = distances_between(surfaces[0], surfaces[1], sampling)
    return torch.from_numpy(there), torch.from_numpy(back)


def hausdorff95(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor) -> float:
    """95 % Hausdorff distance in mm: the larger of the 95th percentiles of the two directed surface
    distances.

    The percentile interpolates linearly, and is taken per direction, as in MONAI
    (``percentile=95, directed=False``); other libraries pool both directions first and get a
    smaller value.

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.

    Returns:
        The distance; nan when either mask is empty.

    Raises:
        SpecError: as ``surface_distances``.

    Example:
        >>> hausdorff95(torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]), (1.0, 0.5))
        1.0
    """
    return _hausdorff95(*surface_distances(prediction, target, spacing))


def average_surface_distance(prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor) -> float:
    """Symmetric average surface distance in mm: the mean of both directed surface distances, pooled
    (MONAI's ``symmetric=True``).

    Args:
        prediction: (*spatial) bool.
        target: (*spatial) bool, the same shape.
        spacing: voxel size in mm, one positive number per axis.

    Returns:
        The distance; nan when either mask is empty.

    Raises:
        SpecError: as ``surface_distances``.

    Example:
        >>> average_surface_distance(torch.tensor([[True, True, False]]),
        ...     torch.tensor([[False, True, True]]), (1.0, 2.0))
        1.0
    """
    return _average(*surface_distances(prediction, target, spacing))


def case_metrics(
    prediction: Tensor,
    target: Tensor,
    classes: Sequence[str],
    spacing: Sequence[float] | Tensor,
    region: Tensor | None = None,
    *,
    missed: Missed = "undefined",
    tolerance: float | None = None,
) -> dict[str, float]:
    """Dice, IoU, 95 % Hausdorff and average surface distance (mm) of one case, for each class and
    on average; surface Dice where a tolerance is named.

    Args:
        prediction: (*spatial) integer label map; 0 = background, i + 1 = ``classes[i]``.
        target: (*spatial) integer label map; -100 = not annotated, left out of both maps.
        classes: the names of the foreground classes.
        spacing: voxel size in mm, one positive number per axis.
        region: (*spatial) bool, the voxels that count; in both maps the others become background
            before measuring.
        missed: what the distance to a class is that only one map holds.
        tolerance: of surface Dice, in mm.

    Returns:
        ``dice/NAME``, ``iou/NAME``, ``hd95/NAME``, ``asd/NAME`` for each class, and their means
        ``dice``, ``iou``, ``hd95``, ``asd`` over the classes that either map holds. A class absent
        from both maps is nan throughout and left out of the means. One that only one of them holds
        has Dice and IoU 0 and no distance, so that the case's mean distance is nan too: a mean over
        the other classes would be better than one that includes a class found a voxel off. With
        ``missed="diagonal"`` also ``hd95_diagonal`` and ``asd_diagonal``, where the distance to
        such a class is the image's diagonal, as Reinke et al. 2024 discuss. With a tolerance also
        ``surface_dice/NAME`` and ``surface_dice``, see ``surface.surface_dice``: 0 for a class that
        only one map holds, so that missing a class never helps.

    Raises:
        SpecError: shapes differ, a map holds a value that is no class, or the spacing does not fit.

    Example:
        >>> truth = torch.tensor([[0, 1, 1], [0, 0, 0]])
        >>> scores = case_metrics(torch.tensor([[0, 1, 0], [0, 0, 0]]), truth, ["vessel", "lesion"], (1.0, 1.0))
        >>> round(scores["dice"], 3), scores["hd95/vessel"], scores["dice/lesion"]
        (0.667, 0.95, nan)
    """
    whole = check_maps(prediction, target, region, len(classes))
    # numpy compares several times as fast as torch
    maps, counted = (prediction.cpu().numpy(), target.cpu().numpy()), None
    if region is not None or not whole:
        counted = maps[1] != IGNORED if region is None else (maps[1] != IGNORED) & region.cpu().numpy()
    scores = {
        f"{metric}/{name}": value
        for number, name in enumerate(classes, start=1)
        for metric, value in _class_metrics(
            _mask_of(maps[0], number, counted), _mask_of(maps[1], number, counted), spacing, tolerance
        ).items()
    }
    metrics: tuple[str, ...] = (*METRICS, *(() if tolerance is None else ("surface_dice",)))
    if missed == "diagonal":
        scores |= _with_diagonal(scores, classes, image_diagonal(target.shape, spacing))
        metrics += tuple(f"{metric}_diagonal" for metric in DISTANCES)
    return scores | {metric: _mean_over_classes(metric, scores, classes) for metric in metrics}


def image_diagonal(shape: Sequence[int], spacing: Sequence[float] | Tensor) -> float:
    """Length in mm of the diagonal of an image, edges included: no two of its points are further
    apart.

    >>> image_diagonal((6, 4), (0.5, 1.0))
    5.0
    """
    return math.hypot(*(n * float(step) for n, step in zip(shape, spacing, strict=True)))


def _with_diagonal(scores: dict[str, float], classes: Sequence[str], diagonal: float) -> dict[str, float]:
    """``METRIC_diagonal/NAME``: the distance, or the diagonal where there is an overlap to measure
    but no distance."""
    return {
        f"{metric}_diagonal/{name}": diagonal if math.isnan(value) and not math.isnan(scores[f"dice/{name}"]) else value
        for metric in DISTANCES
        for name in classes
        for value in (scores[f"{metric}/{name}"],)
    }


def _mean_over_classes(metric: str, scores: dict[str, float], classes: Sequence[str]) -> float:
    """Over the classes that either map holds; nan where one of them has no value."""
    held = [scores[f"{metric}/{name}"] for name in classes if not math.isnan(scores[f"dice/{name}"])]
    return sum(held) / len(held) if held else math.nan


def _mask_of(labels: NDArray[Any], number: int, counted: NDArray[np.bool_] | None) -> Tensor:
    mask = labels == number
    return torch.from_numpy(mask if counted is None else mask & counted)


def _class_metrics(
    prediction: Tensor, target: Tensor, spacing: Sequence[float] | Tensor, tolerance: float | None
) -> dict[str, float]:
    # Both surface metrics share one pair of directed distances, which are nearly all of the cost.
    there, back = surface_distances(prediction, target, spacing)
    counts = _counts(prediction, target)
    values = (_dice(*counts), _iou(*counts), _hausdorff95(there, back), _average(there, back))
    named = dict(zip(METRICS, values, strict=True))
    return (
        named if tolerance is None else named | {"surface_dice": surface_dice(prediction, target, spacing, tolerance)}
    )


def _counts(prediction: Tensor, target: Tensor) -> tuple[int, int]:
    """Of voxels in both masks, and of those in one plus those in the other."""
    masks = (prediction & target, prediction, target)
    if prediction.device.type == "cpu":  # numpy counts five times as fast as torch
        both, *each = (int(np.count_nonzero(mask.numpy())) for mask in masks)
    else:
        both, *each = (int(torch.count_nonzero(mask)) for mask in masks)
    return both, sum(each)


def _dice(both: int, total: int) -> float:
    return 2 * both / total if total else math.nan


def _iou(both: int, total: int) -> float:
    return both / (total - both) if total else math.nan


def _hausdorff95(there: Tensor, back: Tensor) -> float:
    if not len(there) or not len(back):
        return math.nan
    # numpy, because torch.quantile refuses more than 16 million values.
    return max(float(np.percentile(there.numpy(), 95)), float(np.percentile(back.numpy(), 95)))


def _average(there: Tensor, back: Tensor) -> float:
    return float(torch.cat([there, back]).mean()) if len(there) and len(back) else math.nan


def _joint_crop(prediction: Tensor, target: Tensor) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both masks, cut to the box that holds them: distances are the same, and the transform sees
    far fewer voxels."""
    masks = prediction.cpu().numpy(), target.cpu().numpy()
    union = masks[0] | masks[1]
    box = box_of(union) if union.any() else (slice(0, 0),) * union.ndim
    return masks[0][box], masks[1][box]
