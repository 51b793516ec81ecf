"""How many labels: score against the budget of target labels, over the parts of a study that differ
in it alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from allograft.recipe import total_needs
from allograft.results.comparison import NOTHING, Comparison, compare, verdict_reference
from allograft.results.csv_files import word, write_rows
from allograft.results.intervals import Floats
from allograft.results.power_law import FEWEST, Fit, expected_gain
from allograft.results.scores import (
    labelled_subjects,
    score_interval,
    scores_by_seed,
    seed_areas,
    seed_scores,
    subject_ids,
)
from allograft.results.select import Line, is_bound
from allograft.results.standing import Standing
from allograft.study.keys import TargetLabels
from allograft.study.parts import budget_name
from allograft.study.plan import Plan
from allograft.study.spec import Study

FILE = "label_curve.csv"
MORE = 4
"""Labels beyond the largest budget of which the gain is predicted."""
MOST = 1.0
"""The largest value of every task's headline."""
COLUMNS = (
    *("part", "target", "recipe", "kind", "unit", "budget", "labelled_subjects", "metric", "seeds_done", "subjects"),
    *("score", "low", "high", "difference", "difference_low", "difference_high", "best", "verdict"),
    *("more", "gain", "gain_low", "gain_high", "ceiling", "drop", "rate", "note"),
)


class Part(Protocol):
    """One of the studies that a study consists of."""

    @property
    def name(self) -> str:
        """``from a, subjects-4``."""

    @property
    def study(self) -> Study:
        """What it asks."""

    @property
    def plan(self) -> Plan:
        """Its rows."""

    @property
    def standing(self) -> Standing:
        """Its table and verdicts."""


@dataclass(frozen=True)
class Point:
    """A recipe at one budget.

    Args:
        amount: the budget; of fractions the labelled subjects that they come to.
        score: mean over seeds, test subjects pooled.
        low, high: 95 % interval over test subjects, or None.
        gain: against no adaptation; None where it has no counterpart.
    """

    amount: float
    line: Line
    score: float
    low: float | None
    high: float | None
    gain: Comparison | None


@dataclass(frozen=True)
class Curve:
    """A recipe over the budgets.

    Args:
        uses_labels: whether the recipe uses labels of the target, within the budget.
        bound: whether it uses all of them at every budget.
        fit: None for fewer than ``FEWEST`` budgets, or where no label is used.
    """

    title: str
    points: tuple[Point, ...]
    uses_labels: bool
    bound: bool
    fit: Fit | None


@dataclass(frozen=True)
class LabelCurve:
    """All that is known of one target over the budgets of one setting.

    Args:
        part: the setting, ``from a`` say; "" where the budgets are the only parts.
        unit: subjects, cases or slices.
        seeds: how many the study has.
        amounts: the budgets.
        curves: one a row of the table, in its order.
        verdicts: budget -> the row that its verdict names, or "".
        nested: "" where the subjects labelled at each budget are among those of the next, else the
            first that are not.
        units, distinct: of all budgets together, counted at each and counted once.
    """

    part: str
    target: str
    unit: str
    metric: str
    seeds: int
    amounts: tuple[float, ...]
    curves: tuple[Curve, ...]
    verdicts: dict[float, str]
    nested: str
    units: int
    distinct: int

    def best(self, amount: float) -> tuple[Curve, Point] | None:
        """The row with the highest mean test score at a budget, upper bounds aside."""
        here = [(curve, point) for curve in self.curves if not curve.bound for point in curve.points]
        return max((pair for pair in here if pair[1].amount == amount), key=lambda pair: pair[1].score, default=None)

    @property
    def nothing(self) -> float | None:
        """The score of no adaptation, which no budget changes."""
        return next((curve.points[0].score for curve in self.curves if curve.title in NOTHING and curve.points), None)

    @property
    def lacking(self) -> int:
        """How many budgets more a fitted curve needs."""
        return max(0, FEWEST - len(self.amounts))


def label_curves(parts: Sequence[Part]) -> list[LabelCurve]:
    """A curve for each setting and target that was run at two budgets or more.

    Args:
        parts: those of a study that have been run so far.
    """
    groups: dict[str, list[tuple[Part, TargetLabels]]] = {}
    for part in parts:
        budget = part.study.target_labels
        if isinstance(budget, TargetLabels) and (group := _setting(part.name, budget_name(budget))) is not None:
            groups.setdefault(group, []).append((part, budget))
    return [
        _curve_of(group, target.name, every)
        for group, every in groups.items()
        if len(every) > 1
        for target in every[0][0].study.questions
    ]


def _setting(name: str, budget: str) -> str | None:
    """A part's name without that of its budget; None where the budget is no part of it."""
    *setting, last = name.split(", ")
    return ", ".join(setting) if last == budget else None


def _curve_of(group: str, target: str, every: Sequence[tuple[Part, TargetLabels]]) -> LabelCurve:
    parts, unit = [part for part, _ in every], every[0][1].unit
    amounts = [budget.amounts[0] for _, budget in every]
    if unit == "fraction":
        unit, amounts = "subjects", [_subjects(part, target) for part in parts]
    units = [set(part.plan.units) for part in parts]
    titles = dict.fromkeys(line.title for part in parts for line in part.standing.lines if line.target == target)
    chosen = [
        next((line.title for line in part.standing.lines if line.target == target and line.chosen), "")
        for part in parts
    ]
    return LabelCurve(
        group,
        target,
        unit,
        parts[0].plan.headline,
        parts[0].plan.seeds,
        tuple(amounts),
        tuple(_row(title, target, list(zip(amounts, parts, strict=True))) for title in titles),
        dict(zip(amounts, chosen, strict=True)),
        _nested(target, amounts, parts),
        sum(map(len, units)),
        len(set().union(*units)),
    )


def _row(title: str, target: str, parts: Sequence[tuple[float, Part]]) -> Curve:
    points, plan = [], parts[0][1].plan
    for amount, part in parts:
        line = next((line_ for line_ in part.standing.lines if (line_.title, line_.target) == (title, target)), None)
        score = None if line is None else line.score(target)
        if line is None or score is None:
            continue
        low, high = score_interval(part.plan, line, target) or (None, None)
        base = verdict_reference(part.standing.lines, part.plan, target)
        gains = {} if base is None else compare(part.standing.lines, part.plan, target, base.title)
        points.append(Point(amount, line, score, low, high, gains.get(title)))
    recipes = [line.recipe for _, part in parts for line in part.standing.lines if line.title == title]
    bound = is_bound(recipes[0])
    uses = total_needs(recipes[0]).target_labels and not bound
    fit = None
    if uses and len(points) >= FEWEST:
        scores = _table(plan, [point.line for point in points], target)
        fit = None if scores is None else expected_gain([p.amount for p in points], scores, more=MORE, most=MOST)
    return Curve(title, tuple(points), uses, bound, fit)


def _table(plan: Plan, lines: Sequence[Line], target: str) -> Floats | None:
    """(seeds, budgets, subjects) scores, over the seeds that finished at every budget; nan =
    undefined. An area under the ROC curve has the values of which it is the mean, another score of
    a complete test set one column. None without a common seed."""
    each: list[dict[int, dict[str, float]]] = [scores_by_seed(plan, line, target) for line in lines]
    if not any(subjects for seeds in each for subjects in seeds.values()):
        areas = [seed_areas(plan, line, target) for line in lines]
        each = [
            {seed: dict(zip(one.subjects, one.per_subject.tolist(), strict=True)) for seed, one in seeds.items()}
            for seeds in areas
        ]
    if not any(subjects for seeds in each for subjects in seeds.values()):
        each = [{seed: {"": score} for seed, score in seed_scores(plan, line, target).items()} for line in lines]
    seeds = sorted(set.intersection(*({seed for seed, kept in one.items() if kept} for one in each)))
    subjects = sorted({subject for one in each for kept in one.values() for subject in kept})
    if not seeds:
        return None
    return np.array([[[one[seed].get(s, np.nan) for s in subjects] for one in each] for seed in seeds], np.float64)


def _labelled(part: Part, target: str) -> dict[tuple[int, int], set[str]]:
    """(Seed, fold) -> the target's subjects whose labels some row within the budget saw."""
    shown: dict[tuple[int, int], set[str]] = {}
    for line in part.standing.lines:
        if line.target != target or is_bound(line.recipe):
            continue
        for run in line.runs:
            for record in run.tests.get(target, ()):
                shown.setdefault((run.row.seed, record.fold), set()).update(record.labelled_subjects)
    return {key: subjects for key, subjects in shown.items() if subjects}


def _subjects(part: Part, target: str) -> float:
    """Labelled subjects of the target, mean over seeds and folds."""
    known = [labelled_subjects(line, target) for line in part.standing.lines if not is_bound(line.recipe)]
    return max(known, default=0.0)


def _nested(target: str, amounts: Sequence[float], parts: Sequence[Part]) -> str:
    shown = [_labelled(part, target) for part in parts]
    for small, large, fewer, more in zip(amounts, amounts[1:], shown, shown[1:], strict=False):
        for (seed, fold), subjects in sorted(fewer.items()):
            lost = len(subjects - more.get((seed, fold), subjects))
            if lost:
                return f"seed {seed}: {lost} of the subjects labelled at {small:g} are not among those at {large:g}"
    return ""


def write_label_curve(folder: Path, curves: Iterable[LabelCurve]) -> Path | None:
    """Write ``label_curve.csv``: a row per recipe, target and budget (``kind`` "measured"), and one
    per fitted curve ("expected", its ``budget`` the largest plus ``more``); None without curves.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [row for curve in curves for row in _rows(curve)]
    return write_rows(folder / FILE, COLUMNS, rows) if rows else None


def _rows(label_curve: LabelCurve) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for curve in label_curve.curves:
        common = {"part": word(label_curve.part), "target": word(label_curve.target), "recipe": word(curve.title)}
        common |= {"unit": label_curve.unit, "metric": label_curve.metric}
        for point in curve.points:
            best, gain = label_curve.best(point.amount), point.gain
            row: dict[str, Any] = {**common, "kind": "measured", "budget": f"{point.amount:g}", "score": point.score}
            row |= {
                "labelled_subjects": labelled_subjects(point.line, label_curve.target),
                "seeds_done": point.line.done,
            }
            row |= {"subjects": len(subject_ids(point.line, label_curve.target)), "low": point.low, "high": point.high}
            row |= {"best": int(best is not None and best[0] is curve)}
            row |= {"verdict": int(label_curve.verdicts[point.amount] == curve.title)}
            if gain is not None:
                row |= {"difference": gain.difference, "difference_low": gain.low, "difference_high": gain.high}
            rows.append(row)
        if curve.fit is not None:
            fit, last = curve.fit, curve.points[-1].amount
            row = {**common, "kind": "expected", "budget": f"{last + fit.more:g}", "score": fit.curve(last + fit.more)}
            row |= {"more": fit.more, "gain": fit.gain, "gain_low": fit.low, "gain_high": fit.high, "note": fit.unclear}
            row |= {"ceiling": fit.curve.ceiling, "drop": fit.curve.drop, "rate": fit.curve.rate}
            rows.append(row)
    return [{key: "" if value is None else value for key, value in row.items()} for row in rows]
