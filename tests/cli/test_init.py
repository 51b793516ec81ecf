"""``allograft init``: the study that it writes is planned and runs."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command

from allograft.phantoms.brain import write_brain

FEW = ("--set", "seeds=1", "--set", "budget.steps=2", "--set", "budget.adapt_steps=2")


def test_the_study_runs_as_it_is(tmp_path: Path, allograft: Command) -> None:
    manifest = write_brain(tmp_path / "data", dims=2, subjects=5, size=48, sites={"a": "none", "b": "severe"})
    study = tmp_path / "study.yaml"
    done = allograft("init", manifest, "-o", study)
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == f"next: allograft study {study} --out runs/first --plan"
    done = allograft("study", study, "-o", tmp_path / "out", *FEW)
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "report.html").exists()
    again = allograft("init", manifest, "-o", study)
    assert (again.code, "already exists" in again.err) == (2, True)


def test_what_cannot_be_asked_ends_with_2_and_no_file(tmp_path: Path, allograft: Command) -> None:
    manifest = write_brain(tmp_path / "data", dims=2, subjects=2, size=32, sites={"a": "none"})
    done = allograft("init", manifest, "-o", tmp_path / "study.yaml")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "expected two sites" in done.err
    assert not (tmp_path / "study.yaml").exists()


def test_the_help_has_an_example(allograft: Command) -> None:
    assert "Example: allograft init data/vessels/manifest.csv -o study.yaml" in " ".join(
        allograft("init", "--help").out.split()
    )
