"""From records to a table: which stage stands for a run, which row is recommended, and never by a test score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from allograft.study.plan import Plan, Row
from allograft.study.record import Record

RULES = {
    "last": "the last stage of each run; the recipe listed last in the study; the first seed",
    "source-val": "the best score on the source's validation subjects",
    "oracle": "the best test score: optimistic, chosen after the fact",
}


@dataclass(frozen=True)
class Chosen:
    """One run (recipe, target, seed) as the rule sees it: the chosen stage and its records, folds together.

    Args:
        stage: its name; "" when the run failed.
        tests: site -> the test records of the chosen stage, one a fold.
        val: mean headline score on the source's validation subjects, or None.
        error: why the run failed, or "".
    """

    row: Row
    stage: str
    tests: Mapping[str, tuple[Record, ...]]
    val: float | None
    error: str = ""


@dataclass(frozen=True)
class Line:
    """One line of the table: a recipe at a target, over seeds.

    Args:
        title: ``finetune scope=top``.
        runs: one a seed, failed ones included.
        scores: site -> pooled headline score of each finished seed.
        metrics: site -> metric -> its values over the finished seeds.
        recommended: picked by the rule.
    """

    title: str
    recipe: Any
    target: str
    runs: tuple[Chosen, ...]
    scores: Mapping[str, tuple[float, ...]]
    metrics: Mapping[str, Mapping[str, tuple[float, ...]]]
    recommended: bool = False

    @property
    def done(self) -> int:
        """Seeds that finished."""
        return sum(not run.error for run in self.runs)

    def score(self, site: str) -> float | None:
        """Mean headline score over seeds; None when nothing was measured."""
        values = self.scores.get(site, ())
        return mean(values) if values else None

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
        """Mean over the finished seeds of a cost of the unit itself."""
        values = [run_cost for run in self.runs if not run.error and (run_cost := _cost(run, key)) is not None]
        return mean(values) if values else None

    @property
    def best_run(self) -> Chosen | None:
        """The run that stands for the line: the best on source validation where the rule says so, else the first that finished."""
        return next((run for run in self.runs if not run.error), None)


def lines(plan: Plan, records: Mapping[str, Record], rule: str) -> list[Line]:
    """The table, one line a recipe and target, in the order of the study.

    Args:
        rule: last, source-val or oracle.
    """
    made = []
    for (recipe_title, target), rows in plan.lines().items():
        runs = tuple(_choose(plan, [row for row in rows if row.seed == seed], records, rule) for seed in range(plan.seeds))
        if rule == "source-val":
            runs = tuple(sorted(runs, key=lambda run: -(run.val if run.val is not None else -math.inf)))
        metrics = _pooled(plan, runs)
        scores = {site: values[plan.headline] for site, values in metrics.items() if plan.headline in values}
        made.append(Line(recipe_title, rows[0].recipe, target, runs, scores, metrics))
    return _recommend(made, rule)


def _choose(plan: Plan, rows: list[Row], records: Mapping[str, Record], rule: str) -> Chosen:
    """The stage of a run that the rule picks; folds must agree, so the choice is made on their mean."""
    units = {row.unit for row in rows}
    failed = [record for record in records.values() if record.unit in units and record.status == "failed"]
    if failed:
        return Chosen(rows[0], "", {}, None, failed[0].error)
    own = [record for record in records.values() if record.unit in units and record.seed == rows[0].seed and record.status == "done"]
    stages = sorted({(record.ordinal, record.stage) for record in own})
    if not stages:
        return Chosen(rows[0], "", {}, None, "not run yet")
    vals = {name: _mean_score(plan, (r for r in own if r.stage == name and r.part == "val")) for _, name in stages}
    stage = stages[-1][1]
    if rule == "source-val":
        stage = max((name for _, name in stages), key=lambda name: vals[name] if vals[name] is not None else -math.inf)  # type: ignore[arg-type,return-value]
    elif rule == "oracle":
        at_target = {name: _mean_score(plan, (r for r in own if r.stage == name and r.site == rows[0].target)) for _, name in stages}
        stage = max((name for _, name in stages), key=lambda name: at_target[name] if at_target[name] is not None else -math.inf)  # type: ignore[arg-type,return-value]
    tests: dict[str, tuple[Record, ...]] = {}
    for record in sorted(own, key=lambda record: (record.site, record.fold)):
        if record.stage == stage and record.part == "test":
            tests[record.site] = (*tests.get(record.site, ()), record)
    return Chosen(rows[0], stage, tests, vals[stage])


def _pooled(plan: Plan, runs: Iterable[Chosen]) -> dict[str, dict[str, tuple[float, ...]]]:
    """Site -> metric -> one value a finished seed, pooled over the subjects of all folds."""
    values: dict[str, dict[str, tuple[float, ...]]] = {}
    for run in runs:
        for site, records in run.tests.items():
            pooled = plan.task.pool([case for record in records for case in record.measured])
            for key, value in pooled.items():
                if value is not None:
                    inner = values.setdefault(site, {})
                    inner[key] = (*inner.get(key, ()), value)
    return values


def _recommend(made: list[Line], rule: str) -> list[Line]:
    """Mark one line a target: by the rule, and never by a test score unless the rule is the oracle."""
    from dataclasses import replace

    marked: dict[str, int] = {}
    for number, line in enumerate(made):
        if not line.done or line.score(line.target) is None:
            continue  # a site without labels ranks nothing
        best = marked.get(line.target)
        if best is None or rule == "last" or _standing(line, rule) > _standing(made[best], rule):
            marked[line.target] = number
    return [replace(line, recommended=marked.get(line.target) == number) for number, line in enumerate(made)]


def _standing(line: Line, rule: str) -> float:
    if rule == "oracle":
        score = line.score(line.target)
        return -math.inf if score is None else score
    vals = [run.val for run in line.runs if run.val is not None]
    return mean(vals) if vals else -math.inf


def _mean_score(plan: Plan, records: Iterable[Record]) -> float | None:
    values = [value for record in records if (value := record.metrics.get(plan.headline)) is not None]
    return mean(values) if values else None


def _cost(run: Chosen, key: str) -> float | None:
    for records in run.tests.values():
        if key in records[0].cost:
            return float(records[0].cost[key])
    return None
