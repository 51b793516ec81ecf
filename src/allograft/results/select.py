"""From records to a table: which stage, settings and seed stand for a run, never by a test score;
which row to use is the verdict's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Any

from allograft.recipe import title, total_needs
from allograft.results.analysis import label_free
from allograft.results.record import Record
from allograft.study.plan import Plan, Row

NOT_YET = "not run yet"
"""What stands in the place of an error where a run has neither finished nor failed: another shard
may be at it."""

RULES = {
    "last": "the last stage of each run; the first seed",
    "source-val": "the best score on the source's validation subjects",
    "entropy": "the lowest mean entropy of predictions on training images of the target, labels unseen",
    "infomax": "the highest information: entropy of the mean prediction less mean entropy, on training images of the "
    "target, labels unseen",
    "snd": "the highest soft neighbourhood density of predictions on training images of the target, labels unseen",
    "oracle": "the best test score: optimistic, chosen after the fact",
}


@dataclass(frozen=True)
class Chosen:
    """One run (recipe, target, seed) as the rule sees it: the chosen stage and its records, folds
    together.

    Args:
        stage: its name; "" when the run failed.
        tests: site -> the test records of the chosen stage, one a fold.
        val: mean headline score on the source's validation subjects, or None.
        error: why the run failed, or "".
        rank: what the rule ranks the run by, higher is better; None where it ranks nothing.
        validation: the records of the chosen stage on the source's validation subjects.
        passed_over: of a grid, the runs with other settings; their cost counts.
    """

    row: Row
    stage: str
    tests: Mapping[str, tuple[Record, ...]]
    val: float | None
    error: str = ""
    rank: float | None = None
    validation: tuple[Record, ...] = ()
    passed_over: tuple[Chosen, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the table: a recipe at a target, over seeds.

    Args:
        title: ``finetune scope=top``.
        runs: one a seed, failed ones included.
        scores: site -> pooled headline score of each finished seed.
        metrics: site -> metric -> its values over the finished seeds.
        verdict: what the verdict says of it: keep, change, tied, loses, forgets; see
            ``evidence.marked``.
    """

    title: str
    recipe: Any
    target: str
    runs: tuple[Chosen, ...]
    scores: Mapping[str, tuple[float, ...]]
    metrics: Mapping[str, Mapping[str, tuple[float, ...]]]
    verdict: str = ""

    @property
    def chosen(self) -> bool:
        """Whether it is the row that the verdict names: the one to change to, or doing nothing
        where the model is kept."""
        return self.verdict.startswith(("change", "keep"))

    @property
    def done(self) -> int:
        """Seeds that finished."""
        return sum(not run.error for run in self.runs)

    def score(self, site: str) -> float | None:
        """Mean headline score over seeds; None when nothing was measured, or where it is
        undefined."""
        values = self.scores.get(site, ())
        return mean(values) if values else None

    def is_measured(self, site: str) -> bool:
        """Whether any test case of a site has a measure, be the headline defined there or not
        (AUROC of one class is not)."""
        return any(record.measured for run in self.runs for record in run.tests.get(site, ()))

    @property
    def leaves_weights_only(self) -> bool:
        """Whether its recipe leaves weights for other recipes to build on, and nothing that could
        be judged."""
        return self.done > 0 and not any(run.tests for run in self.runs)

    def spread(self, site: str) -> float | None:
        """Standard deviation over seeds (n - 1); None with fewer than two."""
        values = self.scores.get(site, ())
        return stdev(values) if len(values) > 1 else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The site with the lowest score, and the score."""
        measured = [(score, site) for site in self.scores if (score := self.score(site)) is not None]
        return (min(measured)[1], min(measured)[0]) if measured else None

    def cost(self, key: str) -> float | None:
        """Mean over the finished seeds of a cost of the unit itself; the seconds of a grid are
        those of all its settings."""
        values = [run_cost for run in self.runs if not run.error and (run_cost := _cost(run, key)) is not None]
        if key.endswith("seconds") and values:
            return mean(values) + sum(_cost(other, key) or 0.0 for run in self.runs for other in run.passed_over) / len(
                values
            )
        return mean(values) if values else None

    def predict_seconds(self, site: str) -> float | None:
        """Seconds to predict 100 test cases of a site, mean over the finished seeds."""
        records = [run.tests[site] for run in self.runs if run.tests.get(site)]
        timed = [each for each in records if all("predict_seconds" in record.cost and record.cases for record in each)]
        rates = [100 * sum(r.cost["predict_seconds"] for r in each) / sum(len(r.cases) for r in each) for each in timed]
        return mean(rates) if rates else None

    @property
    def best_run(self) -> Chosen | None:
        """The run that stands for the line: the highest by source validation or a label-free rule,
        else the first that finished."""
        return next((run for run in self.runs if not run.error), None)


_ByUnit = Mapping[str, Sequence[tuple[int, Record]]]
"""Unit -> its records, each with its place among all."""


def _by_unit(records: Iterable[Record]) -> _ByUnit:
    """The records of each unit, so that a row need not look at those of all others."""
    by_unit: dict[str, list[tuple[int, Record]]] = {}
    for number, record in enumerate(records):
        by_unit.setdefault(record.unit, []).append((number, record))
    return by_unit


def _of(units: Iterable[str], records: _ByUnit) -> list[Record]:
    """The records of some units, in the order of all."""
    return [record for _, record in sorted((pair for unit in units for pair in records.get(unit, ())), key=_place)]


def _place(pair: tuple[int, Record]) -> int:
    return pair[0]


def lines(plan: Plan, records: Mapping[str, Record], rule: str) -> list[Line]:
    """The table, one line a recipe and target, in the order of the study.

    Args:
        rule: one of ``RULES``.
    """
    made, kept = [], _by_unit(records.values())
    for (recipe_title, target), rows in plan.lines().items():
        runs = tuple(_tuned(plan, [row for row in rows if row.seed == seed], kept, rule) for seed in range(plan.seeds))
        if rule not in ("last", "oracle"):
            runs = tuple(sorted(runs, key=lambda run: -_low(run.rank)))
        metrics = _pooled(plan, runs)
        scores = {site: values[plan.headline] for site, values in metrics.items() if plan.headline in values}
        made.append(Line(recipe_title, rows[0].recipe, target, runs, scores, metrics))
    return made


def _tuned(plan: Plan, rows: list[Row], records: _ByUnit, rule: str) -> Chosen:
    """The run of a seed; of a grid, the one with the settings that the rule ranks highest. A failed
    setting is no choice, but shown."""
    settings: dict[str, list[Row]] = {}
    for row in rows:
        settings.setdefault(title(row.recipe), []).append(row)
    runs = [_choose(plan, each, records, rule) for each in settings.values()]
    failed = next((run for run in runs if run.error), None)
    if failed is not None:
        return failed
    best = max(runs, key=lambda run: _low(run.rank))
    return replace(best, passed_over=tuple(run for run in runs if run is not best))


def _choose(plan: Plan, rows: list[Row], records: _ByUnit, rule: str) -> Chosen:
    """The stage of a run that the rule picks; folds must agree, so the choice is made on their
    mean."""
    of_rows = _of({row.unit for row in rows}, records)
    failed = [record for record in of_rows if record.status == "failed"]
    if failed:
        return Chosen(rows[0], "", {}, None, failed[0].error)
    own = [record for record in of_rows if record.seed == rows[0].seed and record.status == "done"]
    stages = [stage for _, stage in sorted({(record.ordinal, record.stage) for record in own})]
    if not stages:
        return Chosen(rows[0], "", {}, None, NOT_YET)
    ranks = _ranks(plan, rows[0], own, records, rule)
    stage = stages[-1]
    if any(value is not None for value in ranks.values()):
        stage = max(stages, key=lambda name: _low(ranks.get(name)))
    tests: dict[str, tuple[Record, ...]] = {}
    for record in sorted(own, key=lambda record: (record.site, record.fold)):
        if record.stage == stage and record.part == "test":
            tests[record.site] = (*tests.get(record.site, ()), record)
    asked = rows[0].question
    # one question about several sites: the subjects of all of them
    if asked.sites != (asked.name,):
        tests[asked.name] = tuple(record for site in asked.sites for record in tests.get(site, ()))
    validation = tuple(record for record in own if record.stage == stage and record.part == "val")
    return Chosen(rows[0], stage, tests, _mean_score(plan, validation), "", ranks.get(stage), validation)


def _ranks(plan: Plan, row: Row, own: list[Record], records: _ByUnit, rule: str) -> dict[str, float | None]:
    """Stage -> what the rule ranks it by, higher is better; empty for a rule that looks at
    nothing."""
    by_stage: dict[str, list[Record]] = {}
    for record in own:
        by_stage.setdefault(record.stage, []).append(record)
    if rule == "source-val":
        return {stage: _mean_score(plan, (r for r in each if r.part == "val")) for stage, each in by_stage.items()}
    if rule == "oracle":
        return {
            stage: _mean_score(plan, (r for r in each if r.part == "test" and r.site in row.question.sites))
            for stage, each in by_stage.items()
        }
    if rule in label_free.RULES:
        shown = _shown(plan, row, records)
        return {stage: _unlabelled(plan, row, each, shown, rule) for stage, each in by_stage.items()}
    return {}


def _unlabelled(plan: Plan, row: Row, records: Iterable[Record], shown: frozenset[str], rule: str) -> float | None:
    """A label-free score at the row's target, mean over folds; of subjects whose label no row saw,
    where there are any."""
    scores = []
    for record in records:
        if record.part == "train-unlabelled" and record.site == row.target:
            unseen = [case for case in record.cases if case["subject"] not in shown]
            scores.append(label_free.score(rule, unseen or record.cases, plan.task))
    known = [score for score in scores if score is not None]
    return mean(known) if known else None


def _shown(plan: Plan, row: Row, records: _ByUnit) -> frozenset[str]:
    """Subjects whose labels some row of this target and seed saw, upper bounds aside: a model is
    sure of what it has learned by heart."""
    units = {
        other.unit
        for other in plan.rows
        if (other.target, other.seed) == (row.target, row.seed) and not is_bound(other.recipe)
    }
    return frozenset(subject for record in _of(units, records) for subject in record.labelled_subjects)


def is_bound(recipe: Any) -> bool:
    """Whether a recipe uses labels beyond the budget: an upper bound, which is shown and never
    chosen."""
    return total_needs(recipe).all_target_labels


def _pooled(plan: Plan, runs: Iterable[Chosen]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Site -> metric -> one value a finished seed, pooled over the subjects of all folds."""
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    for run in runs:
        for site, records in run.tests.items():
            pooled = plan.task.aggregate([case for record in records for case in record.measured])
            for key, value in pooled.items():
                if value is not None:
                    inner = values.setdefault(site, {})
                    inner[key] = (*inner.get(key, ()), value)
    return values


def _low(value: float | None) -> float:
    """The value; what has none stands below all others."""
    return -math.inf if value is None else value


def _mean_score(plan: Plan, records: Iterable[Record]) -> float | None:
    """Over test sets. A headline is undefined where there was nothing to find and nothing was found
    (Dice), or by the labels alone (AUROC): neither makes a worse stage look better."""
    values = [value for record in records if (value := record.metrics.get(plan.headline)) is not None]
    return mean(values) if values else None


def _cost(run: Chosen, key: str) -> float | None:
    for records in run.tests.values():
        if key in records[0].cost:
            return float(records[0].cost[key])
    return None
