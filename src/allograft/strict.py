"""Strict parsing: YAML as a study file has it, ``--set key=value`` on top, and JSON values into
frozen dataclasses."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from typing import Any, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from allograft.errors import SpecError
from allograft.mistakes import mistakes


def parse_yaml(text: str, name: str) -> Any:
    """Safe YAML: floats as written (``1e-3``), no octal numbers, no yes/no, a repeated key is an
    error, no tags."""
    try:
        return yaml.load(text, _Strict)  # a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"{name}: not plain YAML: {' '.join(str(error).split())}") from error
    except (ValueError, AttributeError) as error:  # a tag that its value does not fit: !!int abc
        raise SpecError(f"{name}: not plain YAML: {error}") from error
    except RecursionError as error:
        raise SpecError(f"{name}: nested too deeply to be a study") from error


class _Strict(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2 numbers and booleans, which refuses aliases and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can stand for gigabytes
            raise yaml.YAMLError(
                f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not read; write the value out"
            )
        return super().compose_node(parent, index)


_OLD = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Strict.yaml_implicit_resolvers = {
    key: [row for row in rows if row[0] not in _OLD] for key, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Strict.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tTfF"))
_Strict.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_FLOAT = re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$")
_Strict.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping(loader: Any, node: Any, deep: bool = False) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.YAMLError(f"line {line}: a key must be a word")
        if str(key) in tree:
            raise yaml.YAMLError(f"line {line}: key '{key}' is written twice; remove one")
        tree[str(key)] = loader.construct_object(value_node, deep=True)
    return tree


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with ``key=value`` or ``key.inner=value`` applied, values as YAML."""
    for override in overrides:
        _override(tree, override)
    return tree


def _override(tree: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(f"--set {text}: expected key=value, for example --set budget.steps=20")
    *outer, last = path.split(".")
    for key in outer:
        inner = tree.get(key)
        tree[key] = inner = dict(inner) if isinstance(inner, dict) else {}
        tree = inner
    tree[last] = parse_yaml(value, f"--set {text}")


def validated(cls: type, tree: Any, where: str) -> Any:
    """A dataclass from JSON values, strictly: unknown keys, wrong types and bad values raise
    ``SpecError`` naming the key."""
    forbid_unknown_keys(cls)
    try:
        # JSON mode is strict, and yet lists become tuples
        return TypeAdapter(cls).validate_json(json.dumps({} if tree is None else tree))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise SpecError(f"{where}: {error}; expected plain YAML values") from None
        lines = [*mistakes(cls, {} if tree is None else tree, where), *_own_words(error, where)]
        lines = lines or [f"{where}.{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise SpecError("\n".join(lines)) from None


def forbid_unknown_keys(cls: Any) -> None:
    """Let pydantic refuse unknown keys of a plain dataclass, and of those in its fields, which it
    would drop in silence."""
    if "__pydantic_config__" in cls.__dict__:
        return
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    for kind in get_type_hints(cls).values():
        for choice in (kind, *get_args(kind)):
            if isinstance(choice, type) and is_dataclass(choice):
                forbid_unknown_keys(choice)


def _own_words(error: ValidationError, where: str) -> Iterator[str]:
    """What types that check themselves, such as recipes, say is wrong."""
    for each in error.errors():
        message = each["msg"].removeprefix("Value error, ")
        if message != each["msg"]:
            parts = (str(part) for part in each["loc"])
            at = ".".join([where, *(part for part in parts if not part.startswith(("function-", "tuple[", "dict[")))])
            # of a nested recipe, which does not know where it is
            inner = message.removeprefix("recipe") if message.startswith(("recipe.", "recipe:")) else f": {message}"
            yield f"{at}{inner}"
