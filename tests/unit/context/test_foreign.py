"""A unit made by other code of a plug-in is another unit; one of our own methods keeps its key."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import a_context

from allograft import table
from allograft.context import foreign
from allograft.context.foreign import foreign_code
from allograft.methods.supervised import Supervised

METHOD = """
from dataclasses import dataclass
from allograft.methods.supervised import Supervised

@dataclass(frozen=True)
class Mine(Supervised):
    '''Mine.'''
"""


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "foreign_plug") -> Any:
    """The class ``Mine``, as a new process would import it."""
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setitem(table.METHODS, "foreign_mine", f"{name}.method:Mine")
    importlib.invalidate_caches()
    for known in [known for known in sys.modules if known.startswith(name)]:
        monkeypatch.delitem(sys.modules, known)
    foreign._code_beside.cache_clear()
    return importlib.import_module(f"{name}.method").Mine


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "foreign_plug"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "method.py").write_text(METHOD)
    return folder


def test_a_change_of_a_methods_file_or_of_one_beside_it_changes_the_key(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = a_context(package.parent)

    def key() -> str:
        return context.key("the same draws", loaded(package.parent, monkeypatch)())

    before = key()
    assert key() == before
    (package / "method.py").write_text(METHOD + "\nSTRENGTH = 2\n")
    changed = key()
    assert changed != before
    (package / "losses.py").write_text("WEIGHT = 1\n")
    assert len({before, changed, key()}) == 3
    (package / "notes.txt").write_text("no code")
    assert len({before, changed, key()}) == 3


def test_our_own_methods_have_no_foreign_code(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert foreign_code([Supervised(), None, 3]) == []
    assert len(foreign_code([Supervised(), loaded(package.parent, monkeypatch)()])) == 1
    context = a_context(package.parent)
    assert context.key("draws", Supervised()) != context.key("draws", loaded(package.parent, monkeypatch)())


def test_a_class_without_a_file_has_none() -> None:
    assert foreign_code([type("Typed", (), {"__module__": "__nowhere__"})()]) == []
