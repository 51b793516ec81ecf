"""Where a run keeps its place, so that ``kill -9`` costs at most the steps since the newest
checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict, TypeVar, cast

from allograft import tree
from allograft.errors import AllograftError

STOP = threading.Event()
"""Set when the process is asked to end (SIGTERM): the next step writes a checkpoint and raises
``Stopped``."""


Made = TypeVar("Made")


class Checkpoint(TypedDict):
    """What is kept under a name: of a training its place, or the value of a ``once``."""

    at: int
    history: NotRequired[dict[str, list[float]]]
    seconds: NotRequired[float]
    parts: NotRequired[Mapping[str, Mapping[str, object]]]
    value: NotRequired[object]


class Stopped(BaseException):
    """The process was asked to end and its place is kept. No unit has failed, so this is no
    ``Exception``."""


@dataclass
class Journal:
    """Checkpoints of one unit, by name, in a folder that goes when the unit is finished.

    Args:
        folder: made when something is kept.
        seconds: between checkpoints.
        writes: False on all processes but the first.
        check: called before anything is written or removed; raises when another process has the
            unit.
    """

    folder: Path
    seconds: float = 60.0
    writes: bool = True
    check: Callable[[], None] = lambda: None
    last: float = field(default_factory=time.monotonic)
    used: set[tuple[str, int]] = field(default_factory=set)
    waiting: dict[str, Checkpoint | None] = field(default_factory=dict)

    def open(self, name: str, span: range) -> Checkpoint | None:
        """The state that an earlier life of the run kept under a name, given once: to the call
        whose steps it lies in.

        A training in parts, ``train(..., steps=range(a, b), name=name)``, has one checkpoint. Parts
        before it need not run again: see ``passed``. A name used twice for one step is a mistake of
        the recipe.
        """
        if (name, span.start) in self.used:
            raise AllograftError(
                f"train(name={name!r}) was called twice in one run from step {span.start}; give each call its own name"
            )
        self.used.add((name, span.start))
        if name not in self.waiting:
            self.waiting[name] = self._load(name)
        kept = self.waiting[name]
        if kept is None or not span.start <= kept["at"] <= span.stop:
            return None
        self.waiting[name] = None
        return kept

    def passed(self, name: str, span: range) -> bool:
        """Whether a later part of the same training is kept, so that this one, already opened, may
        be left out."""
        kept = self.waiting.get(name)
        return kept is not None and kept["at"] > span.stop

    def _load(self, name: str) -> Checkpoint | None:
        try:
            return tree.load(self._path(name)) if self._path(name).exists() else None
        except tree.DamagedFile:
            return None  # run again, to the same bytes

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.writes and (STOP.is_set() or time.monotonic() - self.last >= self.seconds)

    def keep(self, name: str, state: Callable[[], Checkpoint]) -> None:
        """Write a checkpoint now, in the place of the last one of this name."""
        if self.writes:
            self.check()
            tree.save(self._path(name), state())
            self.last = time.monotonic()
        if STOP.is_set():
            raise Stopped

    def finish(self, name: str, state: Callable[[], Checkpoint]) -> None:
        """Keep a finished call, unless it is so short that a replay repeats it sooner (to the same
        bytes)."""
        if self.due():
            self.keep(name, state)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """The result of ``make``, computed once in the life of the unit; a tree of dicts, lists,
        numbers and tensors."""
        kept = self.open(f"once-{name}", range(1))
        if kept is not None:
            return cast(Made, kept["value"])
        made = make()
        self.keep(f"once-{name}", lambda: {"at": 1, "value": made})
        return made

    def clear(self) -> None:
        """Forget everything."""
        if self.writes:
            self.check()
            tree.remove(self.folder)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@dataclass
class NoJournal:
    """For runs that are not to be resumed."""

    def open(self, name: str, span: range) -> None:
        """Nothing is ever kept."""

    def passed(self, name: str, span: range) -> bool:
        """Never."""
        return False

    def due(self) -> bool:
        """Never."""
        return False

    def keep(self, name: str, state: Callable[[], Checkpoint]) -> None:
        """Keeps nothing."""

    def finish(self, name: str, state: Callable[[], Checkpoint]) -> None:
        """Keeps nothing."""

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """Computed each time."""
        return make()

    def clear(self) -> None:
        """Nothing to forget."""
