"""The fairness audit as tables: every recipe's gaps, and the groups of the row that the verdict
names and of do-nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from allograft.results.analysis.fairness import LEAST, SITE, Audit, Group, audits
from allograft.results.analysis.sheet import Sheet, number
from allograft.results.comparison import NOTHING
from allograft.results.select import Line
from allograft.results.statistics import Interval
from allograft.study.plan import Plan
from allograft.study.world import World


@dataclass(frozen=True)
class Fairness:
    """The audit of one target.

    Args:
        gaps: a table for each attribute, a row a recipe: worst group, gap, AUROC gap.
        details: the groups of the row that the verdict names and of do-nothing, a table for each
            attribute.
    """

    gaps: tuple[Sheet, ...]
    details: tuple[Sheet, ...]


def fairness(plan: Plan, lines: Sequence[Line], world: World, target: str) -> Fairness | None:
    """Every finished row of a target by every attribute of its test cases; None for tasks that are
    no classification, or without groups."""
    here = [line for line in lines if line.target == target and line.done]
    cases = tuple(world.cases())
    audited = {line.title: audits(plan, line, cases) for line in here}
    every = [audit for each in audited.values() for audit in each]
    if not every:
        return None
    attributes = dict.fromkeys(audit.attribute for audit in every)
    gaps = tuple(gap_sheet([audit for audit in every if audit.attribute == attribute]) for attribute in attributes)
    return Fairness(
        gaps, tuple(group_sheet(audit) for line in here if _is_shown(line) for audit in audited[line.title])
    )


def _is_shown(line: Line) -> bool:
    return line.chosen or line.title in NOTHING


def gap_sheet(audits: Sequence[Audit]) -> Sheet:
    """One attribute, a row a recipe."""
    attribute, target, headline = audits[0].attribute, audits[0].target, audits[0].headline
    columns = [
        "recipe",
        "worst group",
        f"{headline} there",
        f"{headline} gap",
        *(["auroc gap"] if headline != "auroc" else []),
    ]
    rows = []
    for audit in audits:
        worst = audit.worst
        cells = [
            audit.title,
            *(("undefined", "undefined") if worst is None else (worst.name, number(worst.scores[headline]))),
        ]
        rows.append((*cells, number(audit.gap()), *([number(audit.gap("auroc"))] if headline != "auroc" else [])))
    notes = (
        "The gap is the best group's score minus the worst group's: with several groups it is above 0 by chance alone.",
        *_small(audits[0]),
    )
    where = "all evaluated test subjects" if attribute == SITE else f"test subjects of {target}"
    return Sheet(f"Gaps between groups by {attribute}, {where}", tuple(columns), tuple(rows), notes)


def group_sheet(audit: Audit) -> Sheet:
    """One recipe and attribute, a row a group."""
    metrics = tuple(dict.fromkeys((audit.headline, "auroc")))
    rates = ("sensitivity", "specificity") if audit.threshold else ()
    columns = (
        audit.attribute,
        "subjects",
        "cases",
        *(name for metric in metrics for name in (metric, "95 %")),
        "ece",
        *rates,
    )
    rows = tuple(_row(group, metrics, rates) for group in audit.groups)
    worst = audit.worst
    notes = [
        f"Worst: {worst.name}." if worst is not None else "Fewer than two groups have a score: no worst group, no gap."
    ]
    notes += [f"Gap in {metric}: {number(audit.gap(metric))}." for metric in metrics if worst is not None]
    notes += _small(audit)
    notes += [f"Operating point, fixed without any test case: {audit.threshold}."] if audit.threshold else []
    notes.append(
        "Means over seeds; 95 %: DeLong over the group's subjects. 'undefined': the group has one class, or lacks one "
        "that another group has, so that its mean would be over other classes."
    )
    return Sheet(f"{audit.title}: groups by {audit.attribute}", columns, rows, tuple(notes))


def _row(group: Group, metrics: Sequence[str], rates: Sequence[str]) -> tuple[str, ...]:
    size = (group.name, str(group.subjects), str(group.cases))
    if group.is_too_small:
        return (
            *size,
            *(word for _ in metrics for word in ("too small", "")),
            "too small",
            *("too small" for _ in rates),
        )
    scored = (
        word for metric in metrics for word in (number(group.scores[metric]), _between(group.intervals.get(metric)))
    )
    return (*size, *scored, number(group.scores["ece"]), *(number(group.scores.get(rate)) for rate in rates))


def _between(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


def _small(audit: Audit) -> list[str]:
    notes = []
    if any(group.is_too_small for group in audit.groups):
        notes.append(f"Groups of fewer than {LEAST} subjects are too small to be scored, and do not count in the gap.")
    if audit.missing:
        notes.append(
            f"{audit.missing} test subject{'s' if audit.missing > 1 else ''} with no value of {audit.attribute}: in "
            "no group."
        )
    return notes
