"""What is wrong with JSON values that were to become a dataclass, in words: the key, what was
found, what was expected, and how to write it."""

from __future__ import annotations

import difflib
import inspect
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from allograft.docstrings import arguments, meaning_and_example
from allograft.errors import nearest

GIVEN = ("in_channels", "outputs", "progress", "params", "optimizer")
"""Arguments of builders that no study names."""
_WORDS = {
    str: ("a word", "words"),
    Path: ("a path", "paths"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    NoneType: ("null", "null"),
}
_LIMITS = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
_TRUTH = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}


def mistakes(kind: Any, value: Any, key: str, example: str = "") -> list[str]:
    """One sentence for each value that is of another type than the one asked for, and for each key
    that is unknown or missing.

    Types that check themselves, such as recipes, are left to that.

    Args:
        kind: a dataclass, or the type of one of its fields.
        value: as JSON or YAML has it.
        key: where it is, with dots.
        example: the line of a study that shows the key, from its documentation.

    >>> mistakes(tuple[str, ...], "drive", "study.source")
    ['study.source: found "drive"; expected a list of words; write source: [drive]']
    >>> mistakes(Literal["light", "strong"], "strng", "study.augmentation")
    ['study.augmentation: found "strng"; expected light or strong; did you mean strong?']
    """
    return _of_choices(_choices(kind), value, key, example)


def _of_choices(choices: Sequence[Any], value: Any, key: str, example: str = "") -> list[str]:
    fitting = [choice for choice in choices if _takes(choice, value)]
    if not fitting:
        return [_mismatch(choices, value, key, example)]
    records = [choice for choice in fitting if is_dataclass(choice)]
    if records and isinstance(value, Mapping):
        return _of_keys(max(records, key=lambda record: _closeness(record, value)), records, value, key)
    return min((_inside(choice, value, key) for choice in fitting), key=len)


def argument_mistakes(builder: Callable[..., Any], value: Mapping[str, Any], key: str) -> list[str]:
    """``mistakes`` of the arguments that a study gives a network, an optimizer or a schedule, as
    far as the signature says what it takes.

    >>> argument_mistakes(lambda lr, momentum=0.9: None, {"learning_rate": 0.1}, "optimizer.sgd")
    ["optimizer.sgd.learning_rate: unknown key 'learning_rate'; known: lr, momentum"]
    """
    try:
        parameters = inspect.signature(builder).parameters
        hints = get_type_hints(vars(builder)["__init__"] if isinstance(builder, type) else builder)
    except (NameError, TypeError, ValueError, KeyError):  # of a library whose hints cannot be read at run time
        return []
    named = [name for name in parameters if name not in GIVEN]
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    lines = (
        []
        if is_open
        else [f"{key}.{name}: {nearest(name, named, 'key')}" for name in value if name not in (*named, *GIVEN)]
    )
    for name in named:
        choices = [choice for choice in _choices(hints.get(name, Any)) if choice is Any or _is_json(choice)]
        if name in value and choices:
            lines += _of_choices(choices, value[name], f"{key}.{name}")
    return lines


def _is_json(kind: Any) -> bool:
    """Whether a file can hold a value of a type: of tensors and classes it cannot."""
    return kind in _WORDS or get_origin(kind) is Literal or _is_list(kind) or _is_mapping(kind)


def _choices(kind: Any) -> list[Any]:
    """The types that a union allows; of a type that checks itself Any."""
    if get_origin(kind) is Annotated:
        return [kind] if _limits(kind) else [Any]
    if get_origin(kind) in (Union, UnionType):
        return [choice for each in get_args(kind) for choice in _choices(each)]
    return [kind]


def _base(kind: Any) -> Any:
    """A type without its limits."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _limits(kind: Any) -> list[tuple[str, float]]:
    """The limits of a number, by the names that Python has for comparing."""
    held = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return [(name, getattr(limit, name)) for limit in held for name in _LIMITS if hasattr(limit, name)]


def _is_list(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (tuple, list, Sequence)


def _is_mapping(kind: Any) -> bool:
    return (get_origin(kind) or kind) in (dict, Mapping)


def _takes(kind: Any, value: Any) -> bool:
    """Whether a value is of a type, whatever it holds."""
    if limits := _limits(kind):
        return _takes(_base(kind), value) and all(getattr(operator, name)(value, limit) for name, limit in limits)
    if get_origin(kind) is Literal:
        return any(value == word and type(value) is type(word) for word in get_args(kind))
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in _WORDS:
        return isinstance(value, str if kind is Path else kind)
    if _is_list(kind):
        return isinstance(value, (list, tuple))
    return isinstance(value, Mapping) if _is_mapping(kind) or is_dataclass(kind) else True


def _inside(kind: Any, value: Any, key: str) -> list[str]:
    """The mistakes in what a list or a mapping holds."""
    parts = get_args(kind)
    if _is_mapping(kind) and len(parts) == 2:
        return [line for name, each in value.items() for line in mistakes(parts[1], each, f"{key}.{name}")]
    if not _is_list(kind) or not parts:
        return []
    if parts[-1] is not Ellipsis and get_origin(kind) is tuple and len(value) != len(parts):
        return [f"{key}: found {_shown(value)}, {len(value)} values; expected {len(parts)}"]
    kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis or get_origin(kind) is not tuple else parts
    each_kind = enumerate(zip(kinds, value, strict=True))
    return [line for number, (part, each) in each_kind for line in mistakes(part, each, f"{key}.{number}")]


def _of_keys(cls: Any, records: Sequence[Any], value: Mapping[str, Any], key: str) -> list[str]:
    """The mistakes in the keys of one dataclass of those that a union allows."""
    hints, known = get_type_hints(cls, include_extras=True), [field.name for field in fields(cls) if field.init]
    every = [field.name for record in records for field in fields(record) if field.init]
    described = arguments(inspect.getdoc(cls) or "")
    lines = [f"{key}.{name}: {nearest(name, every, 'key')}" for name in value if name not in known]
    meant = {match for name in value if name not in known for match in difflib.get_close_matches(name, known, 1, 0.5)}
    for field in fields(cls):
        example = meaning_and_example(described.get(field.name, ""))[1]
        if field.name in value:
            lines += mistakes(hints[field.name], value[field.name], f"{key}.{field.name}", example)
        elif field.name in _required(cls) and field.name not in meant:
            lines.append(
                f"{key}.{field.name}: missing; expected {_expected(_choices(hints[field.name]))}{_such_as(example)}"
            )
    return lines


def _required(cls: Any) -> list[str]:
    every = (field for field in fields(cls) if field.init)
    return [field.name for field in every if field.default is MISSING and field.default_factory is MISSING]


def _closeness(record: Any, value: Mapping[str, Any]) -> float:
    names = [field.name for field in fields(record)]
    return sum(max(difflib.SequenceMatcher(None, name, known).ratio() for known in names) for name in value)


def _mismatch(choices: Sequence[Any], value: Any, key: str, example: str) -> str:
    fix = _fix(choices, value, key, example)
    return f"{key}: found {_shown(value)}; expected {_expected(choices)}{fix and f'; {fix}'}"


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _expected(choices: Sequence[Any]) -> str:
    words: list[str] = []
    for choice in choices:
        words += map(str, get_args(choice)) if get_origin(choice) is Literal else [_word(choice)]
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _word(kind: Any, *, plural: bool = False) -> str:
    """What a type is called.

    >>> _word(tuple[tuple[int, ...], ...]), _word(dict[str, int])
    ('a list of lists of whole numbers', '{NAME: a whole number}')
    """
    parts = get_args(kind)
    if limits := _limits(kind):
        return f"{_word(parts[0], plural=plural)} {' and '.join(f'{_LIMITS[name]} {limit}' for name, limit in limits)}"
    if kind in _WORDS:
        return _WORDS[kind][plural]
    if _is_list(kind) and parts:
        count = "" if parts[-1] is Ellipsis or get_origin(kind) is not tuple else f"{len(parts)} "
        return f"{'lists' if plural else 'a list'} of {count}{_word(parts[0], plural=True)}"
    if is_dataclass(kind):
        names = [f"{field.name}: .." for field in fields(kind) if field.init]
        return f"{{{', '.join([*names[:4], *(['..'] if len(names) > 4 else [])])}}}"
    if _is_mapping(kind):
        choices = _choices(parts[1]) if parts else [Any]
        return "{NAME: ..}" if Any in choices else f"{{NAME: {_expected(choices)}}}"
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_word(choice, plural=plural) for choice in _choices(kind))
    return "NAME or {NAME: {..}}"


def _such_as(example: str) -> str:
    return f"; for example {example}" if example else ""


def _fix(choices: Sequence[Any], value: Any, key: str, example: str) -> str:
    """How to write what was meant, where that can be told; else an example of the key."""
    if value is None:
        return "write a value, or remove the key"
    name = key.rpartition(".")[2]
    meant = _meant(choices, value, example)
    if meant:
        return f"write {meant if name.isdigit() else f'{name}: {meant}'}"
    words = [str(word) for choice in choices if get_origin(choice) is Literal for word in get_args(choice)]
    close = difflib.get_close_matches(str(value), words, 1, 0.5)
    return f"did you mean {close[0]}?" if close else _such_as(example).removeprefix("; ")


def _meant(choices: Sequence[Any], value: Any, example: str) -> str:
    """The value as YAML of one of the types; "" where it is none of them in other clothes."""
    for choice in map(_base, choices):
        parts = get_args(choice)
        if _is_list(choice) and parts[1:] in ((), (Ellipsis,)) and not mistakes(parts[0], value, ""):
            if not (example and parts[0] in (int, float)):  # one number for each axis, which one alone does not say
                return f"[{_yaml(value)}]"
        elif is_dataclass(choice) and not example and len(lacking := _required(choice)) == 1:
            if not mistakes(choice, {lacking[0]: value}, ""):
                return f"{{{lacking[0]}: {_yaml(value)}}}"
        elif choice is str and isinstance(value, (bool, int, float)):
            return json.dumps(str(value))
        elif choice is bool and str(value).lower() in _TRUTH:
            return _TRUTH[str(value).lower()]
        elif choice in (int, float) and (number := _number(value)) is not None:
            if choice is float or number.is_integer():
                return _yaml(int(number) if number.is_integer() else number)
        elif _is_mapping(choice) and isinstance(value, str) and not example and not mistakes(parts[1], {}, ""):
            return f"{{{_yaml(value)}: {{}}}}"
    return ""


def _number(value: Any) -> float | None:
    """A number that was written as text, with a comma or as a decimal."""
    if isinstance(value, bool) or not isinstance(value, (str, float)):
        return None
    try:
        number = float(str(value).replace(",", "."))
    except ValueError:
        return None
    return number if abs(number) < 2**53 else None


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
