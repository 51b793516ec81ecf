"""A whole run of a method, which others must equal, and the files that it wrote on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import contract, draws_of, request, run, session_of

from allograft import tree
from allograft.context import Store
from allograft.context.journal import Journal
from allograft.results.record import Record
from allograft.study.plan import Row
from allograft.tree import digest


def with_checkpoints(name: str) -> dict[str, Any]:
    """The study of a method with two models along the way of each training."""
    budget = {"steps": 3, "adapt_steps": 3, "batch_size": 2, **contract(name).study.get("budget", {})}
    return {"budget": {**budget, "checkpoints": 3}}


"""A study that judges models along the way."""
PLACES = ("first", "middle", "last")
"""Writes of a unit after which it is killed: its first one, the middle of its checkpoints, and the
last one before its carry."""


@dataclass(frozen=True)
class Undisturbed:
    """A whole run with a checkpoint after every step.

    Args:
        out, row, records: as it left them.
        draws: what the row draws from.
        weights: digest of the network that the row's own unit carries on.
        writes: every file of that unit and its records, as often as it was written.
    """

    out: Path
    row: Row
    records: dict[str, Record]
    draws: str
    weights: str
    writes: tuple[Path, ...]

    def place(self, name: str) -> int:
        """How many writes there are up to one of ``PLACES``."""
        journal = [number for number, path in enumerate(self.writes) if "journal" in path.parts]
        middle = journal[(len(journal) - 1) // 2] if journal else len(self.writes) // 2
        return 1 + {"first": 0, "middle": middle, "last": len(self.writes) - 2}[name]


def undisturbed_run(name: str, manifest: Path, out: Path, **changes: Any) -> Undisturbed:
    """Run a method in a study with these changes."""
    written: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "due", lambda self: self.writes)
        watch_writes(patch, written.append)
        session = session_of(manifest, out, request(name), **changes)
        world, row, records = run(session)
    own = tuple(path for path in written if belongs(path, row.unit))
    return Undisturbed(out, row, records, draws_of(session, world), weights(out, row.unit), own)


def watch_writes(patch: pytest.MonkeyPatch, then: Callable[[Path], None]) -> None:
    """Call ``then`` right after every file that is written whole."""
    real = tree.write_bytes

    def watched(path: Path, data: bytes) -> None:
        real(path, data)
        then(path)

    for module in ("allograft.tree", "allograft.predictor.folder"):
        patch.setattr(f"{module}.write_bytes", watched)


def belongs(path: Path, unit: str) -> bool:
    """Whether a file is of this unit, or a record of it."""
    return unit in path.parts or path.name.startswith(unit)


def weights(out: Path, unit: str) -> str:
    found = Store(out / "units" / unit).load()
    assert found is not None
    return digest(found[0].network)
