"""The rows of a study: those that every study has, and those that it lists."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from allograft.recipe import Grid, Recipe, is_recipe, parse_recipe, title

if TYPE_CHECKING:
    from allograft.study.spec import Study


def rows_of(study: Study) -> tuple[Recipe | Grid, ...]:
    """The recipes of a study's table, each once; see ``Study.rows``."""
    labelled = study.target_labels != "none"
    nothing: list[str | dict[str, object]] = (
        ["supervised"] if study.source else ["start"] if study.start != "scratch" else []
    )
    more: list[str | dict[str, object]] = []
    more += [{"supervised": {"augmentation": "strong"}}] if study.source and study.augmentation != "strong" else []
    more += ["target_supervised"] if labelled else []
    more += ["joint"] if labelled and study.source else []
    rows = (*map(parse_recipe, nothing + (more if study.baselines else [])), *study.recipes)
    kept: list[Recipe | Grid] = []
    for row in rows if study.source else map(rooted, rows):
        if row not in kept:
            kept.append(row)
    return tuple(kept)


def rooted(row: Recipe | Grid) -> Recipe | Grid:
    """The row of a study without a source; a grid stays as it is."""
    return row if isinstance(row, Grid) else source_free(row)


def source_free(recipe: Recipe) -> Recipe:
    """The recipe with ``supervised`` in its fields replaced by what that begins with, at first
    ``start``, the model given."""
    inner = {
        f.name: _beginning(value) if title(value).startswith("supervised") else source_free(value)
        for f in fields(recipe)
        if is_recipe(value := getattr(recipe, f.name))
    }
    return replace(recipe, **inner)


def _beginning(supervised: Any) -> Recipe:
    return parse_recipe("start") if supervised.first is None else source_free(supervised.first)
