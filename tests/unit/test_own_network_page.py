"""The Python of the page on networks, losses and metrics runs, in order, on its phantom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from allograft.batch import Batch
from allograft.cli import app

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "your-own-network.md"


def test_the_lines_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for language, text in re.findall(
        r"^```(bash|python)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S
    ):
        if language == "bash":
            for line in text.splitlines():
                assert CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False).exit_code == 0
        else:
            short = text.replace('"steps": 100, "adapt_steps": 40', '"steps": 2, "adapt_steps": 2')
            exec(compile(short.replace('"seeds": 1', '"seeds": 1, "baselines": False'), PAGE.name, "exec"), names)
    assert set(names["result"].table.recipe) == {"supervised", "finetune"}
    assert len(names["areas"]) == 8
    assert "white" in capsys.readouterr().out
    check_objective(names["objective"])


def check_objective(objective: Any) -> None:
    """A perfect answer costs next to nothing, and a case that is not labelled does not count."""
    truth = torch.zeros(2, 8, 8, dtype=torch.long)
    truth[:, 2:5] = 1
    logits = 40.0 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1)
    hidden = truth.clone()
    hidden[1] = -100
    wrong = logits.clone()
    wrong[1] = wrong[1].flip(0)

    def loss(output: torch.Tensor, mask: torch.Tensor) -> float:
        batch = Batch(image=torch.zeros(2, 1, 8, 8), site=torch.zeros(2), cases=("a", "b"), labels={"mask": mask})
        return float(objective(lambda image: {"mask": output}, batch)["dice_focal"])

    assert loss(logits, truth) < 0.4  # the third class is nowhere, and its Dice is 0 by MONAI
    assert loss(wrong, truth) > loss(logits, truth) + 0.3
    assert loss(wrong, hidden) == pytest.approx(loss(logits[:1].repeat(2, 1, 1, 1), truth), abs=1e-6)
