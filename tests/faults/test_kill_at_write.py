"""A process that is gone at its n-th write, for every n: run again, the study is as if nothing had
happened.

What is on the disk before write n + 1 takes effect is what is there after write n: both are the
n-th and the next snapshot.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.faults.world import bury, litter, run, scores, told, trainings, write_cohort

STEP = 13
"""Every so many writes in the normal run; the slow one has them all."""


class Killed(BaseException):
    """Stands for ``kill -9``: nothing but the disk is left."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The undisturbed run, and of a second one what was on the disk before each of its writes took
    effect."""
    manifest = write_cohort(tmp_path_factory.mktemp("cohort"))
    whole, out, snapshots = (tmp_path_factory.mktemp(name) for name in ("whole", "out", "snapshots"))
    result = run(manifest, whole)
    written: list[str] = []
    real = os.replace

    def kept(part: Any, goal: Any) -> None:
        snapshot = snapshots / f"{len(written):03}"
        shutil.copytree(out, snapshot)
        half = snapshot / Path(part).relative_to(out)
        # killed in the middle of writing it
        half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
        bury(snapshot)
        written.append(Path(goal).relative_to(out).as_posix())
        real(part, goal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", kept)
        run(manifest, out)
    assert told(out) == told(whole)
    assert sorted(path.name for path in snapshots.iterdir()) == [f"{number:03}" for number in range(len(written))]
    return manifest, told(whole), scores(result), written, snapshots


def resumed(world: Any, number: int, out: Path) -> None:
    manifest, expected, table, written, snapshots = world
    shutil.copytree(snapshots / f"{number:03}", out)
    assert [path for path in out.rglob("*.part") if litter(path)], written[number]
    again = run(manifest, out)
    assert told(out) == expected, written[number]
    assert scores(again) == table, written[number]
    assert not list(out.glob("units/*/journal")) + list(out.glob("units/*/lock")), written[number]
    shutil.rmtree(out)


def test_what_is_written_is_what_a_study_keeps(world: Any) -> None:
    """Else the tests below would kill at too few places."""
    written = world[3]
    for ending in (
        "splits.csv",
        "train.safetensors",
        "model.safetensors",
        "card.json",
        "carry.safetensors",
        "results.csv",
        "-image.npy",
    ):
        assert any(name.endswith(ending) for name in written), ending
    records = [Path(name).suffix for name in written if name.startswith("records/")]
    # of each of four units: a table of two sites, what the model saw of each, and of unlabelled images a table alone
    assert (records.count(".json"), records.count(".safetensors")) == (12, 8)
    assert sum(name.endswith("carry.safetensors") for name in written) == 4


@pytest.mark.timeout(120)
def test_killed_at_some_writes(world: Any, tmp_path: Path) -> None:
    _, _, _, written, _ = world
    late = [n for n, name in enumerate(written) if not name.startswith("cache/")]
    for number in sorted({0, *late[::STEP], len(written) - 1}):
        resumed(world, number, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_every_write(world: Any, tmp_path: Path) -> None:
    for number in range(len(world[3])):
        resumed(world, number, tmp_path / "out")


def test_killed_after_every_write_it_still_comes_to_its_end(
    world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that lives for three new files each time; steps are repeated since the newest
    checkpoint only."""
    manifest, expected, table, written, snapshots = world
    start = next(n for n, name in enumerate(written) if name.startswith("units/"))
    out = tmp_path / "out"
    shutil.copytree(snapshots / f"{start:03}", out)
    steps, real, lives = trainings(monkeypatch), os.replace, 0

    def mortal(part: Any, goal: Any) -> None:
        new = not Path(goal).exists() or "journal" in str(goal)
        real(part, goal)
        left[0] -= new
        if left[0] == 0:
            raise Killed  # right after the write

    monkeypatch.setattr(os, "replace", mortal)
    while True:
        left, lives = [12], lives + 1
        try:
            again = run(manifest, out)
            break
        except Killed:
            bury(out)
    assert lives > 2
    assert told(out) == expected
    assert scores(again) == table
    # two trainings of two steps: a checkpoint follows each, so none is made twice
    assert len(steps) == 4
