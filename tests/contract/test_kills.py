"""A method whose own unit is ended at any place leaves, once resumed, what it leaves
undisturbed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.contract.undisturbed import (
    PLACES,
    Undisturbed,
    belongs,
    undisturbed_run,
    watch_writes,
    weights,
    with_checkpoints,
)
from tests.contract.world import METHODS, request, run, session_of, told

from allograft.context import Store
from allograft.context.journal import Journal
from allograft.run.session import Session


class Killed(BaseException):
    """Stands for a process that is gone."""


def killed_and_resumed(
    expected: Undisturbed, place: str, make: Callable[[Path], Session], out: Path, patch: pytest.MonkeyPatch
) -> None:
    """End the row's own unit right after a write, resume it, and compare; the units it is built on
    are done before."""
    unit, left = expected.row.unit, expected.place(place)
    shutil.copytree(
        expected.out, out, symlinks=True, ignore=lambda _, names: [name for name in names if name.startswith(unit)]
    )
    patch.setattr(Journal, "due", lambda self: self.writes)

    def mortal(path: Path) -> None:
        nonlocal left
        left -= belongs(path, unit)
        if left == 0:
            raise Killed

    with patch.context() as more:
        watch_writes(more, mortal)
        with pytest.raises(Killed):
            run(make(out))
    assert not Store(out / "units" / unit).carry_file.exists()
    _, _, again = run(make(out))
    assert told(again) == told(expected.records)
    assert weights(out, unit) == expected.weights


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("place", PLACES)
def test_killed_and_resumed_is_undisturbed(
    name: str, place: str, manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(out: Path) -> Session:
        return session_of(manifest, out, request(name))

    killed_and_resumed(undisturbed(name), place, make, tmp_path / "out", monkeypatch)


@pytest.mark.parametrize("name", ["finetune", "aiva", "catenorm"])
@pytest.mark.parametrize("place", PLACES)
def test_killed_between_checkpoints_and_resumed_is_undisturbed(
    name: str, place: str, manifest: Path, undisturbed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(out: Path) -> Session:
        return session_of(manifest, out, request(name), **with_checkpoints(name))

    killed_and_resumed(undisturbed(name, checkpoints=True), place, make, tmp_path / "out", monkeypatch)


D = {"hidden": [8]}
PHASES = {
    "D": {"united": D},
    "(D)+R": {"united": {**D, "ingredients": "D+R", "first": {"united": D}}},
    "((D)+R)+A": {
        "united": {
            **D,
            "ingredients": "D+R+A",
            "first": {"united": {**D, "ingredients": "D+R", "first": {"united": D}}},
        }
    },
    "clusters": {"united": {**D, "ingredients": "D+R+A", "pretext": "deep_clustering", "classes": 3}},
}
"""Phases of stepwise pre-training, and one that clusters before each of its two epochs."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("place", PLACES)
def test_every_phase_of_united_killed_and_resumed_is_undisturbed(
    phase: str, place: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = {"steps": 4, "steps_per_epoch": 2, "batch_size": 2}
    changes = {"recipes": [PHASES[phase]], "budget": budget}

    def make(out: Path) -> Session:
        return session_of(manifest, out, request("united"), **changes)

    expected = undisturbed_run("united", manifest, tmp_path / "undisturbed", **changes)
    killed_and_resumed(expected, place, make, tmp_path / "out", monkeypatch)
