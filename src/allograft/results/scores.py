"""The scores of a row at a site, of seeds and of subjects, and their intervals over subjects."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from allograft.results.areas import Area, area_limits, mean_area
from allograft.results.intervals import score_limits, t_limits
from allograft.results.ranking import area_of
from allograft.results.select import Line
from allograft.results.statistics import Cases, Interval, bootstrap_pooled, per_subject, undefined_in
from allograft.study.plan import Plan
from allograft.tree import content_hash

SHARES = ("dice", "iou", "ssim", "surface_dice")
"""Scores of single cases that lie in [0, 1], and have an interval that stays there."""


def seed_cases(line: Line, site: str) -> dict[int, list[dict[str, Any]]]:
    """Seed -> every judged test case of a site, all folds together; failed seeds are left out."""
    runs = [run for run in line.runs if not run.error and run.tests.get(site)]
    return {run.row.seed: [case for record in run.tests[site] for case in record.measured] for run in runs}


def subject_ids(line: Line, site: str) -> set[str]:
    """Test subjects of a site, over all seeds and folds."""
    return {str(case["subject"]) for cases in seed_cases(line, site).values() for case in cases}


def case_names(line: Line, site: str) -> set[str]:
    """Test cases of a site that have labels, over all seeds and folds."""
    return {str(case["case"]) for cases in seed_cases(line, site).values() for case in cases}


def undefined_cases(line: Line, site: str, metric: str) -> int:
    """How many test cases of a site have no value of a metric of single cases, in some seed."""
    return len(undefined_in(seed_cases(line, site), metric))


def labelled_subjects(line: Line, target: str) -> float:
    """Target subjects whose labels a row saw, mean over its runs."""
    counts = [
        len({s for record in run.tests[target] for s in record.labelled_subjects})
        for run in line.runs
        if run.tests.get(target)
    ]
    return fmean(counts) if counts else 0.0


def seed_scores(plan: Plan, line: Line, site: str, metric: str = "") -> dict[int, float]:
    """Seed -> a metric (the headline by default) at a site, pooled over its subjects; undefined
    seeds are left out."""
    pooled = {
        seed: plan.task.aggregate(cases).get(metric or plan.headline)
        for seed, cases in seed_cases(line, site).items()
        if cases
    }
    return {seed: float(value) for seed, value in pooled.items() if value is not None}


def subject_scores(plan: Plan, line: Line, site: str, metric: str = "") -> dict[str, float]:
    """Subject -> a metric (the headline by default) at a site: mean over its cases, then over
    seeds. {} where no single case has it."""
    scores = scores_by_seed(plan, line, site, metric)
    subjects = sorted(set().union(*scores.values()))
    return {
        subject: fmean(by_subject[subject] for by_subject in scores.values() if subject in by_subject)
        for subject in subjects
    }


def score_interval(plan: Plan, line: Line, site: str) -> Interval | None:
    """The 95 % interval over subjects of a row's score at a site; None for fewer than two
    subjects."""
    return _own(plan, line, site, plan.headline) or pooled_intervals(plan, line, site).get(plan.headline)


def intervals(plan: Plan, line: Line, site: str) -> dict[str, Interval]:
    """Metric -> its 95 % interval over subjects, of each that a row has at a site; without those
    that have none.

    A score of single cases in [0, 1] has ``score_limits``, another ``t_limits``; an area under the
    ROC curve ``area_limits``; whatever else only a whole test set has, a bootstrap over subjects.
    """
    own = {name: _own(plan, line, site, name) for name in line.metrics.get(site, ())}
    lacking = [
        name for name, interval in own.items() if interval is None and not subject_scores(plan, line, site, name)
    ]
    pooled = pooled_intervals(plan, line, site) if lacking else {}
    merged = {name: interval or pooled.get(name) for name, interval in own.items()}
    return {name: interval for name, interval in merged.items() if interval is not None}


def _own(plan: Plan, line: Line, site: str, metric: str) -> Interval | None:
    """In closed form, where there is one."""
    scores = subject_scores(plan, line, site, metric)
    if not scores:
        area = line_area(plan, line, site, metric)
        return None if area is None else area_limits(area)
    if len(scores) < 2:
        return None
    limits = score_limits if metric.split("/")[0] in SHARES else t_limits
    low, high = limits(sorted(scores.values()))
    return float(low), float(high)


def line_area(plan: Plan, line: Line, site: str, metric: str = "") -> Area | None:
    """A row's area under the ROC curve at a site, mean over the seeds in which it is defined; None
    for other metrics."""
    areas = seed_areas(plan, line, site, metric)
    return mean_area(list(areas.values())) if areas else None


def seed_areas(plan: Plan, line: Line, site: str, metric: str = "") -> dict[int, Area]:
    """Seed -> area under the ROC curve, where the metric is one and is defined."""
    each = {seed: area_of(plan.task, cases, metric or plan.headline) for seed, cases in seed_cases(line, site).items()}
    return {seed: area for seed, area in each.items() if area is not None}


def pooled_intervals(plan: Plan, line: Line, site: str) -> dict[str, Interval]:
    """Of what only a whole test set has, by bootstrap."""
    return drawn(plan, [cases for cases in seed_cases(line, site).values() if cases])


def drawn(plan: Plan, a: Sequence[Cases], b: Sequence[Cases] | None = None) -> dict[str, Interval]:
    """``bootstrap_pooled``, once for the same cases: the report is written anew after each unit,
    and most lines are what they were."""
    asked = content_hash(repr(plan.task), a, b)
    if asked not in _ANSWERED:
        _ANSWERED[asked] = bootstrap_pooled(a, b, plan.task.aggregate)
    return _ANSWERED[asked]


_ANSWERED: dict[str, dict[str, Interval]] = {}


def scores_by_seed(plan: Plan, line: Line, site: str, metric: str = "") -> dict[int, dict[str, float]]:
    """Seed -> subject -> a metric of single cases, mean over the subject's cases."""
    return {seed: per_subject(cases, metric or plan.headline) for seed, cases in seed_cases(line, site).items()}


def is_scored(plan: Plan, line: Line, site: str) -> bool:
    """Whether the headline is a score of single cases."""
    return any(plan.headline in case for cases in seed_cases(line, site).values() for case in cases)
