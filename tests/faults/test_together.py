"""Several processes on one folder, and dead ones' locks: every unit is trained once, and the result
is that of one process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.faults.world import DEAD, of_another, run, scores, study_of, told, trainings, write_cohort

from allograft.context.lock import Lease, locked


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    out = tmp_path_factory.mktemp("whole")
    return scores(run(manifest, out)), told(out), out


def command(manifest: Path, folder: Path, *more: str) -> list[str]:
    (folder / "study.yaml").write_text(yaml.safe_dump(study_of(manifest)))
    return [sys.executable, "-m", "allograft", "study", str(folder / "study.yaml"), "--out", str(folder / "out"), *more]


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "shards",
    [pytest.param(("1/2", "2/2"), marks=pytest.mark.slow), ("1/1", "1/1")],
    ids=["two shards", "twice the same"],
)
def test_two_processes_share_a_folder(
    shards: tuple[str, str], manifest: Path, undisturbed: Any, tmp_path: Path
) -> None:
    """Started at once; shard 2 needs the source training of shard 1, and waits for it."""
    started = [
        subprocess.Popen(
            command(manifest, tmp_path, "--shard", shard), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for shard in shards
    ]
    said = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    table, files, _ = undisturbed
    assert told(tmp_path / "out") == files
    assert scores(run(manifest, tmp_path / "out")) == table


def test_a_shard_does_its_own_units_and_no_others(
    manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allograft.run.fabric import local_fabric
    from allograft.studies import run_study

    table, files, whole = undisturbed
    fabric, made, done = local_fabric(accelerator="cpu"), trainings(monkeypatch), []
    for part in (1, 2):
        result = run_study(study_of(manifest), tmp_path, fabric=fabric, report=False, shard=(part, 2))
        done.append({path.parent.name for path in tmp_path.glob("units/*/carry.safetensors")})
        assert result.failed == 0  # what waits for the other shard has not failed
    assert [len(units) for units in done] == [2, 4]
    assert done[1] == {path.parent.name for path in whole.glob("units/*/carry.safetensors")}
    assert len(made) == 4
    assert scores(result) == table
    assert told(tmp_path) == files


def test_locks_of_the_dead_in_a_study(
    manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every unit is held by a process of this machine that is gone: nothing waits, and no lock is
    left."""
    table, files, whole = undisturbed
    for path in whole.glob("units/*"):
        lock = tmp_path / "units" / path.name / "lock"
        with locked(lock):
            text = lock.read_text()
        lock.write_text(of_another(text, DEAD))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("waited for the dead"))
    assert scores(run(manifest, tmp_path)) == table
    assert told(tmp_path) == files
    assert not list(tmp_path.rglob("lock*"))


def test_a_unit_that_was_taken_over_is_come_back_to(
    manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process stands still at its first checkpoint, another one takes the unit over and
    finishes it; no unit has failed."""
    table, files, whole = undisturbed
    real, taken = Lease.check, list[Path]()

    def stood_still(lease: Lease) -> None:
        if not taken and lease.held is not None:
            lock = Path(lease.held.lock_file)
            text = lock.read_text()
            lock.unlink()
            lock.write_text(of_another(text, os.getpid()))
            taken.append(lock)
        real(lease)

    def finished(seconds: float) -> None:
        (lock,) = taken
        if lock.exists():
            assert [path.name for path in lock.parent.rglob("*")] == ["lock"], "written after the lock was lost"
            shutil.copytree(whole / lock.parent.relative_to(tmp_path), lock.parent, dirs_exist_ok=True)
            lock.unlink()

    monkeypatch.setattr(Lease, "check", stood_still)
    monkeypatch.setattr("allograft.context.lock._sleep", lambda: finished(0))
    made = trainings(monkeypatch)
    assert scores(run(manifest, tmp_path)) == table
    assert told(tmp_path) == files
    assert len(made) == 1 + 2  # the step that was lost, and those of the other training
    assert not list(tmp_path.rglob("lock"))


@pytest.mark.timeout(240)
def test_asked_to_end_it_keeps_its_place(manifest: Path, undisturbed: Any, tmp_path: Path) -> None:
    """SIGTERM to a real process in a long training: exit code 143, a checkpoint of the very step,
    no lock; then it goes on from there."""
    words = ("--set", "budget.steps=100000", "--checkpoint-seconds", "100000")
    process = subprocess.Popen(
        command(manifest, tmp_path, *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    while not list(tmp_path.glob("out/units/*/lock")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 143, said
    assert said.splitlines()[-2] == "stopped; progress is kept. To resume, run the same command again:"
    (kept,) = tmp_path.glob("out/units/*/journal/*.safetensors")
    assert not list(tmp_path.rglob("lock"))
    assert not list((tmp_path / "out").glob("records/*"))
    from allograft import tree

    assert tree.load(kept)["at"] >= 1
