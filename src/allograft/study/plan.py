"""The plan of a study: its rows, and the distinct units that answer them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from allograft.context import Context, Node, units_of
from allograft.networks import AnyNetwork
from allograft.recipe import AnyRecipe, Grid, Scenario, candidates, every_recipe, title, total_needs
from allograft.study.keys import Question, Statistics
from allograft.study.world import World
from allograft.tasks import Task


@dataclass(frozen=True)
class Row:
    """One run that the table asks for; several rows may be answered by the same unit.

    Args:
        question: the sites whose test subjects answer it.
        line: a grid's title; "" = the recipe's.
        nodes: every unit that it is built on, first what must be there first; the last is its own.
    """

    recipe: AnyRecipe
    question: Question
    seed: int
    fold: int
    line: str = ""
    nodes: tuple[Node, ...] = ()

    @property
    def target(self) -> str:
        """The question's name: the target, or the stream."""
        return self.question.name

    @property
    def unit(self) -> str:
        """The key of its own unit; "" before it is known."""
        return self.nodes[-1].key if self.nodes else ""


@dataclass(frozen=True)
class Plan:
    """Rows with their units, in the order in which they run. ``primary``: the title of the row
    named beforehand, ``reference``: that of the row that tables compare with; "" = none named."""

    rows: tuple[Row, ...]
    seeds: int
    task: Task
    statistics: Statistics = field(default_factory=Statistics)
    primary: str = ""
    reference: str = ""

    @property
    def headline(self) -> str:
        """The metric of tables and selection."""
        return self.task.headline

    @cached_property
    def nodes(self) -> dict[str, tuple[Node, Row]]:
        """Key -> each distinct unit, and a row that is built on it; what others are built on comes
        first."""
        by_key: dict[str, tuple[Node, Row]] = {}
        for row in self.rows:
            for node in row.nodes:
                by_key.setdefault(node.key, (node, row))
        return by_key

    @cached_property
    def units(self) -> tuple[str, ...]:
        """Distinct units."""
        return tuple(self.nodes)

    @cached_property
    def continued(self) -> frozenset[str]:
        """Units whose optimizer a recipe of some row continues: all that such a recipe is built
        on."""
        return frozenset(
            node.key
            for row in self.rows
            for outer in row.nodes
            if outer.recipe.needs.optimizer_state
            for node in row.nodes
            if any(node.recipe is inner for inner in list(every_recipe(outer.recipe))[1:])
        )

    def lines(self) -> dict[tuple[str, str], list[Row]]:
        """(recipe's title, target) -> its rows over seeds and folds."""
        grouped: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            grouped.setdefault((row.line or title(row.recipe), row.target), []).append(row)
        return grouped


def bare_rows(world: World) -> list[Row]:
    """Rows without units: seed by seed, and within a seed recipe by recipe, so that what is shared
    runs first."""
    study = world.study
    return [
        Row(recipe, question, seed, fold, line=title(line) if isinstance(line, Grid) else "")
        for seed in range(study.seeds)
        for line in study.rows
        for recipe in candidates(line)
        for question in study.questions
        for fold in range(world.folds)
    ]


def scenario_of(world: World, row: Row) -> Scenario:
    """What the row's recipe may see, before it is narrowed."""
    return world.scenario(row.question, row.seed, row.fold, total_needs(row.recipe))


def nodes_of(world: World, row: Row, network: AnyNetwork, context: Context) -> Iterator[Node]:
    """Every unit that a row is built on, its own last."""
    return units_of(row.recipe, scenario_of(world, row), network, context)
