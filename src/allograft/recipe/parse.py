"""From YAML trees to recipes and other frozen dataclasses: strict, closed, and kind about slips."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from allograft.errors import SpecError, nearest
from allograft.recipe.recipe import is_recipe
from allograft.table import find


def parse_recipe(tree: Any, where: str = "recipes") -> Any:
    """``"fourier"`` or ``{"finetune": {"scope": "top"}}`` -> a recipe; ``SpecError`` names the nearest key."""
    if is_recipe(tree):
        return tree
    if isinstance(tree, str):
        tree = {tree: {}}
    if not (isinstance(tree, Mapping) and len(tree) == 1):
        raise SpecError(f"{where}: a recipe is a name or one {{name: {{...}}}}, found {tree!r}; mind the indentation")
    ((name, arguments),) = tree.items()
    return validated(find("method", name), arguments, f"{where}.{name}")


def validated(cls: type, tree: Any, where: str) -> Any:
    """A dataclass from JSON values, strictly: unknown keys, wrong types and bad values raise ``SpecError`` naming the key."""
    _close(cls)
    try:
        # JSON mode is strict, and yet lists become tuples
        return TypeAdapter(cls).validate_json(json.dumps({} if tree is None else tree))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise SpecError(f"{where}: {error}; expected plain YAML values") from None
        raise SpecError("\n".join(_explain(cls, each, where) for each in error.errors())) from None


def _close(cls: Any) -> None:
    """Without this, pydantic drops unknown keys of a plain dataclass, and of those in its fields, in silence."""
    if "__pydantic_config__" in cls.__dict__:
        return
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    for kind in get_type_hints(cls).values():
        for one in (kind, *get_args(kind)):
            if isinstance(one, type) and is_dataclass(one):
                _close(one)


def _explain(cls: type, error: Any, where: str) -> str:
    place = [str(part) for part in error["loc"] if not str(part).startswith(("function-", "tuple[", "dict[", "constrained-"))]
    at = ".".join([where, *place])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = cls
        for part in place[:-1]:
            inner = next((f for f in fields(owner) if f.name == part), None) if is_dataclass(owner) else None
            kind = _hint(owner, part) if inner else None
            owner = kind if is_dataclass(kind) else owner  # type: ignore[assignment]
        return f"{at}: {nearest(place[-1], [f.name for f in fields(owner)], 'key')}"
    message = error["msg"].removeprefix("Value error, ")
    if message != error["msg"]:  # ours, of a nested recipe: it says what was found
        return f"{at}: {message}"
    return message if message.startswith(where) else f"{at}: {message}, found {json.dumps(error['input'], default=str)}"


def _hint(cls: Any, name: str) -> Any:
    kind = get_type_hints(cls)[name]
    return next((one for one in get_args(kind) if is_dataclass(one)), kind)


def _nested(tree: Any) -> Any:
    try:
        return parse_recipe(tree, "recipe")
    except SpecError as error:
        raise ValueError(str(error)) from None


AnyRecipe = Annotated[Any, BeforeValidator(_nested)]
"""The type of a field that holds another recipe: ``first: AnyRecipe = field(default_factory=Supervised)``."""
