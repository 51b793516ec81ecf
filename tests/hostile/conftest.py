"""A sound cohort and model, and the command line in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Answer, write_study
from tests.hostile.world import ALLOCATION, CANARY, Hostile, limited

from allograft.cli import main
from allograft.phantoms.brain import write_brain


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a cohort, a study of it and a model trained on it, that no test changes."""
    from allograft.studies import run_study
    from allograft.study import read_study

    folder = tmp_path_factory.mktemp("sound")
    write_brain(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=3, size=32)
    write_study(folder / "cohort")
    study = read_study(
        folder / "cohort" / "study.yaml",
        ["recipes=[{fourier: {donors: 2, beta: 0.1}}]", "target_labels=none", "budget.steps=1"],
    )
    result = run_study(study, folder / "out", report=False)
    shutil.copytree(result.models["fourier beta=0.1 donors=2", "b"], folder / "model")
    shutil.rmtree(folder / "out")
    return folder


@pytest.fixture
def world(sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to spoil, and the current folder."""
    shutil.copytree(sound, tmp_path / "world")
    monkeypatch.chdir(tmp_path / "world")
    return tmp_path / "world"


@pytest.fixture
def allograft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run ``allograft ARGUMENTS`` within limits; a traceback ends the test."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["allograft", *map(str, arguments)])
        code = 0
        with limited():
            try:
                main()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else 1 if stop.code else 0
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    return run


@pytest.fixture
def check(world: Path, allograft: Callable[..., Answer]) -> Callable[[Hostile], None]:
    """Make an input, run its command, and see that it is refused as every input must be."""

    def refused(hostile: Hostile) -> None:
        command = hostile.make(world)
        answer = allograft(*command)
        assert not list(world.parent.rglob(CANARY)), "code was executed"
        assert "Traceback" not in answer.err + answer.out
        assert not [words for words in ALLOCATION if words.lower() in answer.err.lower()], answer.err
        if hostile.success:
            assert answer.code == 0, answer.err
            return
        assert answer.code == (3 if "images failed" in answer.err else 2), answer
        assert sum(line.startswith("error:") for line in answer.err.splitlines()) == 1, answer.err
        assert len(answer.err) < 5000, "a message is for reading"
        for words in hostile.told:
            assert words in answer.err, answer.err

    return refused
