"""Statistics of a study: subjects are the unit. Pairs of rows, exact signed-rank tests, effect
sizes, and a bootstrap of pooled metrics.

Two images of a patient are one subject, and five seeds on eight patients are eight subjects: what
varies between seeds is the training, and it is shown beside, as a standard deviation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from allograft.results.intervals import Floats
from allograft.results.ranks import signed_rank_p

if TYPE_CHECKING:
    from allograft.study.keys import Adjustment, Alternative

POOLED_DRAWS = 199
"""Resamples of a metric that only ``aggregate`` can compute."""

Cases = Sequence[Mapping[str, Any]]
Aggregate = Callable[[Cases], Mapping[str, float | None]]
Interval = tuple[float, float]


def per_subject(cases: Cases, metric: str) -> dict[str, float]:
    """Subject -> mean of a metric over its cases, sorted; undefined (None) cases are left out, and
    subjects that have no other.

    >>> per_subject([{"subject": "b", "dice": 0.5}, {"subject": "a", "dice": 0.25},
    ...     {"subject": "a", "dice": 0.75}], "dice")
    {'a': 0.5, 'b': 0.5}
    """
    values: dict[str, list[float]] = {}
    for case in cases:
        if case.get(metric) is not None:
            values.setdefault(str(case["subject"]), []).append(float(case[metric]))
    return {subject: fmean(values[subject]) for subject in sorted(values)}


@dataclass(frozen=True)
class Paired:
    """Two rows' scores of a metric of single cases, over the cases in which both have one.

    Args:
        subjects: sorted.
        ours, theirs: (N,) of each subject the mean over its cases, then over the seeds that both
            finished.
        cases: how many cases are compared, in some seed.
        undefined: how many cases have no value, in some seed, in our row and in theirs.
    """

    subjects: tuple[str, ...]
    ours: Floats
    theirs: Floats
    cases: int
    undefined: tuple[int, int]


def paired(a: Mapping[int, Cases], b: Mapping[int, Cases], metric: str) -> Paired:
    """Pair two rows case by case: one that is undefined in either is left out of both, so that
    neither is measured on easier cases than the other.

    Args:
        a, b: seed -> its cases.

    >>> hard, easy = {"subject": "x", "case": "hard"}, {"subject": "x", "case": "easy"}
    >>> found = paired({0: [hard | {"hd95": None}, easy | {"hd95": 2.0}]},
    ...     {0: [hard | {"hd95": 9.0}, easy | {"hd95": 1.0}]}, "hd95")
    >>> found.ours, found.theirs, found.cases, found.undefined
    (array([2.]), array([1.]), 1, (1, 0))
    """
    means: dict[str, list[Interval]] = {}
    compared: set[str] = set()
    for seed in sorted(a.keys() & b.keys()):
        ours, theirs = (
            {str(case["case"]): case for case in row[seed] if case.get(metric) is not None} for row in (a, b)
        )
        both = [name for name in ours if name in theirs]
        compared.update(both)
        columns = [per_subject([row[name] for name in both], metric) for row in (ours, theirs)]
        for subject, value in columns[0].items():
            means.setdefault(subject, []).append((value, columns[1][subject]))
    subjects = tuple(sorted(means))
    values = np.array([[fmean(column) for column in zip(*means[subject], strict=True)] for subject in subjects])
    values = values.reshape(-1, 2)
    counts = (len(undefined_in(a, metric)), len(undefined_in(b, metric)))
    return Paired(subjects, values[:, 0], values[:, 1], len(compared), counts)


def undefined_in(by_seed: Mapping[int, Cases], metric: str) -> set[str]:
    """The cases of which a row should have a metric and has none, in some seed.

    Args:
        by_seed: seed -> its cases.
    """
    return {
        str(case["case"]) for cases in by_seed.values() for case in cases if metric in case and case[metric] is None
    }


def bootstrap_pooled(
    a: Sequence[Cases],
    b: Sequence[Cases] | None,
    aggregate: Aggregate,
    *,
    level: float = 0.95,
    draws: int = POOLED_DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of metrics that only a whole test set has (AUROC), or of their
    differences between two rows.

    Subjects are drawn, with all their cases and the same ones for all seeds and both rows; the
    metrics are pooled anew for each seed, and their mean over seeds taken. A subject drawn twice
    counts as two. Draws where one is undefined (AUROC of one class) are left out.

    Args:
        a, b: the cases of each seed, of one row and of the one it is compared to.
        aggregate: as ``task.aggregate``; called ``draws`` times for each seed and row.

    Returns:
        Metric -> low and high, without those of which half of the draws are undefined; {} for fewer
        than two subjects.
    """
    every = [*a, *(b or ())]
    subjects = _in_all(every)
    if len(subjects) < 2:
        return {}
    groups = [_by_subject(cases) for cases in every]
    signs = np.array([1 / len(a)] * len(a) + [-1 / len(b)] * len(b) if b else [1 / len(a)] * len(a))
    rng, drawn = np.random.default_rng(seed), dict[str, list[float]]()
    for _ in range(draws):
        picked = Counter(subjects[number] for number in rng.integers(len(subjects), size=len(subjects)))
        pooled = [aggregate(_copies(group, picked)) for group in groups]
        for metric in pooled[0]:
            values = [scores.get(metric) for scores in pooled]
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
    """The cases of the drawn subjects; a second copy of a subject is another subject, or a mean
    over subjects would fold it into one."""
    return [
        {**case, "subject": f"{subject}\0{copy}"}
        for subject, times in sorted(picked.items())
        for copy in range(times)
        for case in group[subject]
    ]


def wilcoxon(differences: ArrayLike, alternative: Alternative = "two-sided") -> float | None:
    """P of the signed-rank test of one sample, see ``signed_rank_p``; None when no difference is
    other than zero.

    >>> wilcoxon([0.1, 0.2, 0.3, 0.4]), wilcoxon([0.1, 0.1, 0.1]), wilcoxon([0.0])
    (0.125, 0.25, None)
    """
    p = float(signed_rank_p(np.asarray(differences, np.float64)[None], alternative)[0])
    return None if math.isnan(p) else p


def smallest_p(subjects: int, alternative: Alternative = "two-sided") -> float:
    """The smallest p that an exact signed-rank test on so many subjects can give: all differences
    of one sign.

    >>> smallest_p(4), smallest_p(4, "greater")
    (0.125, 0.0625)
    """
    return min(1.0, 2.0 ** (-subjects + (alternative == "two-sided")))


def adjust(p_values: Sequence[float], method: Adjustment = "holm") -> list[float]:
    """P values for having asked several questions: Holm (1979), Bonferroni, or as they are.

    >>> adjust([0.01, 0.04, 0.03]), adjust([0.01, 0.04], "bonferroni")
    ([0.03, 0.06, 0.06], [0.02, 0.08])
    """
    p = np.asarray(p_values, np.float64)
    adjusted = {"none": p, "bonferroni": np.minimum(1, p * len(p))}.get(method)
    adjusted_: list[float] = (holm(p) if adjusted is None else adjusted).tolist()
    return adjusted_


def holm(p: ArrayLike) -> Floats:
    """P values adjusted for the questions along the last axis (Holm 1979): (..., K) -> (..., K).

    >>> holm([[0.01, 0.04, 0.03], [0.5, 0.01, 0.5]]).round(2).tolist()
    [[0.03, 0.06, 0.06], [1.0, 0.03, 1.0]]
    """
    values = np.asarray(p, np.float64)
    order = np.argsort(values, -1, kind="stable")
    scaled = np.take_along_axis(values, order, -1) * np.arange(values.shape[-1], 0, -1)
    adjusted = np.empty_like(values)
    np.put_along_axis(adjusted, order, np.minimum(1, np.maximum.accumulate(scaled, -1)), -1)
    return adjusted


def effect_size(differences: ArrayLike) -> tuple[float | None, float | None]:
    """Cohen's d_z and the matched-pairs rank-biserial correlation.

    d_z = mean / standard deviation (n - 1) of the differences (Lakens 2013, equation 6); None when
    they do not vary. The correlation is the rank sum of the gains less that of the losses, over
    both, from -1 to 1 (Kerby 2014); zeros are dropped, None when no difference is other than zero.

    >>> effect_size([1.0, 2.0, -3.0, 4.0])  # 1 / 2.944, (1 + 2 + 4 - 3) / 10
    (0.339..., 0.4)
    """
    from scipy.stats import rankdata

    every, values = (
        np.sort(np.asarray(differences, np.float64)),
        _nonzero(differences),
    )  # sorted: their order is not even a rounding
    spread = float(every.std(ddof=1)) if len(every) > 1 else 0.0
    ranks = rankdata(np.abs(values))
    d_z = float(every.mean()) / spread if spread > 1e-12 else None
    return d_z, float((ranks * np.sign(values)).sum() / ranks.sum()) if len(values) else None


def _nonzero(differences: ArrayLike) -> Floats:
    rounded = np.round(np.asarray(differences, np.float64), 12)  # 0.8 - 0.7 and 0.3 - 0.2 are tied
    return np.asarray(rounded[rounded != 0], np.float64)
