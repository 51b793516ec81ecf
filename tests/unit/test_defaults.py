"""Every default that a user can leave as it is: of recipes, networks and the other tables, of a
study's keys and of the commands' options.

``python -m tests.unit.test_defaults`` writes ``defaults.json`` again. A changed line means other
numbers for those who set nothing: CHANGELOG.md then says so.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import typer

from allograft import table
from allograft.cli import app
from allograft.study.spec import Study
from allograft.tree import default, plain

KEPT = Path(__file__).with_name("defaults.json")


def defaults() -> dict[str, dict[str, str]]:
    """What is called or written -> the default of each argument."""
    made = {"study": _of(Study)}
    for kind, rows in table._TABLES.items():
        ours = (name for name, row in rows.items() if row.startswith("allograft."))
        made |= {f"{kind} {name}": _of(table.find(kind, name)) for name in ours}
    made |= {
        f"allograft {name}": {max(option.opts, key=len): _text(option.default) for option in command.params}
        for name, command in _commands(typer.main.get_command(app))
    }
    return {name: each for name, each in made.items() if each}


def _of(thing: Any) -> dict[str, str]:
    if is_dataclass(thing):
        return {field.name: _text(default(field)) for field in fields(thing)}
    parameters = inspect.signature(thing).parameters.values()
    return {each.name: _text(each.default) for each in parameters if each.default is not inspect.Parameter.empty}


def _text(value: Any) -> str:
    return json.dumps(plain(value), default=lambda other: getattr(other, "__name__", type(other).__name__))


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, each in getattr(command, "commands", {}).items():
        yield from _commands(each, (*path, name))
        if not hasattr(each, "commands"):
            yield " ".join((*path, name)), each


def _lines(made: dict[str, dict[str, str]]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in made.items()) + "\n}\n"


def test_defaults_change_only_where_somebody_means_them_to() -> None:
    kept, made = json.loads(KEPT.read_text()), defaults()
    changed = [
        f"{name}: {argument} {made.get(name, {}).get(argument)}, kept {kept.get(name, {}).get(argument)}"
        for name in sorted(kept.keys() | made.keys())
        for argument in sorted(kept.get(name, {}).keys() | made.get(name, {}).keys())
        if kept.get(name, {}).get(argument) != made.get(name, {}).get(argument)
    ]
    assert not changed, "if it should be so: python -m tests.unit.test_defaults, and a word in CHANGELOG.md"


if __name__ == "__main__":
    KEPT.write_text(_lines(defaults()))
