"""What adaptation costs at home: the source's test score of every recipe for each number of
labelled target subjects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from allograft.figure import Lines
from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.comparison import NOTHING
from allograft.results.record import Record
from allograft.study.plan import Plan


@dataclass(frozen=True)
class Forgetting:
    """Scores at the source and at one target, by recipe and number of labelled target subjects.

    Args:
        target: its site.
        headline: the metric.
        budgets: numbers of labelled target subjects, ascending; 0 = none were seen.
        source, at_target: recipe's title -> budget -> seed -> headline, at the source mean over its
            sites; in the order of the study, recipes of earlier runs after those.
        nothing: seed -> headline at the source of the model before any adaptation.
        unclear: (title, budget) that several runs of other settings in the folder answer, so that
            none is shown.
    """

    target: str
    headline: str
    budgets: tuple[int, ...]
    source: Mapping[str, Mapping[int, Mapping[int, float]]]
    at_target: Mapping[str, Mapping[int, Mapping[int, float]]]
    nothing: Mapping[int, float]
    unclear: tuple[tuple[str, int], ...] = ()


def forgetting(plan: Plan, records: Iterable[Record], source: Sequence[str], target: str) -> Forgetting | None:
    """The forgetting table of a target (Goodman et al. 2022, table 3), from all records of a
    folder.

    A folder in which a study ran several times, with ``target_labels.subjects`` 1, 2 and 4, holds
    every budget. Of each run the last stage counts; folds are averaged. Where a folder holds runs
    of other settings too (more steps, say), a budget's score is that of this study's plan; a budget
    that several settings of other runs answer is named in ``unclear`` and left out.

    Args:
        plan: of the study as it was asked last.
        source: the source's sites.

    Returns:
        None without a source, or when nothing of it was judged.
    """
    last = (record for record in _last_stages(records) if set(record.source) <= set(source))
    kept = [record for record in last if record.target in (None, target) or target in record.target.split("+")]
    runs: dict[tuple[str, int], dict[str, list[Record]]] = {}
    for record in kept:
        runs.setdefault((str(record.recipe.get("title", "")), len(record.labelled_subjects)), {}).setdefault(
            record.unit, []
        ).append(record)
    at_source: dict[str, dict[int, dict[int, float]]] = {}
    at_target: dict[str, dict[int, dict[int, float]]] = {}
    unclear = []
    for (title, budget), units in sorted(runs.items()):
        ours = _ours(plan, units)
        if ours is None:
            unclear.append((title, budget))
            continue
        at_source.setdefault(title, {})[budget] = _by_seed(plan, ours, source)
        at_target.setdefault(title, {})[budget] = _by_seed(plan, ours, (target,))
    if not any(seeds for budgets in at_source.values() for seeds in budgets.values()):
        return None
    nothing = next((at_source[title].get(0, {}) for title in NOTHING if title in at_source), {})
    numbers = sorted({budget for budgets in at_source.values() for budget in budgets})
    titles = [
        title for title in dict.fromkeys((*(title for title, _ in plan.lines()), *at_source)) if title in at_source
    ]
    home, away = ({title: scores[title] for title in titles} for scores in (at_source, at_target))
    return Forgetting(target, plan.headline, tuple(numbers), home, away, nothing, tuple(unclear))


def _last_stages(records: Iterable[Record]) -> list[Record]:
    """The test records of the last stage of every unit that finished."""
    done = [record for record in records if record.status == "done" and record.part == "test"]
    last: dict[str, int] = {}
    for record in done:
        last[record.unit] = max(record.ordinal, last.get(record.unit, 0))
    return [record for record in done if record.ordinal == last[record.unit]]


def _ours(plan: Plan, units: Mapping[str, Sequence[Record]]) -> list[Record] | None:
    """The records of the plan's own units; of others only when no two of them answer the same seed
    and fold."""
    planned = [record for unit in units if unit in plan.units for record in units[unit]]
    if planned:
        return planned
    answered = {(each[0].seed, frozenset(record.fold for record in each)) for each in units.values()}
    return [record for each in units.values() for record in each] if len(answered) == len(units) else None


def _by_seed(plan: Plan, records: Sequence[Record], sites: Sequence[str]) -> dict[int, float]:
    """Seed -> headline, mean over folds and then over the sites; seeds that lack a site are left
    out."""
    values: dict[int, dict[str, list[float]]] = {}
    for record in records:
        score = record.metrics.get(plan.headline)
        if record.site in sites and score is not None:
            values.setdefault(record.seed, {}).setdefault(record.site, []).append(score)
    return {seed: fmean(map(fmean, each.values())) for seed, each in sorted(values.items()) if len(each) == len(sites)}


def forgetting_sheets(forgotten: Forgetting) -> tuple[Sheet, Sheet]:
    """The table at the source and the one at the target: mean ± sd over seeds, and the difference
    to the model before."""
    columns = ("recipe", *(f"{budget} labelled" for budget in forgotten.budgets))
    notes = [
        "The last stage of each run, on the test subjects of the source; in brackets the difference from no "
        "adaptation, over shared seeds."
    ]
    if len(forgotten.budgets) < 3:
        notes.append(
            "For more label budgets, run the study again into the same folder with "
            "--set target_labels.subjects=1, =2, =4."
        )
    if forgotten.unclear:
        words = ", ".join(f"{title} ({budget} labelled)" for title, budget in forgotten.unclear)
        notes.append(f"Left out, because the folder holds several runs of other settings: {words}.")
    home = tuple(
        (title, *(_cell(by.get(n, {}), forgotten.nothing) for n in forgotten.budgets))
        for title, by in forgotten.source.items()
    )
    away = tuple(
        (title, *(spread(list(by.get(n, {}).values())) for n in forgotten.budgets))
        for title, by in forgotten.at_target.items()
    )
    title = f"{forgotten.headline} by number of labelled subjects of {forgotten.target}"
    return Sheet(f"At the source after adaptation: {title}", columns, home, tuple(notes)), Sheet(
        f"At {forgotten.target}: {title}", columns, away
    )


def _cell(scores: Mapping[int, float], nothing: Mapping[int, float]) -> str:
    shared = [scores[seed] - nothing[seed] for seed in scores if seed in nothing]
    return spread(list(scores.values())) + (f" ({fmean(shared):+.3f})" if shared and scores != nothing else "")


def forgetting_figure(forgotten: Forgetting) -> Lines:
    """Source score over the number of labelled target subjects, a curve a recipe; do-nothing is
    level."""
    level = fmean(forgotten.nothing.values()) if forgotten.nothing else None
    curves: dict[str, tuple[float | None, ...]] = {}
    for title, by in forgotten.source.items():
        scores = tuple(fmean(by[n].values()) if by.get(n) else None for n in forgotten.budgets)
        curves[title] = tuple(level for _ in forgotten.budgets) if title in NOTHING else scores
    x = tuple(float(budget) for budget in forgotten.budgets)
    return Lines(
        f"source score after adaptation to {forgotten.target}",
        x,
        curves,
        "labelled target subjects",
        f"{forgotten.headline} at the source",
    )
