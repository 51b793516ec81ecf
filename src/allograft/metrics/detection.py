"""Average precision and recall of boxes as COCO defines them (Lin et al. 2014), in two parts: what
each image contributes, and what a set of images makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Intersections over union from which a box counts as found: 0.5, 0.55, ..., 0.95."""
RECALLS = torch.linspace(0, 1, 101, dtype=torch.float64)


def box_overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of each pair: (N, 4) and (M, 4) xyxy -> (N, M).

    >>> box_overlap(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]])).tolist()
    [[0.3333333432674408, 0.0]]
    """
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    both = (high - low).clamp_min(0).prod(2)
    areas_a, areas_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    return both / (areas_a[:, None] + areas_b[None] - both)


@dataclass(frozen=True)
class Matches:
    """What one image contributes.

    Args:
        score: (N,) of the boxes that were found, most certain first; at most the limit per class.
        label: (N,) int64.
        matched: (N, 10) bool, whether a box is a true one under each of ``THRESHOLDS``.
        truths: label -> how many true boxes there are.
        recalled: (M, 10) bool, whether each true box was found; None where that is not kept.
    """

    score: Tensor
    label: Tensor
    matched: Tensor
    truths: Mapping[int, int]
    recalled: Tensor | None = None


def match(
    xyxy: Tensor, label: Tensor, score: Tensor, true_xyxy: Tensor, true_label: Tensor, *, most: int = 300
) -> Matches:
    """Pair the boxes found in an image with the true ones.

    The most certain box of a class chooses first, and takes the true box of its class that is still
    free and overlaps it most, if the overlap reaches the threshold; of equal overlaps the last.

    Args:
        xyxy, label, score: (N, 4), (N,), (N,) of the boxes that were found.
        true_xyxy, true_label: (M, 4), (M,).
        most: boxes per class that count, the most certain ones (COCO's ``maxDets``).
    """
    order = score.argsort(descending=True, stable=True)
    xyxy, label, score = xyxy[order].double(), label[order], score[order]
    kept = torch.zeros(len(label), dtype=torch.bool)
    matched = torch.zeros(len(label), len(THRESHOLDS), dtype=torch.bool)
    recalled = torch.zeros(len(true_label), len(THRESHOLDS), dtype=torch.bool)
    for name in label.unique().tolist():
        own, true = (label == name).nonzero()[:, 0][:most], (true_label == name).nonzero()[:, 0]
        kept[own] = True
        matched[own], recalled[true] = _paired(box_overlap(xyxy[own], true_xyxy[true].double()))
    truths = {int(name): int((true_label == name).sum()) for name in true_label.unique()}
    return Matches(score[kept], label[kept], matched[kept], truths, recalled)


def _paired(overlap: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M) overlaps, rows most certain first -> (N, 10) bool, the true ones, and (M, 10) bool,
    the true boxes that they are."""
    thresholds = torch.tensor(THRESHOLDS, dtype=torch.float64).clamp_max(1 - 1e-10)
    count, truths = overlap.shape
    matched = torch.zeros(count, len(thresholds), dtype=torch.bool)
    if not truths:
        return matched, torch.zeros(0, len(thresholds), dtype=torch.bool)
    free = torch.ones(len(thresholds), truths, dtype=torch.bool)
    at = torch.arange(len(thresholds))
    for row in range(count):
        open_to = overlap[row].expand(len(thresholds), -1).masked_fill(~free, -1.0)
        best = truths - 1 - open_to.flip(1).argmax(1)  # of equal overlaps the last, as COCO has it
        matched[row] = open_to[at, best] >= thresholds
        free[at[matched[row]], best[matched[row]]] = False
    return matched, ~free.T


def pairs(xyxy: Tensor, label: Tensor, true_xyxy: Tensor, true_label: Tensor, *, overlap: float = 0.5) -> int:
    """How many boxes of an image pair with a true one at a single threshold, as ``match`` pairs
    them; of boxes without scores the first chooses first.

    Args:
        xyxy, label: (N, 4), (N,) of boxes, most certain first.
        true_xyxy, true_label: (M, 4), (M,).
        overlap: the intersection over union from which two boxes of one class may be a pair.

    Example:
        >>> one = torch.tensor([[0.0, 0, 4, 4]])
        >>> pairs(one.repeat(2, 1), torch.tensor([1, 1]), one, torch.tensor([1]))
        1
    """
    shared = box_overlap(xyxy.double(), true_xyxy.double()).masked_fill(label[:, None] != true_label, 0.0)
    open_to: dict[int, list[tuple[float, int]]] = {}
    for row, column in (shared >= overlap).nonzero().tolist():
        open_to.setdefault(row, []).append((float(shared[row, column]), column))
    taken: set[int] = set()
    for candidates in open_to.values():
        free = [pair for pair in candidates if pair[1] not in taken]
        if free:
            taken.add(max(free)[1])  # of equal overlaps the last, as ``match`` has it
    return len(taken)


def detection_metrics(images: Sequence[Matches]) -> dict[str, float]:
    """AP50, AP75, AP (mean over ``THRESHOLDS``) and AR of a set of images, means over the classes
    that have true boxes; nan where none has.

    >>> right = Matches(torch.tensor([0.9]), torch.tensor([1]), torch.ones(1, 10).bool(), {1: 1})
    >>> detection_metrics([right])
    {'ap50': 1.0, 'ap75': 1.0, 'ap': 1.0, 'ar': 1.0}
    """
    classes = sorted({name for image in images for name in image.truths})
    if not classes:
        return dict.fromkeys(("ap50", "ap75", "ap", "ar"), float("nan"))
    precisions, recalls = zip(*(_of_class(images, name) for name in classes), strict=True)
    precision, recall = torch.stack(precisions).mean(0), torch.stack(recalls).mean(0)
    return {
        "ap50": float(precision[0]),
        "ap75": float(precision[THRESHOLDS.index(0.75)]),
        "ap": float(precision.mean()),
        "ar": float(recall.mean()),
    }


def _of_class(images: Sequence[Matches], name: int) -> tuple[Tensor, Tensor]:
    """Average precision and largest recall under each threshold, (10,) and (10,)."""
    truths = sum(image.truths.get(name, 0) for image in images)
    score = torch.cat([image.score[image.label == name] for image in images])
    matched = torch.cat([image.matched[image.label == name] for image in images])
    if not len(score):
        return torch.zeros(len(THRESHOLDS), dtype=torch.float64), torch.zeros(len(THRESHOLDS), dtype=torch.float64)
    matched = matched[score.argsort(descending=True, stable=True)].double()
    true = matched.cumsum(0)
    recall = true / truths
    precision = true / torch.arange(1, len(true) + 1, dtype=torch.float64)[:, None]
    # the best precision at this recall or a higher one
    precision = precision.flip(0).cummax(0).values.flip(0)
    at = torch.searchsorted(recall.T.contiguous(), RECALLS.expand(len(THRESHOLDS), -1).contiguous())  # (10, 101)
    padded = torch.cat([precision, torch.zeros(1, len(THRESHOLDS), dtype=torch.float64)])
    return padded.gather(0, at.T).mean(0), recall[-1]
