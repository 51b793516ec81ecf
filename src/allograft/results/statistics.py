"""Statistics of a study: subjects are the unit. Pairs of rows, exact signed-rank tests, effect
sizes, and a bootstrap of pooled metrics.

Two images of a patient are one subject, and five seeds on eight patients are eight subjects: what
varies between seeds is the training, and it is shown beside, as a standard deviation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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


def paired(
    a: Mapping[int, Mapping[str, float]], b: Mapping[int, Mapping[str, float]]
) -> tuple[tuple[str, ...], Floats, Floats]:
    """Two rows' scores of the subjects that both have, mean over the seeds in which both have the
    subject.

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
    means = np.array([[fmean(column) for column in zip(*both[subject], strict=True)] for subject in subjects]).reshape(
        -1, 2
    )
    return subjects, means[:, 0], means[:, 1]


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
    found: list[float] = (holm(p) if adjusted is None else adjusted).tolist()
    return found


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
