"""The plan of a study: the distinct units that answer its rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from allograft.recipe import Grid, Scenario, candidates, title, total_needs
from allograft.study.spec import Statistics
from allograft.study.world import World


@dataclass(frozen=True)
class Row:
    """One run that the table asks for; several rows may be answered by the same unit. ``line``: a grid's title; "" = the recipe's."""

    recipe: Any
    target: str
    seed: int
    fold: int
    unit: str = ""
    line: str = ""


@dataclass(frozen=True)
class Plan:
    """Rows with their units, in the order in which they run."""

    rows: tuple[Row, ...]
    seeds: int
    task: Any
    statistics: Statistics = field(default_factory=Statistics)

    @property
    def headline(self) -> str:
        """The metric of tables and selection."""
        name: str = self.task.headline
        return name

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Distinct units."""
        return tuple(dict.fromkeys(row.unit for row in self.rows))

    def lines(self) -> dict[tuple[str, str], list[Row]]:
        """(recipe's title, target) -> its rows over seeds and folds."""
        grouped: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            grouped.setdefault((row.line or title(row.recipe), row.target), []).append(row)
        return grouped


def bare_rows(world: World) -> list[Row]:
    """Rows without units: seed by seed, and within a seed recipe by recipe, so that what is shared runs first."""
    study = world.study
    return [
        Row(recipe, target, seed, fold, line=title(line) if isinstance(line, Grid) else "")
        for seed in range(study.seeds)
        for line in study.rows
        for recipe in candidates(line)
        for target in study.target
        for fold in range(world.folds)
    ]


def scenario_of(world: World, row: Row) -> Scenario:
    """What the row's recipe may see, before it is narrowed."""
    return world.scenario(row.target, row.seed, row.fold, total_needs(row.recipe))
