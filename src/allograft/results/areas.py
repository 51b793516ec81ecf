"""Areas under the ROC curve and their standard errors from influence values: DeLong, and
Obuchowski's for several images a subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allograft.results.intervals import Floats, quantile


@dataclass(frozen=True)
class Area:
    """An area, a mean of areas (over seeds, over classes), or a difference of two, with what each
    subject adds to its error.

    Args:
        value: the area in [0, 1]; of a difference in [-1, 1].
        subjects: (I,) the subjects with an image, sorted.
        positive, negative: (I,) influence of each subject's positive and of its negative images,
            sum over them of (placement - area), over the number of images of that kind. Each is
            scaled by sqrt(i / (i - 1)), i the subjects with such an image, nan with one alone.
        counts: subjects with a positive image, and with a negative one.
    """

    value: float
    subjects: tuple[str, ...]
    positive: Floats
    negative: Floats
    counts: tuple[int, int]

    @property
    def variance(self) -> float:
        """Of the value over subjects (Obuchowski 1997, equations 4 to 6); with one image per
        subject DeLong's (1988). nan where a single subject has all images of a kind."""
        if min(self.counts) < 2:
            return float("nan")
        within = len(self.subjects) / (len(self.subjects) - 1) / float(np.prod([_correction(i) for i in self.counts]))
        parts = (self.positive**2).sum() + (self.negative**2).sum() + 2 * within * (self.positive * self.negative).sum()
        return max(0.0, float(parts)) if not np.isnan(parts) else float("nan")

    @property
    def dof(self) -> float:
        """Degrees of freedom of the variance (Satterthwaite; Brunner & Munzel 2000): few positive
        subjects count as few."""
        each = np.array([(self.positive**2).sum(), (self.negative**2).sum()])
        if not each.sum() > 0:
            return float(min(self.counts) - 1)
        return float(each.sum() ** 2 / (each**2 / (np.array(self.counts) - 1)).sum())

    @property
    def per_subject(self) -> Floats:
        """(I,) values whose mean is the area and whose standard error of the mean is its own: what
        a resampling of subjects draws; nan where the variance is."""
        count = len(self.subjects)
        pull = self.positive + self.negative
        pull = pull - pull.mean()
        spread = float((pull**2).sum())
        scale = np.sqrt(self.variance / spread) if spread > 0 else 0.0
        return np.asarray(self.value + np.sqrt(count * (count - 1)) * scale * pull, np.float64)


def _correction(subjects: int) -> float:
    return float(np.sqrt(subjects / (subjects - 1))) if subjects > 1 else float("nan")


def area(score: ArrayLike, positive: ArrayLike, subject: Sequence[str]) -> Area | None:
    """The area of one score, ties counting half.

    Args:
        score: (N,) one per image.
        positive: (N,) whether the image has the finding.
        subject: (N,) whose it is.

    Returns:
        None where no image, or every image, is positive.

    >>> found = area([0.1, 0.4, 0.35, 0.8], [False, False, True, True], "abcd")
    >>> found.value, round(found.variance, 4)  # placements 1/2, 1 and 1, 1/2: variances 1/8 each, over 2
    (0.75, 0.125)
    """
    from scipy.stats import rankdata

    scores, flags = np.asarray(score, np.float64), np.asarray(positive, bool)
    m, n = int(flags.sum()), int((~flags).sum())
    if not m or not n:
        return None
    ranks = rankdata(scores)
    # the share of negatives that a positive is above
    above = (ranks[flags] - rankdata(scores[flags])) / n
    below = 1 - (ranks[~flags] - rankdata(scores[~flags])) / m
    value = float(above.mean())
    names, owner = np.unique(list(subject), return_inverse=True)
    counts = (len(set(owner[flags])), len(set(owner[~flags])))
    parts = [
        np.bincount(owner[mask], placed - value, len(names)) / len(placed) * _correction(count)
        for mask, placed, count in ((flags, above, counts[0]), (~flags, below, counts[1]))
    ]
    return Area(value, tuple(map(str, names)), parts[0], parts[1], counts)


def mean_area(areas: Sequence[Area]) -> Area:
    """The mean of several: of a row's seeds, or of its classes. Influence values are averaged, so
    what they share is not counted twice."""
    return _combined(areas, [1 / len(areas)] * len(areas))


def area_difference(a: Area, b: Area) -> Area:
    """``a`` less ``b``: of the same subjects the paired comparison of DeLong (1988)."""
    return _combined((a, b), (1.0, -1.0))


def _combined(areas: Sequence[Area], weights: Sequence[float]) -> Area:
    names = sorted(set().union(*(area.subjects for area in areas)))
    index_of = {name: index for index, name in enumerate(names)}
    value, parts = 0.0, np.zeros((2, len(names)))
    for area, weight in zip(areas, weights, strict=True):
        at: NDArray[np.intp] = np.array([index_of[name] for name in area.subjects])
        value += weight * area.value
        parts[0, at] += weight * area.positive
        parts[1, at] += weight * area.negative
    counts = (min(area.counts[0] for area in areas), min(area.counts[1] for area in areas))
    return Area(value, tuple(names), parts[0], parts[1], counts)


def area_limits(area: Area, level: float = 0.95) -> tuple[float, float] | None:
    """Limits of an area on the logit scale, with ``Area.dof``; where the area is 1 or 0 by ranks
    alone.

    Of an area of 1, k pairs of a positive and a negative image of subjects of their own are all in
    order; each is with the chance that is the area, so that its lower limit is that of Clopper &
    Pearson (1934) for k of k, (alpha / 2)^(1 / k). k is the number of such pairs that the subjects
    allow.

    Returns:
        None for a single subject, and for an area between 0 and 1 where only one has a positive, or
        a negative, image.

    >>> area_limits(area([1, 2, 3, 4], [False, False, True, True], "abcd"))  # 0.025 ** (1 / 2)
    (0.158..., 1.0)
    """
    from scipy.special import expit, logit

    if len(area.subjects) < 2:
        return None
    if area.value in (0.0, 1.0):
        reach = ((1 - level) / 2) ** (1 / min(*area.counts, max(1, len(area.subjects) // 2)))
        return (reach, 1.0) if area.value else (0.0, 1 - reach)
    if np.isnan(area.variance):
        return None
    half = quantile(level, area.dof) * np.sqrt(area.variance) / (area.value * (1 - area.value))
    return float(expit(logit(area.value) - half)), float(expit(logit(area.value) + half))


def area_difference_limits(a: Area, b: Area, level: float = 0.95) -> tuple[float, float] | None:
    """Limits of a paired difference by Student's t with ``Area.dof``; of two areas of 1 those that
    either limit alone allows. None for a single subject, and where ``Area.variance`` is nan."""
    if len(a.subjects) < 2:
        return None
    if a.value == b.value and a.value in (0.0, 1.0):
        low, high = area_limits(a, level) or (0.0, 1.0)
        return low - high, high - low
    difference = area_difference(a, b)
    if np.isnan(difference.variance):
        return None
    half = float(quantile(level, difference.dof) * np.sqrt(difference.variance))
    return difference.value - half, difference.value + half


def area_difference_p(a: Area, b: Area, alternative: str = "two-sided") -> float | None:
    """P of a paired difference (DeLong 1988), by Student's t with ``Area.dof``; 1 for two rows that
    rank alike."""
    from scipy.special import stdtr

    difference = area_difference(a, b)
    if np.isnan(difference.variance):
        return None
    if difference.variance == 0:
        return 1.0
    t = difference.value / np.sqrt(difference.variance)
    tails = {
        "greater": stdtr(difference.dof, -t),
        "less": stdtr(difference.dof, t),
        "two-sided": 2 * stdtr(difference.dof, -abs(t)),
    }
    return float(tails[alternative])
