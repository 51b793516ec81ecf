"""From YAML trees to recipes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import PlainValidator, WithJsonSchema

from allograft.errors import SpecError
from allograft.recipe.recipe import Recipe, is_recipe
from allograft.strict import validated
from allograft.table import find


def parse_recipe(tree: object, where: str = "recipes") -> Recipe:
    """``"fourier"`` or ``{"finetune": {"scope": "top"}}`` -> a recipe; ``SpecError`` names the
    nearest key."""
    if is_recipe(tree):
        return tree
    if isinstance(tree, str):
        tree = {tree: {}}
    if not (isinstance(tree, Mapping) and len(tree) == 1):
        raise SpecError(f"{where}: a recipe is a name or one {{name: {{...}}}}, found {tree!r}; mind the indentation")
    ((name, arguments),) = tree.items()
    return validated(find("method", name), arguments, f"{where}.{name}")


def _nested(tree: object) -> Recipe:
    try:
        return parse_recipe(tree, "recipe")
    except SpecError as error:
        raise ValueError(str(error)) from None


AnyRecipe = Annotated[Recipe, PlainValidator(_nested), WithJsonSchema({"recipe": "recipe"})]
"""The type of a field that holds another recipe:
``first: AnyRecipe = field(default_factory=Supervised)``."""
