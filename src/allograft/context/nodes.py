"""Nodes: the units that a run is built on, so that plans, forecasts, locks and executors see every
one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from allograft.networks import AnyNetwork
from allograft.recipe import Needs, Recipe, Scenario, is_recipe, total_needs

if TYPE_CHECKING:
    from allograft.context.context import Context


@dataclass(frozen=True)
class Node:
    """One unit of a run.

    Args:
        key: its content key.
        recipe: what runs in it.
        needs: what that is given, with what it is built on.
    """

    key: str
    recipe: Recipe
    needs: Needs


def units_of(recipe: Recipe, scenario: Scenario, network: AnyNetwork, context: Context) -> Iterator[Node]:
    """Every unit that a run of this recipe is built on, inner ones first, its own last.

    A recipe runs those in its fields, such as ``first``, on the scenario and the network that it is
    given; nothing is run here.
    """
    for field in fields(recipe):
        if is_recipe(inner := getattr(recipe, field.name)):
            yield from units_of(inner, scenario, network, context)
    yield Node(context.unit(recipe, scenario, network), recipe, total_needs(recipe))
