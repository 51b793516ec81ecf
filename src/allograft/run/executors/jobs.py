"""The jobs of a study, one per unit and part, and the loop that hands them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from allograft.context.journal import STOP, Stopped
from allograft.errors import OutputError, SpecError, TrainingError
from allograft.recipe import every_recipe, title
from allograft.run.closing import write_page
from allograft.run.pace import Pace
from allograft.run.session import Session
from allograft.study.plan import Plan
from allograft.study.world import World

TICK = 0.5
"""Seconds between two looks at the request to stop."""


@dataclass(frozen=True)
class Job:
    """One unit of one part of a study.

    Args:
        part: the folder of the part.
        unit: the content key.
        label: its recipe, for people.
        number, total: its place among the jobs.
        after: the jobs, as (part, unit), that must have ended before it begins.
    """

    part: Path
    unit: str
    label: str = field(compare=False)
    number: int = field(compare=False, default=1)
    total: int = field(compare=False, default=1)
    after: frozenset[tuple[Path, str]] = field(compare=False, default=frozenset())

    @property
    def key(self) -> tuple[Path, str]:
        """Its name among the jobs."""
        return self.part, self.unit


@dataclass(frozen=True)
class Ended:
    """What a job came to.

    Args:
        crash: why its process was lost; "" where it ended by itself, be it with a failed run.
        is_lost: whether the job has to be done again: another process took the unit over, or this
            one was asked to end.
        fatal: an error that every other job would meet too, such as a full disk.
    """

    job: Job
    crash: str = ""
    is_lost: bool = False
    fatal: str = ""


@dataclass(frozen=True)
class Asked:
    """What a worker needs besides the study's folder, as JSON values.

    Args:
        device, precision: of its Fabric.
        workers: loader processes.
        checkpoint_seconds: between checkpoints.
        continued: units whose optimizer some row continues.
        step_bytes: forecast memory of a training step.
    """

    device: str
    precision: str
    workers: int
    checkpoint_seconds: float
    continued: tuple[str, ...]
    step_bytes: int = 0


class Pool(Protocol):
    """Processes that do jobs."""

    def has_room(self) -> bool:
        """Whether a further job may be handed in now."""

    def submit(self, job: Job) -> None:
        """Hand in a job."""

    def wait(self, seconds: float) -> Sequence[Ended]:
        """Jobs that have ended since the last call; waits for one at most so long."""

    def stop(self) -> None:
        """Let every process keep its place and end; returns when all have."""


class Executor(Protocol):
    """Where jobs are done. It enters no key, so another one continues what this one began."""

    def open(self, asked: Asked, session: Session) -> AbstractContextManager[Pool]:
        """A pool for one study; ``session`` says lines."""


Parts = Mapping[str, tuple[Session, World, Plan]]


def check_executor(session: Session, shard: tuple[int, int]) -> None:
    """Raise ``SpecError`` for what cannot go with an executor."""
    if session.network is not None:
        raise SpecError("executor: a network of your own cannot be sent to other processes; leave one of them out")
    if session.fabric.world_size > 1:
        raise SpecError("--executor runs one process per unit; leave out --devices, or --executor")
    if shard != (1, 1):
        raise SpecError("--executor hands out all units; leave out --shard, or --executor")


def execute(executor: Executor, parts: Parts, *, report: bool) -> None:
    """Run and evaluate every row of all parts that is not finished; failures become records.

    Raises:
        OutputError: something that every job would meet.
        Stopped: the process was asked to end; every unit has kept its place.
    """
    jobs = list(jobs_of(parts))
    if not jobs:
        return
    folders = {session.out: (session, world, plan) for session, world, plan in parts.values()}
    first = next(iter(parts.values()))[0]
    pace, waiting, running, over = Pace(), jobs, set[tuple[Path, str]](), set[tuple[Path, str]]()
    names = {job.key for job in jobs}
    first.look()
    with executor.open(_asked(parts), first) as pool:
        while waiting or running:
            if STOP.is_set():
                pool.stop()
                raise Stopped
            for job in [job for job in waiting if not (job.after & names) - over]:
                if not pool.has_room():
                    break
                pool.submit(job)
                waiting = [other for other in waiting if other is not job]
                running.add(job.key)
            for ended in pool.wait(TICK):
                running.discard(ended.job.key)
                if ended.fatal:
                    pool.stop()
                    raise OutputError(ended.fatal)
                if ended.is_lost:
                    waiting = [*waiting, ended.job]
                    continue
                over.add(ended.job.key)
                session, world, plan = folders[ended.job.part]
                if ended.crash:
                    first.say(f"[{ended.job.number} of {ended.job.total}] failed: {ended.crash}")
                    _show_crash(session, plan, ended)
                if report and (waiting or running):
                    left = [job.unit for job in waiting] + [unit for _, unit in running]
                    pace(partial(write_page, session, world, plan, pictures=False, waiting=left))


def jobs_of(parts: Parts) -> Iterator[Job]:
    """The jobs that are to do, what others are built on first. A unit that two parts share is run
    by the first of them."""
    made: list[Job] = []
    earlier: dict[str, Path] = {}
    for session, world, plan in parts.values():
        built_on = inner_units(plan)
        for unit, (node, _) in plan.nodes.items():
            if not session.is_done(world, [row for row in plan.rows if row.unit == unit], unit):
                after = {(session.out, inner) for inner in built_on[unit]}
                after |= {(earlier[unit], unit)} if unit in earlier else set()
                made.append(Job(session.out, unit, title(node.recipe), after=frozenset(after)))
            earlier.setdefault(unit, session.out)
    for number, job in enumerate(made, 1):
        yield replace(job, number=number, total=len(made))


def inner_units(plan: Plan) -> dict[str, set[str]]:
    """Unit -> the units that it is built on."""
    built_on: dict[str, set[str]] = {unit: set() for unit in plan.units}
    for row in plan.rows:
        for outer in row.nodes:
            inner = list(every_recipe(outer.recipe))[1:]
            built_on[outer.key] |= {
                node.key for node in row.nodes if any(node.recipe is inner_recipe for inner_recipe in inner)
            }
    return {unit: inner - {unit} for unit, inner in built_on.items()}


def _asked(parts: Parts) -> Asked:
    session, world, _ = next(iter(parts.values()))
    continued = {unit for session, _, plan in parts.values() for unit in session.continued | plan.continued}
    return Asked(
        device=session.fabric.device.type,
        precision=str(session.fabric._precision.precision),
        workers=session.workers,
        checkpoint_seconds=session.checkpoint_seconds,
        continued=tuple(sorted(continued)),
        step_bytes=_step_bytes(session, world),
    )


def _step_bytes(session: Session, world: World) -> int:
    from allograft.run.preview import step_memory

    try:
        fixed, each = step_memory(session, world)
        return fixed + session.study.budget.batch_size * each
    except Exception:  # a network that cannot be tried without memory; it is a request, no promise
        return 0


def _show_crash(session: Session, plan: Plan, ended: Ended) -> None:
    """Of a process that was lost there is no record yet; a unit without a row of its own fails
    again in the rows that are built on it."""
    for row in plan.rows:
        if row.unit == ended.job.unit:
            session.keep_failure(row, TrainingError(ended.crash))
