"""Two models, or two sets of predictions, on the same cases: paired by case, subject and site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from allograft.results.claims import false_claim
from allograft.results.comparison import Comparison, of_areas, of_pooled, of_scores
from allograft.results.ranking import area_of
from allograft.results.statistics import Cases, adjust, bootstrap_pooled, paired

LOWER = ("hd95", "asd", "mae", "ece")
"""Metrics that are better when they are lower, by the beginning of their names."""
ALL = "all sites"
TRUE, CORRECT = "true_probability", "correct"
NOT_SCORES = ("case", "subject", "site", "label")


@dataclass(frozen=True)
class Difference:
    """The second less the first, by one metric at one site.

    Args:
        site: a site, or ``ALL``.
        metric: by name.
        a, b: the scores of the two, over the cases that are defined in both.
        found: the paired comparison, ``undefined`` counting the cases of the first and of the
            second; None where no case is defined in both.
    """

    site: str
    metric: str
    a: float | None
    b: float | None
    found: Comparison | None

    @property
    def is_lower_better(self) -> bool:
        """Whether a smaller number is better."""
        return self.metric.startswith(LOWER)

    @property
    def lead(self) -> float:
        """By how much the second is better; negative where the first is."""
        gap = self.found.difference if self.found else 0.0
        return -gap if self.is_lower_better else gap


@dataclass(frozen=True)
class Unmatched:
    """A labelled case that is left out, and whose prediction is missing, and why."""

    case: str
    subject: str
    site: str
    name: str
    reason: str


@dataclass(frozen=True)
class HeadToHead:
    """Two on the same cases.

    Args:
        names: of the first and the second.
        headline: the task's main metric.
        a, b: every compared case's metrics with its name, subject and site, in one order.
        differences: the headline first, each over all sites and at every site.
        unmatched: cases that one of them has no prediction for; they are left out of both.
        unlabelled: how many cases have no label.
        warnings: what the predictions themselves say, ``NAME: CASE: TEXT``.
    """

    names: tuple[str, str]
    headline: str
    a: Cases
    b: Cases
    differences: tuple[Difference, ...]
    unmatched: tuple[Unmatched, ...] = ()
    unlabelled: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def of_cases(self) -> str:
        """What single cases are shown and ranked by: the headline, or in its place what comes
        nearest to it."""
        return next(key for key in (self.headline, TRUE, "f1") if key in scores_of(self.a[0]))

    @property
    def sites(self) -> list[str]:
        """Every site with a labelled case, sorted; also one at which no case could be compared."""
        return sorted({str(case["site"]) for case in self.a} | {unmatched.site for unmatched in self.unmatched})

    @property
    def headlines(self) -> list[Difference]:
        """The differences by the headline."""
        return [difference for difference in self.differences if difference.metric == self.headline]

    @property
    def overall(self) -> Difference:
        """The headline over all cases."""
        return self.headlines[0]


def scores_of(case: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of a case; of class probabilities what the true class was given, and whether the
    answer is right (of several questions per case the means).

    >>> scores_of({"case": "a", "subject": "1", "site": "x", "label": 1, "probabilities": [0.25, 0.75]})
    {'true_probability': 0.75, 'correct': 1.0}
    """
    scores = {key: value for key, value in case.items() if key not in NOT_SCORES}
    numbers = {key: value for key, value in scores.items() if value is None or isinstance(value, (int, float))}
    if case.get("label") is None or "probabilities" not in case:
        return numbers
    given = np.asarray(case["probabilities"], np.float64)
    if isinstance(case["label"], list):
        truth = np.asarray(case["label"]) > 0.5
        return numbers | {
            TRUE: float(np.where(truth, given, 1 - given).mean()),
            CORRECT: float(((given >= 0.5) == truth).mean()),
        }
    return numbers | {TRUE: float(given[case["label"]]), CORRECT: float(given.argmax() == case["label"])}


def metrics_of(cases: Cases, headline: str) -> list[str]:
    """The names of all scores, the headline first and those by class last; of a single class only
    once.

    >>> metrics_of([{"case": "a", "iou/x": 0.1, "iou": 0.1, "dice": 0.2}], "dice")
    ['dice', 'iou']
    """
    names = list(dict.fromkeys(key for case in cases for key in scores_of(case)))
    several = len({name.split("/", 1)[1] for name in names if "/" in name}) > 1
    kept = [name for name in names if several or "/" not in name]
    return sorted(kept, key=lambda name: (name != headline, "/" in name))


def differences(task: Any, a: Cases, b: Cases) -> tuple[Difference, ...]:
    """Every metric of two on the same cases, over all of them and at each site, the headline first.

    The unit is the subject. A score of single cases is averaged over each subject's cases and has
    Student's interval and the exact signed-rank test; an area under the ROC curve has DeLong's;
    what else only a whole test set has is resampled, and has no test. p is adjusted by Holm over
    the sites. The probability of a false claim is that of the better one being no better, with a
    flat prior: two models alone say nothing of a prior.

    Args:
        a, b: the cases of each, in one order.
    """
    sites = sorted({str(case["site"]) for case in a})
    scopes = [ALL, *sites] if len(sites) > 1 else sites
    found_ = [one for scope in scopes for one in _at(task, scope, *(_within(cases, scope) for cases in (a, b)))]
    metrics = sorted(dict.fromkeys(one.metric for one in found_), key=lambda metric: metric != task.headline)
    return tuple(each for metric in metrics for each in _adjusted([one for one in found_ if one.metric == metric]))


def _within(cases: Cases, scope: str) -> list[dict[str, Any]]:
    bare = [{key: value for key, value in case.items() if key != "site"} for case in cases]
    return [bare_case for bare_case, case in zip(bare, cases, strict=True) if scope in (ALL, case["site"])]


def _at(task: Any, site: str, a: list[dict[str, Any]], b: list[dict[str, Any]]) -> list[Difference]:
    rows = [[{**case, **scores_of(case)} for case in cases] for cases in (a, b)]
    own = metrics_of(a, task.headline)
    pooled = [task.aggregate(cases) for cases in (a, b)]
    single = {key for case in a for key in scores_of(case)}
    whole = [key for key in pooled[0] if key not in single and not key.startswith("undefined/")]
    drawn = bootstrap_pooled([b], [a], task.aggregate) if whole else {}
    made = [_scored(site, metric, *rows) for metric in own]
    for metric in whole:
        first, second = (pooled_.get(metric) for pooled_ in pooled)
        areas = area_of(task, a, metric), area_of(task, b, metric)
        if first is None or second is None:
            made.append(Difference(site, metric, first, second, None))
        elif areas[0] is not None and areas[1] is not None:
            compared = of_areas(areas[1], areas[0], "two-sided")
            made.append(Difference(site, metric, first, second, replace(compared, cases=len(a))))
        else:
            subjects = len({case["subject"] for case in a})
            compared = of_pooled(metric, second - first, subjects, drawn.get(metric))
            made.append(Difference(site, metric, first, second, replace(compared, cases=len(a))))
    return made


def _scored(site: str, metric: str, a: Cases, b: Cases) -> Difference:
    both = paired({0: b}, {0: a}, metric)
    if not both.subjects:
        return Difference(site, metric, None, None, None)
    gaps = both.ours - both.theirs
    compared = of_scores(float(gaps.mean()), gaps, "two-sided")
    compared = replace(compared, cases=both.cases, undefined=(both.undefined[1], both.undefined[0]))
    return Difference(site, metric, float(both.theirs.mean()), float(both.ours.mean()), compared)


def _adjusted(rows: Sequence[Difference]) -> list[Difference]:
    """The rows of one metric, with p over its sites and the probability of a false claim."""
    tested = [row for row in rows if row.site != ALL and row.found is not None and row.found.p is not None]
    p = dict(zip((row.site for row in tested), adjust([_p(row) for row in tested]), strict=True))
    return [
        row if row.found is None else replace(row, found=_claimed(replace(row.found, adjusted=p.get(row.site))))
        for row in rows
    ]


def _p(row: Difference) -> float:
    assert row.found is not None
    assert row.found.p is not None
    return row.found.p


def _claimed(compared: Comparison) -> Comparison:
    if compared.sd is None or compared.dof is None:
        return compared
    claim = false_claim(abs(compared.difference), compared.sd / compared.subjects**0.5, compared.dof)
    return replace(compared, false_claim=float(claim))


def ordinals_of(compared: HeadToHead) -> dict[str, str]:
    """Subject -> S001, S002, ...: a page names nobody."""
    subjects = {str(case["subject"]) for case in compared.a} | {unmatched.subject for unmatched in compared.unmatched}
    return {subject: f"S{number:03d}" for number, subject in enumerate(sorted(subjects), 1)}


def worst(compared: HeadToHead, most: int = 10) -> list[int]:
    """Places of the cases at which the worse of the two scores is lowest, lowest first; where two
    are equal, that with the greater difference."""
    metric, ranked = compared.of_cases, []
    for index, pair in enumerate(zip(compared.a, compared.b, strict=True)):
        first, second = (scores_of(case).get(metric) for case in pair)
        if first is not None and second is not None:
            ranked.append((min(first, second), -abs(first - second), str(pair[0]["case"]), index))
    return [index for *_, index in sorted(ranked)[:most]]
