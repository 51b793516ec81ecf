"""Metrics of a test set from class probabilities: one label a case, or several."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "ece")
BINS = 15


def auroc(score: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: the chance that a positive case scores higher than a negative one,
    ties counting half.

    Args:
        score: (N,) float.
        positive: (N,) bool.

    Returns:
        In [0, 1]; nan without a positive or without a negative case.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
        0.75
    """
    _check(score, positive)
    flags: NDArray[np.bool_] = positive.cpu().numpy()
    positives = int(flags.sum())
    if positives in (0, len(flags)):
        return math.nan
    _, rank, count = np.unique(score.double().cpu().numpy(), return_inverse=True, return_counts=True)
    ranks = (count.cumsum() - (count - 1) / 2)[rank]  # of equal scores the mean
    above = float(ranks[flags].sum()) - positives * (positives + 1) / 2
    return above / (positives * (len(flags) - positives))


def average_precision(score: Tensor, positive: Tensor) -> float:
    """Average precision: the sum over thresholds of precision times the recall gained; cases of one
    score share a threshold.

    Args:
        score: (N,) float.
        positive: (N,) bool.

    Returns:
        In [0, 1]; nan without a positive or without a negative case, where it would say nothing of
        the order.

    Example:
        >>> round(average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])), 3)
        0.833
    """
    _check(score, positive)
    flags: NDArray[np.bool_] = positive.cpu().numpy()
    if not flags.any() or flags.all():
        return math.nan
    values = score.double().cpu().numpy()
    order = np.argsort(-values, kind="stable")
    ordered = values[order]
    # the last case of each score
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    hits = flags[order].cumsum()[last]
    gained = hits - np.concatenate([[0], hits[:-1]])
    return float((gained * hits / (last + 1)).sum() / hits[-1])


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Mean over cases of the gap between a bin's confidence and its accuracy (Guo et al. 2017,
    equation 3), in [0, 1].

    Args:
        confidence: (N,) probability given to the predicted class.
        correct: (N,) bool.
        bins: of equal width; bin m is ((m - 1) / bins, m / bins], and 0 belongs to the first.

    Returns:
        The error; nan without cases.

    Example:
        >>> round(expected_calibration_error(torch.tensor([0.9, 0.9]), torch.tensor([True, False])), 3)
        0.4
    """
    _check(confidence, correct)
    if not len(confidence):
        return math.nan
    values = confidence.double().cpu().numpy()
    gaps = values - correct.cpu().numpy()
    bin_of = np.searchsorted(np.linspace(0, 1, bins + 1)[1:-1], values)  # left-open, right-closed
    return float(np.abs(np.bincount(bin_of, gaps, bins)).sum() / len(values))


def confusion(predicted: Tensor, label: Tensor, classes: int) -> NDArray[np.int64]:
    """Counts (classes, classes), rows the label, columns what was found: (N,) and (N,) int64.

    >>> confusion(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    pairs = (label * classes + predicted).cpu().numpy()
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def recalls(counts: NDArray[np.int64]) -> list[float]:
    """Share of each class's cases that are found: of two classes, specificity and sensitivity. nan
    for a class that is absent.

    Args:
        counts: (K, K) of ``confusion``.
    """
    return [float(row[index] / row.sum()) if row.any() else math.nan for index, row in enumerate(counts)]


def balanced_accuracy(counts: NDArray[np.int64]) -> float:
    """Mean recall of the classes that are present: (K, K) of ``confusion`` -> [0, 1]; nan when
    fewer than two are.

    >>> balanced_accuracy(np.array([[2, 0], [1, 1]]))
    0.75
    """
    present = [value for value in recalls(counts) if not math.isnan(value)]
    return sum(present) / len(present) if len(present) > 1 else math.nan


def macro_f1(counts: NDArray[np.int64]) -> float:
    """Mean F1 of the classes that are present or predicted: (K, K) of ``confusion`` -> [0, 1]; nan
    as ``balanced_accuracy``.

    >>> round(macro_f1(np.array([[2, 0], [1, 1]])), 3)
    0.733
    """
    if (counts.sum(1) > 0).sum() < 2:
        return math.nan
    total = counts.sum(0) + counts.sum(1)
    return float((2 * counts.diagonal()[total > 0] / total[total > 0]).mean())


def classification_metrics(probabilities: Tensor, label: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """All metrics of a test set whose cases have one label each.

    With two classes AUROC and average precision are those of the second one, the finding. With more
    they are means over the classes, each against the rest, where that is defined.

    Args:
        probabilities: (N, K).
        label: (N,) int64.
        classes: K names.

    Returns:
        accuracy, balanced_accuracy, macro_f1, auroc, average_precision, ece; ``recall/NAME`` of
        each class, and with more than two classes ``auroc/NAME`` and ``average_precision/NAME``.
        nan = undefined: with a single class present, all but accuracy, ece and that class's recall.

    Raises:
        SpecError: shapes or labels that do not fit the classes.

    Example:
        >>> scores = classification_metrics(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]]),
        ...     torch.tensor([0, 1, 1]), ["no", "yes"])
        >>> round(scores["accuracy"], 3), scores["auroc"], scores["recall/yes"]
        (0.667, 1.0, 0.5)
    """
    if probabilities.shape != (len(label), len(classes)) or (
        len(label) and not 0 <= int(label.min()) <= int(label.max()) < len(classes)
    ):
        raise SpecError(
            f"probabilities {tuple(probabilities.shape)} and {len(label)} labels do not fit {len(classes)} classes"
        )
    confidence, predicted = probabilities.max(1) if len(label) else (probabilities.sum(1), label)
    counts = confusion(predicted, label, len(classes))
    if len(classes) == 2:
        score, positive = probabilities[:, 1], label == 1
        ranking = {"auroc": auroc(score, positive), "average_precision": average_precision(score, positive)}
    else:
        ranking = _ranking(probabilities, torch.stack([label == index for index in range(len(classes))], 1), classes)
    scores = {
        "accuracy": float(counts.trace() / len(label)) if len(label) else math.nan,
        "balanced_accuracy": balanced_accuracy(counts),
        "macro_f1": macro_f1(counts),
        "ece": expected_calibration_error(confidence, predicted == label),
        **ranking,
        **{f"recall/{name}": value for name, value in zip(classes, recalls(counts), strict=True)},
    }
    return _ordered(scores)


def multilabel_metrics(probabilities: Tensor, label: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """All metrics of a test set whose cases have any number of labels; each class is a question of
    its own, predicted from 0.5 on.

    Args:
        probabilities: (N, K).
        label: (N, K) of 0 and 1.
        classes: K names.

    Returns:
        Means over the classes where they are defined of accuracy, balanced_accuracy, F1
        (``macro_f1``), auroc, average_precision and ece (of the probability of the answer given),
        and ``auroc/NAME``, ``average_precision/NAME``, ``recall/NAME``. nan = undefined: all but
        accuracy and ece need a case with the class and a case without it.

    Example:
        >>> found = torch.tensor([[0.9, 0.2], [0.3, 0.4]])
        >>> scores = multilabel_metrics(found, torch.tensor([[1.0, 0.0], [0.0, 0.0]]), ["effusion", "nodule"])
        >>> scores["accuracy"], scores["auroc/effusion"], scores["auroc/nodule"]
        (1.0, 1.0, nan)
    """
    if probabilities.shape != label.shape or probabilities.ndim != 2 or probabilities.shape[1] != len(classes):
        raise SpecError(
            f"probabilities {tuple(probabilities.shape)} and labels {tuple(label.shape)}; expected (N, "
            f"{len(classes)}) both"
        )
    truth, predicted = label > 0.5, probabilities >= 0.5
    each: dict[str, list[float]] = {key: [] for key in ("accuracy", "balanced_accuracy", "macro_f1", "ece")}
    sensitivity = {}
    for index, name in enumerate(classes):
        p, t, f = probabilities[:, index].double(), truth[:, index], predicted[:, index]
        counts = confusion(f.long(), t.long(), 2)
        each["accuracy"].append(float(counts.trace() / len(t)) if len(t) else math.nan)
        each["balanced_accuracy"].append(balanced_accuracy(counts))
        both = counts.sum(1).all()
        each["macro_f1"].append(float(2 * counts[1, 1] / (counts[1].sum() + counts[:, 1].sum())) if both else math.nan)
        each["ece"].append(expected_calibration_error(p.where(f, 1 - p), f == t))
        sensitivity[f"recall/{name}"] = recalls(counts)[1]
    means = {key: _defined_mean(values) for key, values in each.items()}
    return _ordered({**means, **_ranking(probabilities, truth, classes), **sensitivity})


def _ranking(probabilities: Tensor, truth: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """AUROC and average precision of each class against the rest, and their means over the classes
    where they are defined."""
    scores: dict[str, float] = {}
    for metric, function in (("auroc", auroc), ("average_precision", average_precision)):
        each = {
            f"{metric}/{name}": function(probabilities[:, index], truth[:, index]) for index, name in enumerate(classes)
        }
        scores |= {metric: _defined_mean(list(each.values())), **each}
    return scores


def _ordered(scores: dict[str, float]) -> dict[str, float]:
    return {metric: scores[metric] for metric in METRICS} | scores


def _defined_mean(values: Sequence[float]) -> float:
    """Which classes are defined depends on the labels alone, so that every row has the mean of the
    same ones."""
    defined = [value for value in values if not math.isnan(value)]
    return sum(defined) / len(defined) if defined else math.nan


def _check(score: Tensor, flag: Tensor) -> None:
    if score.ndim != 1 or score.shape != flag.shape or flag.dtype != torch.bool:
        raise SpecError(
            f"scores {tuple(score.shape)} and flags {tuple(flag.shape)} of {flag.dtype}; expected (N,) both, flags "
            "boolean"
        )
