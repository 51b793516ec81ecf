"""A row of a table that tries several settings of one recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from allograft.errors import SpecError
from allograft.recipe.parse import parse_recipe
from allograft.recipe.recipe import Recipe


@dataclass(frozen=True)
class Grid:
    """A row that tries several settings of a recipe; the study's selection picks one for each seed,
    and the cost of all counts.

    ``{finetune: {scope: top, grid: {augmentation: [none, strong]}}}`` in YAML.

    Args:
        name: of the recipe.
        fixed: fields that all candidates share.
        axes: field -> the values to try.
    """

    name: str
    fixed: Mapping[str, object]
    axes: Mapping[str, tuple[object, ...]]

    @property
    def candidates(self) -> tuple[Recipe, ...]:
        """Every combination, the last axis fastest."""
        trees = ({**self.fixed, **dict(zip(self.axes, values, strict=True))} for values in product(*self.axes.values()))
        return tuple(parse_recipe({self.name: tree}) for tree in trees)

    def tree(self) -> dict[str, object]:
        """As it stands in YAML."""
        return {self.name: {**self.fixed, "grid": {key: list(values) for key, values in self.axes.items()}}}

    def __str__(self) -> str:
        axes = (f"{key}={'|'.join(map(str, values))}" for key, values in self.axes.items())
        fixed = (f"{key}={value}" for key, value in self.fixed.items())
        return " ".join([self.name, *fixed, *axes])


def parse_row(tree: object, where: str = "recipes") -> Recipe | Grid:
    """A row of a table: a recipe, or a ``Grid`` of one."""
    if isinstance(tree, Grid) or not (isinstance(tree, Mapping) and len(tree) == 1):
        return tree if isinstance(tree, Grid) else parse_recipe(tree, where)
    ((name, arguments),) = tree.items()
    if not (isinstance(arguments, Mapping) and "grid" in arguments):
        return parse_recipe(tree, where)
    axes = arguments["grid"]
    if not (
        isinstance(axes, Mapping)
        and axes
        and all(isinstance(values, (list, tuple)) and values for values in axes.values())
    ):
        raise SpecError(f"{where}.{name}.grid: expected field: [value, value, ...], found {axes!r}")
    fixed = {key: value for key, value in arguments.items() if key != "grid"}
    if both := sorted(set(fixed) & set(axes)):
        raise SpecError(f"{where}.{name}: '{both[0]}' is fixed and in the grid; name it once")
    grid = Grid(name, fixed, {key: tuple(values) for key, values in axes.items()})
    _ = grid.candidates  # refuses what no recipe takes
    return grid


def candidates(row: Recipe | Grid) -> tuple[Recipe, ...]:
    """The recipes of a row: of a grid all, else the one."""
    return row.candidates if isinstance(row, Grid) else (row,)


def _row(tree: object) -> Recipe | Grid:
    try:
        return parse_row(tree, "recipe")
    except SpecError as error:
        raise ValueError(str(error)) from None


AnyRow = Annotated[Recipe | Grid, PlainValidator(_row), WithJsonSchema({"recipe": "row"})]
"""The type of a row of a study's table."""
