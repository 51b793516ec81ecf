"""Whether a study gives a recipe what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from allograft.errors import NeedsError, SpecError
from allograft.networks import AnyNetwork
from allograft.recipe.recipe import Recipe, Scenario, every_recipe, title, total_needs

if TYPE_CHECKING:
    from allograft.context import Context


def check_needs(recipe: Recipe, scenario: Scenario, target: str = "") -> None:
    """Raise ``NeedsError`` when the scenario lacks what the recipe, or one in its fields, needs.

    Args:
        target: whose scenario it is, where that is known.
    """
    needs = total_needs(recipe)
    lacks = [
        ("source_images", bool(scenario.source), "source images", "add source sites: source: [SITE]"),
        (
            "target_images",
            bool(scenario.target),
            "target images",
            "name a target with training images, lower test: {fraction: ...}",
        ),
        (
            "target_labels",
            any(c.has_labels for c in scenario.target),
            "labelled target cases",
            "set target_labels: {subjects: n}",
        ),
        (
            "all_target_labels",
            any(c.has_labels for c in scenario.target),
            "labelled target cases",
            "set target_labels: {subjects: n}",
        ),
        ("pool", bool(scenario.pool), "images for pre-training", "add pool: [SITE] to the study"),
        (
            "pool_labels",
            any(c.has_labels for c in scenario.pool),
            "labelled images for pre-training",
            "add pool: [SITE] to the study",
        ),
        ("stream", bool(scenario.stream), "a stream of phases", "add stream: [[SITE], [SITE]] to the study"),
    ]
    for name, present, what, mend in lacks:
        if getattr(needs, name) and not present:
            gives = (
                f"target '{target}' has none outside its test cases"
                if target and "target" in name
                else "this study gives none"
            )
            raise NeedsError(f"recipe '{title(recipe)}' needs {what}, and {gives}; {mend}, or drop the recipe")


def check_recipe(recipe: Recipe, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
    """Let a recipe, and those in its fields, refuse what they would be run with: see ``Recipe``.

    Args:
        network: the one that every recipe starts from; it stays as it is.
    """
    for inner in every_recipe(recipe):
        if context.settings.loss and (own := getattr(inner, "own_loss", "")):
            raise SpecError(
                f"loss: recipe '{title(inner)}' minimises {own}, which a loss named by the study would not change; "
                "leave loss out, or drop the recipe"
            )
        if hasattr(inner, "check"):
            with context.seeds.everything("check"):  # a recipe may try its surgery on a copy
                inner.check(scenario.narrowed(total_needs(inner)), network, context)
