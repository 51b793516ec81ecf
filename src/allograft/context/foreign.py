"""The code of methods, tasks and networks that are not ours: a unit made by other code is another
unit."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from allograft.tree import content_hash


def foreign_code(things: Iterable[object]) -> list[str]:
    """A hash for each folder of Python files, beside this package's own, that the classes of
    ``things`` come from, in a fixed order.

    A change of a plug-in's code, installed or under development, changes the hash; a class typed in
    at a prompt has no file and none. Files are read once a process, as Python reads them.
    """
    modules = {type(thing).__module__ for thing in things}
    hashes = {_code_beside(name) for name in modules if name.partition(".")[0] not in ("allograft", "builtins")}
    return sorted(hashes - {""})


@cache
def _code_beside(module: str) -> str:
    """Of a module's file and those beside it in its package; empty where there is no file."""
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    if loaded is None or file is None:
        return ""
    path = Path(file)
    files = sorted(path.parent.glob("*.py")) if loaded.__package__ else [path]
    return content_hash([[each.name, each.read_text(encoding="utf-8", errors="replace")] for each in files])
