"""A warning of this package is one line in a terminal, without the code that raised it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

import allograft
from allograft.cli.channel import opened
from allograft.cli.warned import say_warnings_plainly


@pytest.fixture(autouse=True)
def others(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Python is left to show."""
    seen: list[Any] = []
    monkeypatch.setattr(warnings, "showwarning", lambda *given: seen.append(given))
    say_warnings_plainly()
    return seen


def test_our_own_warning_is_a_line(capsys: pytest.CaptureFixture[str], others: list[Any]) -> None:
    source = Path(allograft.__file__).parent / "methods" / "fourier.py"
    warnings.showwarning("fourier: a beta above 0.023 swaps more", UserWarning, str(source), 111)
    assert (capsys.readouterr().err, others) == ("warning: fourier: a beta above 0.023 swaps more\n", [])


@pytest.mark.parametrize("quiet", [True, False])
def test_a_command_that_has_a_log_has_our_warnings_in_it(
    quiet: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with opened(quiet, False, tmp_path / "log.txt"):
        warnings.showwarning("one class", UserWarning, str(Path(allograft.__file__).parent / "train.py"), 1)
    assert [line.split(" ", 2)[2] for line in (tmp_path / "log.txt").read_text().splitlines()[1:]] == [
        "warning: one class"
    ]
    assert capsys.readouterr().err == "warning: one class\n"


def test_others_say_where_they_come_from(capsys: pytest.CaptureFixture[str], others: list[Any]) -> None:
    warnings.showwarning("old", FutureWarning, "/elsewhere/torch.py", 3)
    assert others == [("old", FutureWarning, "/elsewhere/torch.py", 3, None, None)]
    assert capsys.readouterr().err == ""
