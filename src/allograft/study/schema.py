"""A JSON schema of the study file, with which editors complete and check keys.

It is made from what a study is checked by: the frozen dataclasses, the tables of names, the
signatures of the builders, and what their docstrings say under ``Args``. Names that installed
packages add are in it. What depends on several keys, or on the images, is left to the dry run of
a study.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema

from allograft.docstrings import arguments, meaning_and_example
from allograft.mistakes import GIVEN
from allograft.strict import forbid_unknown_keys, parse_yaml
from allograft.study.spec import Study
from allograft.table import find, rows
from allograft.tasks.named_loss import LIBRARIES
from allograft.tree import default, plain

Node = dict[str, Any]
"""A part of a JSON schema."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"
SHARED = ("each", "cohort", "cohorts")
"""Keys that all parts of a study share."""
TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", tuple: "array"}


def study_schema() -> Node:
    """The schema, as a JSON value."""
    schema = dataclass_schema(Study)
    definitions: Node = schema.pop("$defs")
    for kind in ("task", "network", "optimizer", "schedule"):
        named = {name: _entry(kind, name, definitions) for name in rows(kind)}
        definitions[kind] = one_of_named(named)
        definitions |= {f"{kind}.{name}": node for name, node in named.items()}
        definitions[kind]["properties"] = {name: _reference(f"{kind}.{name}") for name in named}
    definitions["network"]["patternProperties"] = {
        r"^monai\.[A-Z]\w*$": {"type": ["object", "null"], "description": "A network of MONAI, with its arguments."}
    }
    definitions["loss"] = _mapping({}) | {
        "patternProperties": {
            rf"^({'|'.join(LIBRARIES)})\.[A-Z]\w*Loss$": {
                "type": ["object", "null"],
                "description": "A loss of MONAI or PyTorch, with its arguments.",
            }
        },
        "maxProperties": 1,
    }
    definitions["schedule"] = {
        "anyOf": [{"type": "string", "enum": list(rows("schedule"))}, definitions["schedule"]],
    }
    _add_recipes(definitions)
    properties = schema["properties"]
    properties.pop("file")
    for key in ("task", "loss", "network", "optimizer", "schedule"):
        properties[key] |= _reference(key)
        _drop(properties[key], "type", "anyOf", "additionalProperties")
    definitions["CohortSpec"]["properties"]["preprocessing"] |= _reference("Preprocessing")
    _drop(definitions["CohortSpec"]["properties"]["preprocessing"], "type", "additionalProperties")
    overrides = {key: _reference_to(f"#/properties/{key}") for key in properties if key not in SHARED}
    properties["each"]["additionalProperties"] = _mapping(overrides)
    return {
        "$schema": DIALECT,
        "title": "A study of Allograft",
        **_plain(schema),
        "oneOf": [{"required": ["cohort"]}, {"required": ["cohorts"]}],
        "$defs": {name: _plain(node) for name, node in definitions.items()},
    }


def dataclass_schema(cls: type) -> Node:
    """The schema of a frozen dataclass, closed, with the meaning of each field and of those
    of the dataclasses inside it."""
    forbid_unknown_keys(cls)
    schema: Node = TypeAdapter(cls).json_schema()
    inside = {each.__name__: each for each in _dataclasses(cls)}
    for name, node in schema.get("$defs", {}).items():
        _describe(node, inside[name])
    _describe(schema, cls)
    return schema


def callable_schema(builder: Callable[..., Any]) -> Node:
    """The schema of the arguments that a study gives a builder: of a network, an optimizer, a
    schedule."""
    documented = inspect.getdoc(builder) or ""
    meanings, known = arguments(documented), _hints(builder)
    properties, required, is_open = dict[str, Node](), list[str](), False
    for name, parameter in inspect.signature(builder).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            is_open = True
        elif name not in GIVEN:
            properties[name] = _argument(known.get(name), parameter.default)
            if name in meanings:
                properties[name]["description"] = meanings[name]
            if parameter.default is parameter.empty:
                required.append(name)
    node = _mapping(properties) | {"type": ["object", "null"], "description": documented.partition("\n\n")[0]}
    node["additionalProperties"] = is_open
    return node | ({"required": required} if required else {})


def one_of_named(named: Mapping[str, Node]) -> Node:
    """A mapping with exactly one of these names."""
    return _mapping(dict(named)) | {"minProperties": 1, "maxProperties": 1}


def _entry(kind: str, name: str, definitions: Node) -> Node:
    """The schema of what follows a name; what is inside it goes to the definitions."""
    thing = find(kind, name)
    if not (isinstance(thing, type) and is_dataclass(thing)):
        return callable_schema(thing)
    node = dataclass_schema(thing) | {"type": ["object", "null"]}
    definitions |= node.pop("$defs", {})
    return node


def _add_recipes(definitions: Node) -> None:
    """The recipes, nested ones and those of rows, which may try a grid of settings."""
    names = list(rows("method"))
    for name in names:
        node = _entry("method", name, definitions)
        for key in ("optimizer", "schedule"):
            if key in node["properties"]:
                node["properties"][key]["anyOf"] = [_reference(key), {"type": "null"}]
        definitions[f"recipe.{name}"] = node
        fixed = {key: _reference_to(f"#/$defs/recipe.{name}/properties/{key}") for key in node["properties"]}
        axes = {key: {"type": "array", "minItems": 1, "items": each} for key, each in fixed.items()}
        grid = _mapping(axes) | {"minProperties": 1, "description": "Setting -> the values to try."}
        definitions[f"row.{name}"] = node | {"properties": fixed | {"grid": grid}}
        if "required" in node:
            definitions[f"row.{name}"].pop("required")
            definitions[f"row.{name}"]["anyOf"] = [{"required": node["required"]}, {"required": ["grid"]}]
    for kind in ("recipe", "row"):
        mapped = one_of_named({name: _reference(f"{kind}.{name}") for name in names})
        definitions[kind] = {"anyOf": [{"type": "string", "enum": names}, mapped]}


def _describe(node: Node, cls: type) -> None:
    """Give a dataclass and its fields the words of its docstring."""
    documented = inspect.getdoc(cls) or ""
    node["description"] = " ".join(documented.partition("\n\n")[0].split())
    meanings = arguments(documented)
    for field in fields(cls):
        meaning, example = meaning_and_example(meanings.get(field.name, ""))
        if meaning:
            node["properties"][field.name]["description"] = meaning
        if isinstance(default(field), dict):  # which pydantic leaves out, since it is made anew each time
            node["properties"][field.name]["default"] = plain(default(field))
        if example:
            node["properties"][field.name]["examples"] = [parse_yaml(example, field.name)[field.name]]


def _dataclasses(kind: Any) -> Iterator[type]:
    """A dataclass and those inside the types of its fields."""
    if isinstance(kind, type) and is_dataclass(kind):
        yield kind
        for hint in get_type_hints(kind).values():
            yield from _dataclasses(hint)
    else:
        for each in get_args(kind):
            yield from _dataclasses(each)


def _hints(builder: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(vars(builder)["__init__"] if isinstance(builder, type) else builder)
    except (NameError, TypeError):  # of a library whose hints cannot be read at run time
        return {}


def _argument(hint: Any, value: Any) -> Node:
    """From the hint, or, where that is no JSON type such as a tensor, from the default."""
    empty = value is inspect.Parameter.empty
    try:
        node: Node = TypeAdapter(hint).json_schema() if hint is not None else {}
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema, PydanticUserError):
        kind = TYPES.get(type(value)) if not empty else None
        node = {"type": "number" if kind == "integer" else kind} if kind else {}
    if empty or not isinstance(value, (*TYPES, type(None))):
        return node
    return node | {"default": plain(value)}


def _mapping(properties: Node) -> Node:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _reference(name: str) -> Node:
    return _reference_to(f"#/$defs/{name}")


def _reference_to(pointer: str) -> Node:
    return {"$ref": pointer}


def _drop(node: Node, *keys: str) -> None:
    for key in keys:
        node.pop(key, None)


def _plain(node: Any) -> Any:
    """A schema without the titles that pydantic makes of names, and with references in the place of
    the marks of recipes."""
    if isinstance(node, list):
        return [_plain(each) for each in node]
    if not isinstance(node, dict):
        return node
    marked = _reference(node["recipe"]) if isinstance(node.get("recipe"), str) else {}
    inner = {key: each for key, each in node.items() if key not in ("recipe", "title")}
    return marked | {
        key: {name: _plain(child) for name, child in each.items()}
        if key in ("properties", "patternProperties", "$defs")
        else each
        if key in ("default", "examples", "enum")
        else _plain(each)
        for key, each in inner.items()
    }
