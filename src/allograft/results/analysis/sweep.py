"""Score against a setting: rows of one recipe that differ in one number alone, as a curve (Goodman
et al. 2022, figure 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise

from allograft.figure import Lines
from allograft.recipe import title
from allograft.results.comparison import do_nothing
from allograft.results.select import Line
from allograft.study.plan import Plan

FEWEST = 3
"""Measured settings that make a curve."""
UNEVEN = 50
"""Times by which the widest gap between settings exceeds the narrowest where they stand in equal
steps: 0.01, 0.1, 1, 10."""


def sweeps(plan: Plan, lines: Sequence[Line], target: str) -> tuple[Lines, ...]:
    """The headline at a target against every setting that three rows or more of the table differ
    in, and in nothing else.

    Scores are those of the table, means over the finished seeds, with one standard deviation over
    seeds; do-nothing is level. A row of a grid has no one setting and is left out.
    """
    groups: dict[tuple[str, str], dict[float, Line]] = {}
    here = [line for line in lines if line.target == target and line.score(target) is not None]
    for line in (line for line in here if line.title == title(line.recipe)):
        for f in fields(line.recipe):
            value = getattr(line.recipe, f.name)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                groups.setdefault((f.name, title(line.recipe, without=f.name)), {})[value] = line
    swept = {key: dict(sorted(rows.items())) for key, rows in groups.items() if len(rows) >= FEWEST}
    return tuple(_curve(plan, name, of, rows, do_nothing(lines, target)) for (name, of), rows in swept.items())


def _curve(plan: Plan, name: str, of: str, rows: dict[float, Line], base: Line | None) -> Lines:
    values, every = tuple(rows), tuple(rows.values())
    target = every[0].target
    curves = {of: tuple(line.score(target) for line in every)}
    if base is not None and base not in every and base.score(target) is not None:
        curves["no adaptation"] = (base.score(target),) * len(every)
    gaps = [after - before for before, after in pairwise(values)]
    even = max(gaps) <= UNEVEN * min(gaps)
    x = tuple(map(float, values if even else range(1, len(values) + 1)))
    axis = name if even else f"{name}, in equal steps: {', '.join(f'{value:g}' for value in values)}"
    spread = {of: tuple(line.spread(target) for line in every)}
    return Lines(f"{plan.headline} at {target} of {of}, by {name}", x, curves, axis, plan.headline, spread)
