"""``kill -9`` at any moment, then the same command again: nothing is lost, and nothing is
different."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import write_study

from allograft.phantoms.brain import write_brain
from allograft.results.record import read_all
from allograft.studies import run_study
from allograft.study import read_study

SET = ("recipes=[supervised]", "target_labels=none", "budget.steps=40", "seeds=2")


def told(out: Path) -> dict[str, Any]:
    """All of the records but what they cost."""
    return {
        name: (r.metrics, r.cases, r.status, r.data, r.ordinal, r.stage, r.environment["threads"])
        for name, r in read_all(out).items()
    }


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    return write_study(folder)


@pytest.fixture(scope="module")
def undisturbed(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("whole")
    run_study(read_study(cohort, SET), out, report=False)
    return told(out)


def command(study: Path, out: Path) -> list[str]:
    sets = [word for one in SET for word in ("--set", one)]
    return [
        sys.executable,
        "-m",
        "allograft",
        "study",
        str(study),
        "--out",
        str(out),
        "--checkpoint-seconds",
        "0",
        *sets,
    ]


def test_killed_and_run_again_is_undisturbed(cohort: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    # in the first training; after a unit is finished
    for moment in ("*/journal/*.safetensors", "*/carry.safetensors"):
        process = subprocess.Popen(command(cohort, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 120
        while not list((out / "units").glob(moment)) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it was killed: make the study longer"
    assert set(told(out)) < set(undisturbed)
    assert list((out / "units").rglob("*.safetensors"))
    run_study(read_study(cohort, SET), out, report=False, checkpoint_seconds=0)
    assert told(out) == undisturbed
    assert not list((out / "units").glob("*/journal"))
