"""What each stage of a recipe scores: a first and a second pass (Xiao et al. 2022, table 3 b), a
model before and after a correction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import fmean

from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.record import Record
from allograft.study.plan import Plan


def stage_sheet(plan: Plan, records: Iterable[Record], target: str, sites: Sequence[str]) -> Sheet | None:
    """The headline of every judged stage at every site, mean ± sd over seeds, of recipes with more
    than one stage.

    Args:
        records: of this plan's runs the test records are read; folds are averaged.
        sites: the columns.

    Returns:
        None where every recipe has one stage.
    """
    of_unit: dict[str, list[Record]] = {}
    for record in records:
        if record.part == "test" and record.status == "done":
            of_unit.setdefault(record.unit, []).append(record)
    shown: list[tuple[str, ...]] = []
    for (title, its_target), rows in plan.lines().items():
        own = [record for unit in dict.fromkeys(row.unit for row in rows) for record in of_unit.get(unit, ())]
        stages = [stage for _, stage in sorted({(record.ordinal, record.stage) for record in own})]
        if its_target == target and len(stages) > 1:
            shown += [(title, stage, *(_score(plan, own, stage, site) for site in sites)) for stage in stages]
    if not shown:
        return None
    columns = ("recipe", "stage", *(f"{plan.headline} at {site}" for site in sites))
    return Sheet(
        "Each stage of a run",
        columns,
        tuple(shown),
        ("Mean ± sd over seeds. The table above shows the stage that the rule picked.",),
    )


def _score(plan: Plan, records: Sequence[Record], stage: str, site: str) -> str:
    by_seed: dict[int, list[float]] = {}
    for record in records:
        value = record.metrics.get(plan.headline)
        if (record.stage, record.site) == (stage, site) and value is not None:
            by_seed.setdefault(record.seed, []).append(value)
    return spread([fmean(values) for values in by_seed.values()])
