"""Statistics of a study: subjects are the unit. Intervals by bootstrap over subjects, exact signed-rank tests, effect sizes.

Two images of a patient are one subject, and five seeds on eight patients are eight subjects: what varies between seeds is the
training, and it is shown beside, as a standard deviation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from allograft.study.spec import Adjustment, Alternative

DRAWS, POOLED_DRAWS = 9999, 199
"""Resamples of a mean, and of a metric that only ``aggregate`` can compute."""
EXACT = 50
"""Up to so many subjects p is exact."""

Cases = Sequence[Mapping[str, Any]]
Aggregate = Callable[[Cases], Mapping[str, float | None]]
Floats = NDArray[np.float64]
Interval = tuple[float, float]


def per_subject(cases: Cases, metric: str) -> dict[str, float]:
    """Subject -> mean of a metric over its cases, sorted; undefined (None) cases are left out, and subjects that have no other.

    >>> per_subject([{"subject": "b", "dice": 0.5}, {"subject": "a", "dice": 0.25}, {"subject": "a", "dice": 0.75}], "dice")
    {'a': 0.5, 'b': 0.5}
    """
    values: dict[str, list[float]] = {}
    for case in cases:
        if case.get(metric) is not None:
            values.setdefault(str(case["subject"]), []).append(float(case[metric]))
    return {subject: fmean(values[subject]) for subject in sorted(values)}


def paired(a: Mapping[int, Mapping[str, float]], b: Mapping[int, Mapping[str, float]]) -> tuple[tuple[str, ...], Floats, Floats]:
    """Two rows' scores of the subjects that both have, mean over the seeds in which both have the subject.

    Args:
        a, b: seed -> subject -> score.

    Returns:
        Subjects (sorted), and their scores (N,), (N,).

    >>> paired({0: {"x": 0.5}, 1: {"x": 0.7, "y": 1.0}}, {0: {"x": 0.25, "y": 0.0}})
    (('x',), array([0.5]), array([0.25]))
    """
    both: dict[str, list[Interval]] = {}
    for seed in a.keys() & b.keys():
        for subject in a[seed].keys() & b[seed].keys():
            both.setdefault(subject, []).append((a[seed][subject], b[seed][subject]))
    subjects = tuple(sorted(both))
    means = np.array([[fmean(column) for column in zip(*both[subject], strict=True)] for subject in subjects]).reshape(-1, 2)
    return subjects, means[:, 0], means[:, 1]


def mean(samples: Floats) -> Floats:
    """The mean of each sample: (D, N) -> (D,)."""
    return np.asarray(samples.mean(1), np.float64)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[[Floats], Floats] = mean,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval | None:
    """Bootstrap interval over subjects (Efron & Tibshirani 1993, chapters 13.3 and 14.3); the same arguments give the same interval.

    Percentile intervals of fewer than about ten subjects are too narrow: of samples of five normal values 84 % are covered, not 95 %.

    Args:
        values: (N,) a value a subject, or (N, K), for example pairs; rows are drawn whole, and their order does not matter.
        statistic: of many samples at once: (D, N) or (D, N, K) -> (D,).
        method: "bca" corrects for bias and skewness.

    Returns:
        Low and high; None for fewer than two subjects.

    >>> low, high = bootstrap_interval([0.1, 0.2, 0.3, 0.4])
    >>> 0.1 < low < 0.25 < high < 0.4
    True
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return None
    array = array[np.lexsort(array.reshape(len(array), -1).T)]
    return _interval(array.tobytes(), array.shape, statistic, level, draws, seed, method)


@lru_cache(4096)  # the report is written anew after each unit, and most of its lines are what they were
def _interval(
    data: bytes, shape: tuple[int, ...], statistic: Callable[[Floats], Floats], level: float, draws: int, seed: int, method: str
) -> Interval:
    array: Floats = np.frombuffer(data, np.float64).reshape(shape)
    rng, chunk = np.random.default_rng(seed), max(1, 2_000_000 // len(array))
    sizes = [min(chunk, draws - start) for start in range(0, draws, chunk)]
    drawn = np.concatenate([statistic(array[rng.integers(len(array), size=(size, len(array)))]) for size in sizes])
    shares = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "bca":
        shares = _corrected(array, statistic, drawn, shares)
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)


def _corrected(array: Floats, statistic: Callable[[Floats], Floats], drawn: Floats, shares: Floats) -> Floats:
    """The percentiles that BCa reads instead of ``shares`` (Efron & Tibshirani 1993, equations 14.10, 14.14 and 14.15)."""
    from scipy.special import ndtr, ndtri

    found = statistic(array[None])[0]
    below = ((drawn < found).mean() + (drawn <= found).mean()) / 2
    left_out = statistic(np.stack([np.delete(array, number, 0) for number in range(len(array))]))
    pull = left_out.mean() - left_out
    if not pull.any() or below in (0, 1):
        return shares
    bias, skew = ndtri(below), (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    shifted = bias + ndtri(shares)
    return np.asarray(ndtr(bias + shifted / (1 - skew * shifted)), np.float64)


def bootstrap_pooled(
    a: Sequence[Cases],
    b: Sequence[Cases] | None,
    aggregate: Aggregate,
    *,
    level: float = 0.95,
    draws: int = POOLED_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of metrics that only a whole test set has (AUROC), or of their differences between two rows.

    Subjects are drawn, with all their cases and the same ones for all seeds and both rows; the metrics are pooled anew for each seed, and
    their mean over seeds taken. A subject drawn twice counts as two. Draws where one is undefined (AUROC of one class) are left out.

    Args:
        a, b: the cases of each seed, of one row and of the one it is compared to.
        aggregate: as ``task.aggregate``; called ``draws`` times for each seed and row.

    Returns:
        Metric -> low and high, without those of which half of the draws are undefined; {} for fewer than two subjects.
    """
    every = [*a, *(b or ())]
    subjects = _in_all(every)
    if len(subjects) < 2:
        return {}
    groups = [_by_subject(cases) for cases in every]
    signs = np.array([1 / len(a)] * len(a) + [-1 / len(b)] * len(b) if b else [1 / len(a)] * len(a))
    rng, drawn = np.random.default_rng(seed), dict[str, list[float]]()
    for _ in range(draws):
        picked = Counter(subjects[which] for which in rng.integers(len(subjects), size=len(subjects)))
        pooled = [aggregate(_copies(group, picked)) for group in groups]
        for metric in pooled[0]:
            values = [one.get(metric) for one in pooled]
            if None not in values:
                drawn.setdefault(metric, []).append(float(signs @ np.array(values, np.float64)))
    shares = [(1 - level) / 2, (1 + level) / 2]
    bounds = {metric: np.quantile(values, shares) for metric, values in drawn.items() if 2 * len(values) > draws}
    return {metric: (float(low), float(high)) for metric, (low, high) in bounds.items()}


def _in_all(every: Sequence[Cases]) -> list[str]:
    sets = [{str(case["subject"]) for case in cases} for cases in every]
    return sorted(set.intersection(*sets)) if sets else []


def _by_subject(cases: Cases) -> dict[str, Cases]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for case in cases:
        groups.setdefault(str(case["subject"]), []).append(case)
    return dict(groups)


def _copies(group: Mapping[str, Cases], picked: Mapping[str, int]) -> list[Mapping[str, Any]]:
    """The cases of the drawn subjects; a second copy of a subject is another subject, or a mean over subjects would fold it into one."""
    return [
        {**case, "subject": f"{subject}\0{copy}"}
        for subject, times in sorted(picked.items())
        for copy in range(times)
        for case in group[subject]
    ]


def wilcoxon(differences: ArrayLike, alternative: Alternative = "two-sided") -> float | None:
    """P of the signed-rank test (Wilcoxon 1945); zeros are dropped (SciPy's ``zero_method="wilcox"``), and what is equal to 1e-12 is tied.

    Exact for up to 50 differences: without ties SciPy's; with ties the distribution of the sum of the mid-ranks over all 2^n signs,
    counted rather than listed. Beyond, SciPy's normal approximation.

    Args:
        alternative: "greater": the differences tend to be above zero.

    Returns:
        None when no difference is other than zero.

    >>> wilcoxon([0.1, 0.2, 0.3, 0.4]), wilcoxon([0.1, 0.1, 0.1]), wilcoxon([0.0])
    (0.125, 0.25, None)
    """
    from scipy import stats

    values = _nonzero(differences)
    if not len(values):
        return None
    if len(values) > EXACT or len(np.unique(np.abs(values))) == len(values):
        method: Any = "exact" if len(values) <= EXACT else "auto"
        return float(stats.wilcoxon(values, alternative=alternative, method=method).pvalue)
    doubled = np.rint(2 * stats.rankdata(np.abs(values))).astype(int)
    chances = np.ones(1)
    for rank in doubled:  # with chance one half the sum grows by the rank
        chances = (np.pad(chances, (0, rank)) + np.pad(chances, (rank, 0))) / 2
    positive = doubled[values > 0].sum()
    greater, less = float(chances[positive:].sum()), float(chances[: positive + 1].sum())
    return {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]


def smallest_p(subjects: int, alternative: Alternative = "two-sided") -> float:
    """The smallest p that an exact signed-rank test on so many subjects can give: all differences of one sign.

    >>> smallest_p(4), smallest_p(4, "greater")
    (0.125, 0.0625)
    """
    return min(1.0, 2.0 ** (-subjects + (alternative == "two-sided")))


def adjust(p_values: Sequence[float], method: Adjustment = "holm") -> list[float]:
    """P values for having asked several questions: Holm (1979), Bonferroni, or as they are.

    >>> adjust([0.01, 0.04, 0.03]), adjust([0.01, 0.04], "bonferroni")
    ([0.03, 0.06, 0.06], [0.02, 0.08])
    """
    p, count = np.asarray(p_values, np.float64), len(p_values)
    if method == "none":
        return p.tolist()
    if method == "bonferroni":
        return np.minimum(1, p * count).tolist()
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(count, 0, -1)))
    return adjusted.tolist()


def effect_size(differences: ArrayLike) -> tuple[float | None, float | None]:
    """Cohen's d_z and the matched-pairs rank-biserial correlation.

    d_z = mean / standard deviation (n - 1) of the differences (Lakens 2013, equation 6); None when they do not vary.
    The correlation is the rank sum of the gains less that of the losses, over both, from -1 to 1 (Kerby 2014); zeros are dropped,
    None when no difference is other than zero.

    >>> effect_size([1.0, 2.0, -3.0, 4.0])  # 1 / 2.944, (1 + 2 + 4 - 3) / 10
    (0.339..., 0.4)
    """
    from scipy.stats import rankdata

    every, values = np.sort(np.asarray(differences, np.float64)), _nonzero(differences)  # sorted: their order is not even a rounding
    spread = float(every.std(ddof=1)) if len(every) > 1 else 0.0
    ranks = rankdata(np.abs(values))
    d_z = float(every.mean()) / spread if spread > 1e-12 else None
    return d_z, float((ranks * np.sign(values)).sum() / ranks.sum()) if len(values) else None


def _nonzero(differences: ArrayLike) -> Floats:
    rounded = np.round(np.asarray(differences, np.float64), 12)  # 0.8 - 0.7 and 0.3 - 0.2 are tied
    return np.asarray(rounded[rounded != 0], np.float64)
