"""Recipes: what a method may see and what it gives back, and how one is read from YAML."""

from allograft.recipe.grid import AnyRow, Grid, candidates, parse_row
from allograft.recipe.parse import AnyRecipe, parse_recipe
from allograft.recipe.recipe import (
    Carry,
    Needs,
    Paper,
    Recipe,
    Saw,
    Scenario,
    Stage,
    every_recipe,
    is_recipe,
    shown,
    title,
    total_needs,
)

__all__ = [
    "AnyRecipe",
    "AnyRow",
    "Carry",
    "Grid",
    "Needs",
    "Paper",
    "Recipe",
    "Saw",
    "Scenario",
    "Stage",
    "candidates",
    "every_recipe",
    "is_recipe",
    "parse_recipe",
    "parse_row",
    "shown",
    "title",
    "total_needs",
]
