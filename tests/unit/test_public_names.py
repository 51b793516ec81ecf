"""The public Python API: its names, and the page that shows them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import allograft

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "python.md"
NAMES = {
    "AllograftError",
    "Batch",
    "Boxes",
    "Cohort",
    "__version__",
    "compare",
    "load",
    "read_records",
    "run_study",
}
"""A name that is added or removed is a change of the public API: say so in the changelog."""


def test_the_public_names_are_these() -> None:
    assert set(dir(allograft)) == set(allograft.__all__) == NAMES
    listed = re.findall(r"^\|(.+?)\|", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert {name for cell in listed for name in re.findall(r"`(\w+)`", cell)} == NAMES - {"__version__"}


def test_the_lines_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from typer.testing import CliRunner

    from allograft.cli import app

    blocks = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    said = ""
    for language, text in blocks:
        if language == "bash":
            for command in text.splitlines():
                done = CliRunner().invoke(app, shlex.split(command)[1:], catch_exceptions=False)
                assert done.exit_code == 0, done.output
        elif language == "python":
            short = text.replace('"steps": 100, "adapt_steps": 40', '"steps": 2, "adapt_steps": 2')
            exec(compile(short, PAGE.name, "exec"), names)
            said = capsys.readouterr().out
            assert said.strip()
        else:
            assert said == text
    assert names["study"]["budget"]["steps"] == 2
    assert set(names["records"].name) == {"supervised", "finetune"}
    assert {case["site"] for case in names["found"].a} == {"c"}
