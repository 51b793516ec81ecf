"""A disk or share that goes away while a study writes to it: the run ends and says so, and is
resumed when it is back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.faults.world import run, study_of, told, write_cohort

from allograft.errors import OutputError
from allograft.run.executors.local import LocalExecutor
from allograft.run.fabric import local_fabric
from allograft.studies import run_study

GONE = "no longer there; mount the disk or share .* then run the same command to resume"


def losing(out: Path, at: str, manifest: Path, **how: Any) -> None:
    """Run the study, and take its folder away when a line of its progress has ``at`` in it."""

    def say(line: str) -> None:
        if at in line and out.exists():
            out.rename(out.with_name("away"))

    run_study(
        study_of(manifest), out, fabric=local_fabric(accelerator="cpu"), checkpoint_seconds=0, say=say, report=False,
        **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def whole(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the study leaves where nothing goes away."""
    out = tmp_path_factory.mktemp("whole") / "out"
    run(manifest, out)
    return told(out)


def test_a_folder_that_goes_away_ends_the_run_and_comes_back(
    manifest: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(OutputError, match=GONE):
        losing(out, "[4 of 4]", manifest)
    left = {path.name for path in out.rglob("*") if path.is_file()}
    assert not left & {"results.csv", "study.json"}  # no table of a part of the study
    if out.exists():  # what is written to the place where a share was mounted
        out.rename(tmp_path / "litter")
    (tmp_path / "away").rename(out)
    run(manifest, out)
    assert told(out) == whole


def test_processes_of_the_local_executor_say_it_too(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=GONE):
        losing(tmp_path / "out", "1 of 4]", manifest, executor=LocalExecutor(jobs=1))
