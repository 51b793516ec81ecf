"""What a study left on the disk that nothing needs any more: found first, removed on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from allograft import tree
from allograft.context import Store
from allograft.context.lock import held_elsewhere, locked
from allograft.results.earlier_runs import as_recorded
from allograft.results.record import read_all
from allograft.results.standing import standing_of
from allograft.run.fabric import local_fabric
from allograft.run.parted import missing_parts, part_sessions
from allograft.run.session import Session
from allograft.study.plan import Plan
from allograft.study.reading import kept_study
from allograft.study.world import World

Kind = Literal["journal", "optimizer", "stage", "unit"]
KINDS: Mapping[Kind, str] = {
    "journal": "journals of finished units",
    "optimizer": "optimizer states that no row continues",
    "stage": "stages that no table uses",
    "unit": "units that no row of the study has",
}


@dataclass(frozen=True)
class Leftover:
    """Something that can go.

    Args:
        unit: whose it is.
        stage: its name, of a stage.
        size: bytes.
    """

    kind: Kind
    unit: str
    size: int
    stage: str = ""


@dataclass(frozen=True)
class Leftovers:
    """What a folder holds that can go.

    Args:
        out: the folder of a study.
        found: what can go.
        total: bytes in ``OUT/units``.
        unknown: units that no row has and that are kept all the same, since the study is not
            finished by this version, with this precision and number of processes: they may be what
            it would continue.
    """

    out: Path
    found: tuple[Leftover, ...]
    total: int
    unknown: int = 0

    @property
    def size(self) -> int:
        """Bytes that can go."""
        return sum(leftover.size for leftover in self.found)


@dataclass(frozen=True)
class _Use:
    """What the tables of all parts use.

    Args:
        plans: as this version would run them.
        recorded: as they were run.
        shown: (unit, stage) whose model the table hands over.
        finished: whether every part is.
    """

    plans: tuple[Plan, ...]
    recorded: tuple[Plan, ...]
    shown: frozenset[tuple[str, str]]
    finished: bool

    @property
    def units(self) -> frozenset[str]:
        """All that a row has or had."""
        return frozenset(unit for plan in (*self.plans, *self.recorded) for unit in plan.units)

    @property
    def continued(self) -> frozenset[str]:
        """Units whose optimizer a row continues."""
        return frozenset().union(*(plan.continued for plan in (*self.plans, *self.recorded)))


def leftovers(out: Path, say: Callable[[str], None] = lambda line: None) -> Leftovers:
    """Look for what the report, ``predict`` and resuming do not need; nothing is removed.

    That is the journal of a finished unit, the state of an optimizer that no row continues, and of
    a finished study the stages whose model no table hands over and the units that no row has. What
    another process works at is left alone.

    Raises:
        OutputError: a folder that no study wrote.
    """
    use = _use(out, say)
    folders = sorted(path for path in (out / "units").glob("*") if path.is_dir())
    idle = [path for path in folders if not held_elsewhere(Store(path).lock_file)]
    current = {unit for plan in use.plans for unit in plan.units}
    is_complete = use.finished and all(Store(out / "units" / unit).carry_file.exists() for unit in current)
    listed: list[Leftover] = []
    for path in idle:
        if path.name in use.units:
            listed += _of_unit(path, use)
        elif is_complete:
            listed.append(Leftover("unit", path.name, _size(path)))
        elif Store(path).carry_file.exists():
            listed += _journal(path)
    unknown = 0 if is_complete else sum(path.name not in use.units for path in folders)
    return Leftovers(out, tuple(listed), sum(map(_size, folders)), unknown)


def remove(leftovers_: Leftovers) -> int:
    """Remove what was found, but for what another process has taken up since; gives the bytes."""
    gone = 0
    for leftover in leftovers_.found:
        store = Store(leftovers_.out / "units" / leftover.unit)
        if held_elsewhere(store.lock_file):
            continue
        with locked(store.lock_file):
            _remove(store, leftover)
        gone += leftover.size
        if leftover.kind == "unit":
            tree.remove(store.folder)
    return gone


def _remove(store: Store, leftover: Leftover) -> None:
    if leftover.kind == "journal":
        store.tidy()
    elif leftover.kind == "optimizer":
        store.clean_optimizer()
    elif leftover.kind == "stage":
        store.clean_stage(leftover.stage)
    else:
        tree.remove(store.carry_file)  # first, so that a unit half removed is an unfinished one


def _use(out: Path, say: Callable[[str], None]) -> _Use:
    plans, recorded, shown, finished = [], [], set[tuple[str, str]](), True
    whole = Session(kept_study(out), out, None, local_fabric(accelerator="cpu"), 0, 60.0, say)
    missing = missing_parts(out)
    for name, session in part_sessions(whole).items():
        if name in missing:
            continue
        began = (session.out / "study.json").exists()
        world = World.read(kept_study(session.out) if began else session.study, session.out)
        records = read_all(session.out)
        plan = replace(session, say=lambda line: None).plan(world)
        made = as_recorded(plan, records.values())
        now = standing_of(world.study, made, records, session.units)
        shown |= {(run.row.unit, run.stage) for line in now.lines if (run := line.best_run) is not None}
        finished = finished and bool(now.verdicts)
        plans.append(plan)
        recorded.append(made)
    return _Use(tuple(plans), tuple(recorded), frozenset(shown), finished)


def _of_unit(path: Path, use: _Use) -> Iterator[Leftover]:
    """Of a unit that some row has."""
    store = Store(path)
    loaded = store.load() if store.carry_file.exists() else None
    if loaded is None:
        return  # unfinished: all of it is for resuming
    yield from _journal(path)
    if path.name not in use.continued and (size := store.optimizer_bytes()):
        yield Leftover("optimizer", path.name, size)
    if not use.finished:
        return
    for stage in loaded[1]:
        folder = store.stage_folder(stage.name)
        # a pre-training has no predictor: its weights are a start for other studies
        if stage.predictor is not None and (path.name, stage.name) not in use.shown and folder.is_dir():
            yield Leftover("stage", path.name, _size(folder), stage.name)


def _journal(path: Path) -> Iterator[Leftover]:
    if (path / "journal").is_dir():
        yield Leftover("journal", path.name, _size(path / "journal"))


def _size(path: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def lines_of(leftovers_: Leftovers) -> list[str]:
    """What can go and how much of it, a line a kind."""
    lines = [f"{leftovers_.out}: {_amount(leftovers_.total)} in {leftovers_.out / 'units'}"]
    for kind, words in KINDS.items():
        these = [leftover for leftover in leftovers_.found if leftover.kind == kind]
        if these:
            lines.append(f"  {words:42} {len(these):5} {_amount(sum(leftover.size for leftover in these)):>12}")
    if leftovers_.unknown:
        lines.append(
            f"  {leftovers_.unknown} unit{'' if leftovers_.unknown == 1 else 's'} kept that no row has: the study is "
            "not finished with this version, one process and 32-true"
        )
    if any(leftover.kind == "stage" for leftover in leftovers_.found):
        lines.append("  a model of such a stage is trained again if new test cases or another selection need it")
    return lines if leftovers_.found or leftovers_.unknown else [*lines, "  nothing to remove"]


def _amount(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
