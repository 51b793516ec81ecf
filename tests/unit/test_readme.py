"""What the README and the examples promise is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allograft.study.reading import read_study
from allograft.table import rows

ROOT = Path(__file__).parents[2]


def test_the_readme_lists_every_method_and_no_other() -> None:
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(table) == sorted(rows("method"))


@pytest.mark.parametrize("file", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_parses(file: Path) -> None:
    study = read_study(file)
    assert study.rows
    assert study.made_task.outputs


def test_paths_in_the_readme_exist() -> None:
    paths = re.findall(r"\]\(([\w./-]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"LICENSE", "CHANGELOG.md", "docs/index.md"} <= set(paths)
    for path in paths:
        assert (ROOT / path).exists(), path
