"""The tables of one target: that of the decision, and that of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from allograft.report.cells import (
    CLAIM,
    FORMS,
    INTERVAL,
    Cell,
    Column,
    Table,
    badges_of,
    cell_beside,
    claim_cell,
    cost_cell,
    free_cell,
    gain_cell,
    home_cell,
    interval_cell,
    label_free,
    metrics_of,
    p_cell,
    score_cell,
    seeds_cell,
    training_cell,
    worst_cell,
)
from allograft.results.comparison import NOTHING, compare, do_nothing, reference
from allograft.results.costs import training_cost
from allograft.results.scores import score_interval
from allograft.results.select import Line
from allograft.study.plan import Plan
from allograft.study.spec import Study

MOST_HOMES = 2
"""Source sites whose scores show without being asked for."""
Filled = tuple[Column, list[Cell]]
"""A column, and its cell of each line."""


def decision_table(
    study: Study, plan: Plan, lines: Sequence[Line], target: str, seconds: Mapping[str, float] | None = None
) -> Table:
    """The table of one target, in the order of the study: score, gain, home and cost, and the rest
    on demand.

    Args:
        seconds: unit -> seconds of its own training, for what rows are built on.
    """
    here = [line for line in lines if line.target == target]
    compared = compare(lines, plan, target)
    common = _common([comparison.note for comparison in compared.values()])
    first = Column("recipe", hint="in the order of the study; click to sort by it again")
    names = [Cell(line.title, badges_of(line), order, kind="name") for order, line in enumerate(here)]
    filled = [
        (first, names),
        *_score(plan, here, target),
        *_gain(study, plan, here, target, common),
        *_home(study, plan, here, target),
        *_cost(here, target, seconds or {}),
        *_details(study, plan, here, target),
    ]
    rows = [(line.chosen, tuple(cells[order] for _, cells in filled)) for order, line in enumerate(here)]
    return Table(tuple(column for column, _ in filled), tuple(rows), common)


def _common(notes: Sequence[str]) -> str:
    """The note of more than half of the rows, to stand once; "" where a row has none.

    >>> _common(["few", "no difference", "few"]), _common(["few", "", "few"]), _common(["few", "no difference"])
    ('few', '', '')
    """
    note, count = Counter(notes).most_common(1)[0] if notes else ("", 0)
    return note if all(notes) and 2 * count > len(notes) else ""


def _score(plan: Plan, here: Sequence[Line], target: str) -> list[Filled]:
    scores = [score for line in here if (score := line.score(target)) is not None]
    best = max(scores) if len(scores) > 1 else None
    group = "score"
    filled: list[Filled] = [
        (
            Column(plan.headline, f"at {target}", "mean ± sd over seeds", group),
            [score_cell(line, target, plan.headline, best=best) for line in here],
        ),
        (
            Column("95 % interval", "over subjects", INTERVAL, group),
            [interval_cell(score_interval(plan, line, target)) for line in here],
        ),
    ]
    for name in label_free(here, target):
        hint = "on test cases; lower means more certain, which need not be better"
        filled.append((Column(name, "label-free", hint, group), [free_cell(line, target, name) for line in here]))
    filled.append((Column("seeds", "done", "finished seeds", group), [seeds_cell(line) for line in here]))
    return filled


def _gain(study: Study, plan: Plan, here: Sequence[Line], target: str, common: str) -> list[Filled]:
    base = reference(here, plan, target)
    if base is None:  # of a stream, or from scratch: nothing to compare with
        return []
    other = "" if base.title in NOTHING else base.title
    role = "reference" if other else "no adaptation"
    compared = compare(here, plan, target)
    comparisons = [compared.get(line.title) for line in here]
    statistics, exact = study.statistics, any(row.rank_biserial is not None for row in compared.values())
    test = f"{'exact ' * exact}{statistics.alternative} {'Wilcoxon signed-rank' if exact else 'DeLong'} test over "
    adjusted = "unadjusted" if statistics.adjustment == "none" else statistics.adjustment.capitalize()
    test += f"subjects, {adjusted}{'' if adjusted == 'unadjusted' else ' over the rows of this table'}"
    gain = f"difference from {other or 'no adaptation'}, over the subjects and seeds of both; 95 % by Student's t"
    gains = [
        gain_cell(row, role if line is base else "", other or "nothing")
        for line, row in zip(here, comparisons, strict=True)
    ]
    return [
        (Column("gain", f"vs. {other or 'no adaptation'}", gain, "gain"), gains),
        (Column("p", adjusted, test, "gain"), [p_cell(row, common) for row in comparisons]),
        (
            Column("false", "claim", CLAIM.replace("no adaptation", other or "no adaptation"), "gain"),
            [claim_cell(row) for row in comparisons],
        ),
    ]


def _home(study: Study, plan: Plan, here: Sequence[Line], target: str) -> list[Filled]:
    """Scores at the source sites, with the difference to the reference: what is forgotten."""
    base, homes = reference(here, plan, target), [site for site in study.source if site != target]
    hint = "forgetting shows here; below it, the difference from the reference"
    return [
        (
            Column(plan.headline, f"at {site}", hint, "home", number >= MOST_HOMES),
            [home_cell(plan, line, base, site) for line in here],
        )
        for number, site in enumerate(homes)
    ]


def _cost(here: Sequence[Line], target: str, seconds: Mapping[str, float]) -> list[Filled]:
    source = do_nothing(here, target)
    hint = "seconds of training on top of the shared source model; below it, including the training of that model"
    costs = [training_cost(line, source, seconds) for line in here]
    own = [line.cost("train_seconds") for line in here]
    return [
        (
            Column("train", "seconds", hint, "cost"),
            [training_cell(cost, alone) for cost, alone in zip(costs, own, strict=True)],
        )
    ]


def _details(study: Study, plan: Plan, here: Sequence[Line], target: str) -> list[Filled]:
    """What shows on demand."""
    base = reference(here, plan, target)
    others = [site for site in study.target if site not in (target, *study.source)]
    extra = [metric for metric in metrics_of(here, target) if "/" not in metric and metric != plan.headline]
    columns: list[tuple[str, str, str, list[Cell]]] = [
        (plan.headline, f"at {site}", "another target", [score_cell(line, site, plan.headline) for line in here])
        for site in others
    ]
    columns.append(("worst", "site", "the lowest of the scores at all sites", [worst_cell(line) for line in here]))
    for metric in extra:
        cells = [cell_beside(plan, line, base, target, metric) for line in here]
        columns.append((metric, f"at {target}", "mean ± sd over seeds", cells))
    speed = "for test cases at the target one by one, including reading them; in batches it is less"
    costs = (
        ("predict", "s / 100 cases", speed, [line.predict_seconds(target) for line in here]),
        ("peak", "MB", "highest memory", [line.cost("peak_memory_mb") for line in here]),
        ("trainable", "parameters", "", [line.cost("trainable_parameters") for line in here]),
    )
    for (name, small, hint, values), form in zip(costs, FORMS, strict=True):
        columns.append((name, small, hint, [cost_cell(value, form) for value in values]))
    return [(Column(name, small, hint, "details", detail=True), cells) for name, small, hint, cells in columns]


def class_table(plan: Plan, lines: Sequence[Line], target: str) -> Table | None:
    """Every metric of every class at a target; None with fewer than two classes, and for boxes,
    whose metrics are parted by reader."""
    if plan.task.key == "boxes":
        return None
    here = [line for line in lines if line.target == target]
    names = [metric for metric in metrics_of(here, target) if "/" in metric and not metric.startswith("undefined/")]
    if len({name.split("/", 1)[1] for name in names}) < 2:
        return None
    parted = [name.split("/", 1) for name in names]
    columns = (Column("recipe"), *(Column(metric, small) for metric, small in parted))
    rows = [
        (line.chosen, (Cell(line.title, value=n, kind="name"), *(score_cell(line, target, name) for name in names)))
        for n, line in enumerate(here)
    ]
    return Table(columns, tuple(rows))
