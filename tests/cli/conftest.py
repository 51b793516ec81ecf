"""The command line in this process, and studies of a second or two."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from allograft.cli import main

STUDY = """
cohort: {cohort}
task: {{segmentation: {{classes: [white, grey]}}}}
network: {{unet: {{channels: [4, 8], num_res_units: 1}}}}
source: [a]
target: [b]
target_labels: {{subjects: 1}}
recipes: [{{finetune: {{scope: top}}}}]
test: {{fraction: 0.5}}
seeds: 1
budget: {{steps: 3, adapt_steps: 3, batch_size: 2}}
"""


@dataclass(frozen=True)
class Answer:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Answer]


@pytest.fixture
def allograft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run ``allograft ARGUMENTS``; a traceback would end the test."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["allograft", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


def write_study(folder: Path, cohort: str = "manifest.csv") -> Path:
    """``folder/study.yaml``."""
    (folder / "study.yaml").write_text(STUDY.format(cohort=cohort))
    return folder / "study.yaml"
