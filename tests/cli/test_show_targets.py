"""What is printed of several targets: of each its own verdict and its own model."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allograft.cli.show import _show_part


def test_each_target_has_the_command_of_its_own_model(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.results.table.print_tables", lambda *_: None)
    monkeypatch.setattr("allograft.results.models.predict_command", lambda folder: f"predict {folder.name}")
    lines = [SimpleNamespace(title=title, target=target, chosen=True) for title, target in (("x", "b"), ("y", "c"))]
    verdicts = {target: SimpleNamespace(sentence=f"of {target}", how=[f"how {target}"]) for target in "bcd"}
    result: Any = SimpleNamespace(
        study=None,
        plan=None,
        lines=lines,
        out=Path("out"),
        standing=SimpleNamespace(verdicts=verdicts),
        models={("x", "b"): Path("models/x@b"), ("y", "c"): Path("models/y@c")},
    )
    _show_part(result, how=False)
    found = capsys.readouterr().out.splitlines()
    assert found[1:] == [
        "of b",
        "  predict x@b",
        "of c",
        "  predict y@c",
        "of d",
        f"  its models are in {Path('models')}",
    ]
    _show_part(result, how=True)
    assert capsys.readouterr().out.splitlines()[3:5] == ["  how this was decided:", "  how b"]
