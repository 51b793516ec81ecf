"""The notebook of the documentation runs, and its page shows what it left."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
FILE = DOCS / "notebooks" / "first_study.ipynb"
QUICK = {
    '"steps": 120, "adapt_steps": 40': '"steps": 2, "adapt_steps": 2',
    "subjects=10, size=64": "subjects=5, size=32",
}


@pytest.fixture(scope="module")
def notebook() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("notebook_pages", DOCS / "notebook_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cells() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
    return made


def shown(all_cells: list[dict[str, Any]]) -> list[list[str]]:
    """The kinds of what each code cell shows."""
    code = [cell for cell in all_cells if cell["cell_type"] == "code"]
    return [sorted(kind for output in cell["outputs"] for kind in output.get("data", ["stream"])) for cell in code]


def test_the_notebook_runs_and_shows_what_was_kept(
    notebook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    again = cells()
    names = notebook.execute(again, QUICK)
    assert all(any(old in "".join(cell["source"]) for cell in again) for old in QUICK)
    assert shown(again) == shown(cells())
    assert names["study"]["budget"]["steps"] == 2
    assert names["result"].failed == 0
    assert len(names["predicted"]) == 5


def test_its_page_has_every_cell_and_picture_and_links_that_lead_somewhere(notebook: ModuleType) -> None:
    text, pictures = notebook.page(FILE)
    assert len(re.findall(r"^```python", text, flags=re.M)) == len(shown(cells()))
    assert re.findall(r"!\[.+?\]\((.+?)\)", text) == list(pictures)
    assert all(content.startswith(b"\x89PNG") and len(content) < 150_000 for content in pictures.values())
    assert text.count("<table") == 2
    for link in re.findall(r"(?<!!)\[.+?\]\(\.\./(.+?)\)", text):
        assert link.startswith("generated/") or (DOCS / link).is_file(), link


def test_a_cell_that_fails_is_not_passed_over(notebook: ModuleType) -> None:
    cell = {"cell_type": "code", "source": ["x = 1\n", "1 / 0"], "outputs": []}
    with pytest.raises(ZeroDivisionError):
        notebook.execute([cell])
