"""The fairness audit of a task that classifies: how each group of patients fares, the worst off,
and the gap between groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from allograft.cohort import Case
from allograft.cohort.manifest import is_missing
from allograft.results.analysis.operating_points import Cases, OperatingPoints, operating_points, rates_at
from allograft.results.areas import area_limits, mean_area
from allograft.results.ranking import AUROC, area_of
from allograft.results.scores import seed_cases
from allograft.results.select import Line
from allograft.results.statistics import Interval
from allograft.study.plan import Plan

LEAST = 10
"""Subjects of a group that is scored; fewer are shown as too small."""
MOST_VALUES = 12
"""An attribute with more values than this is a measurement, not a group."""
SITE = "site"


@dataclass(frozen=True)
class Group:
    """The test subjects with one value of an attribute.

    Args:
        name: the value.
        subjects, cases: how many; a subject whose cases differ in the attribute counts in several
            groups.
        scores: metric -> mean over seeds, None = undefined (one class, say); empty for a group that
            is too small.
        intervals: metric -> 95 % interval over subjects, of AUROC alone.
        ranked: of several classes those that have an AUROC here.
    """

    name: str
    subjects: int
    cases: int
    scores: Mapping[str, float | None] = field(default_factory=dict)
    intervals: Mapping[str, Interval | None] = field(default_factory=dict)
    ranked: frozenset[str] = frozenset()

    @property
    def is_too_small(self) -> bool:
        """Whether it has too few subjects to say anything of."""
        return self.subjects < LEAST


@dataclass(frozen=True)
class Audit:
    """One recipe's groups by one attribute.

    Args:
        title, target: the line of the table.
        attribute: a column of the manifest, or "site".
        headline: the task's metric.
        groups: in the order of their names.
        missing: test subjects with a case whose value is not stated (an empty cell, nan, unknown);
            such cases are in no group.
        threshold: how the operating point was chosen; "" where there is none (more than two
            classes).
    """

    title: str
    target: str
    attribute: str
    headline: str
    groups: tuple[Group, ...]
    missing: int = 0
    threshold: str = ""

    @property
    def worst(self) -> Group | None:
        """The group with the lowest headline; None where fewer than two have one."""
        scored = self._scored(self.headline)
        return min(scored, key=lambda group: group.scores[self.headline] or 0.0) if len(scored) > 1 else None

    def gap(self, metric: str = "") -> float | None:
        """Best less worst group, of the headline by default; None where fewer than two groups have
        a score.

        Of several groups the difference between best and worst is above 0 by chance alone.
        """
        values = [
            value
            for group in self._scored(metric or self.headline)
            if (value := group.scores[metric or self.headline]) is not None
        ]
        return max(values) - min(values) if len(values) > 1 else None

    def _scored(self, metric: str) -> list[Group]:
        return [group for group in self.groups if group.scores.get(metric) is not None]


def group_columns(cases: Sequence[Case]) -> tuple[str, ...]:
    """The attributes with 2 to 12 values among cases, in the order of the manifest; what stands for
    no value is none.

    >>> from pathlib import Path
    >>> group_columns([Case(n, n, "a", (Path(n),), attributes={"sex": n, "scanner": "one"}) for n in "fm"])
    ('sex',)
    """
    values: dict[str, set[str]] = {}
    for case in cases:
        for key, value in case.attributes.items():
            values.setdefault(key, set()).update(() if is_missing(value) else (value,))
    return tuple(key for key, present in values.items() if 2 <= len(present) <= MOST_VALUES)


def audits(plan: Plan, line: Line, cases: Iterable[Case]) -> list[Audit]:
    """A line of a classification's table, group by group: by site over all judged test cases, by
    each attribute at the target.

    Args:
        cases: the study's, for what records do not keep: their attributes.

    Returns:
        One for each attribute with 2 to 12 values among the target's labelled test cases, and one
        by site where several were judged. Empty for tasks that classify nothing.
    """
    task = classification_of(plan.task)
    if task is None:
        return []
    by_name = {case.name: case for case in cases}
    made = []
    sites = {
        site: _classified(seed_cases(line, site))
        for site in dict.fromkeys(site for run in line.runs for site in run.tests)
    }
    judged = {site: by_seed for site, by_seed in sorted(sites.items()) if any(by_seed.values())}
    points = operating_points(task, line)
    if len(judged) > 1:
        made.append(_audit(task, line, SITE, judged, points))
    here = judged.get(line.target, {})
    names = dict.fromkeys(str(case["case"]) for scored in here.values() for case in scored)
    for column in group_columns([by_name[name] for name in names if name in by_name]):
        stated = {name: by_name[name].attributes.get(column) for name in names if name in by_name}
        value_of = {name: None if is_missing(value) else value for name, value in stated.items()}
        groups: dict[str, dict[int, list[dict[str, Any]]]] = {}
        for value in _sorted({value for value in value_of.values() if value is not None}):
            groups[value] = {
                seed: [case for case in each if value_of.get(case["case"]) == value] for seed, each in here.items()
            }
        unstated = {
            str(case["subject"]) for each in here.values() for case in each if value_of.get(case["case"]) is None
        }
        made.append(_audit(task, line, column, groups, points, missing=len(unstated)))
    return made


def validation_audits(task: Any, scored: Cases, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """The groups of a model's own validation cases, as JSON: for each attribute the score of every
    group with ``LEAST`` subjects.

    Args:
        scored: what records say of the validation cases.
        cases: the study's, for their attributes.
    """
    part = classification_of(task)
    if part is None:
        return []
    labelled = [case for case in scored if case["label"] is not None]
    by_name = {case.name: case for case in cases}
    known = [by_name[str(case["case"])] for case in labelled if str(case["case"]) in by_name]
    made = []
    for column in group_columns(known):
        value_of = {case.name: case.attributes.get(column) for case in known}
        names = _sorted({value for value in value_of.values() if not is_missing(value) and value is not None})
        of_value = {name: [case for case in labelled if value_of.get(str(case["case"])) == name] for name in names}
        groups = [
            {"name": group.name, "subjects": group.subjects, "cases": group.cases, "scores": dict(group.scores)}
            for group in _comparable(
                [_group(part, name, {0: here}, OperatingPoints()) for name, here in of_value.items()]
            )
        ]
        made.append({"attribute": column, "headline": part.headline, "groups": groups})
    return made


def classification_of(task: Any) -> Any:
    """The task, or its part, that names a class (or several) an image; None where nothing does."""
    part = getattr(task, "classification", task)
    return part if part.key == "label" else None


def _classified(by_seed: Mapping[int, list[dict[str, Any]]]) -> dict[int, list[dict[str, Any]]]:
    """Without the cases that have no class: a multitask judges them by their masks alone."""
    return {seed: [case for case in cases if case["label"] is not None] for seed, cases in by_seed.items()}


def _audit(
    task: Any,
    line: Line,
    attribute: str,
    groups: Mapping[str, Mapping[int, Cases]],
    points: OperatingPoints,
    *,
    missing: int = 0,
) -> Audit:
    made = tuple(_comparable([_group(task, name, by_seed, points) for name, by_seed in groups.items()]))
    return Audit(line.title, line.target, attribute, task.headline, made, missing, points.how)


def _comparable(groups: Sequence[Group]) -> list[Group]:
    """The groups; one that lacks a class of another has no mean over classes, which would be over
    easier ones, or harder ones."""
    ranked = frozenset[str]().union(*(group.ranked for group in groups))
    return [
        group
        if group.ranked == ranked or group.is_too_small
        else replace(group, scores={**group.scores, AUROC: None}, intervals={})
        for group in groups
    ]


def _group(task: Any, name: str, by_seed: Mapping[int, Cases], points: OperatingPoints) -> Group:
    every = [cases for cases in by_seed.values() if cases]
    subjects = len({str(case["subject"]) for cases in every for case in cases})
    count = len({str(case["case"]) for cases in every for case in cases})
    if subjects < LEAST:
        return Group(name, subjects, count)
    metrics = tuple(dict.fromkeys((task.headline, "auroc", "ece")))
    pooled = [task.aggregate(cases) for cases in every]
    scores = {metric: _mean([pooled_.get(metric) for pooled_ in pooled]) for metric in metrics}
    rates = [rates_at(cases, points.of[seed]) for seed, cases in by_seed.items() if cases and seed in points.of]
    scores |= (
        {key: _mean([pooled_[key] for pooled_ in rates]) for key in ("sensitivity", "specificity")} if rates else {}
    )
    areas = [area for cases in every if (area := area_of(task, cases)) is not None]
    limits = {AUROC: area_limits(mean_area(areas))} if areas else {}
    ranked = (each for each in task.names if any(seed.get(f"{AUROC}/{each}") is not None for seed in pooled))
    return Group(name, subjects, count, scores, limits, frozenset(ranked))


def _mean(values: Sequence[float | None]) -> float | None:
    """Over seeds. What is undefined is so by the labels of the group, which all seeds share."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _sorted(values: Iterable[str]) -> list[str]:
    """Numbers by size, then words by letter."""

    def rank(value: str) -> tuple[bool, float, str]:
        try:
            return False, float(value), value
        except ValueError:
            return True, 0.0, value

    return sorted(values, key=rank)
