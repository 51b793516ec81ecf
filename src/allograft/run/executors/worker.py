"""A worker: does jobs of a study in its folder, one after another. Also the process of the local
executor, ``python -m allograft.run.executors.worker``."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from allograft.context.journal import STOP, Stopped
from allograft.errors import AllograftError, LeaseLost
from allograft.run.executors.jobs import Asked, Ended, Job
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.plan import Plan
from allograft.study.reading import kept_study
from allograft.study.world import World

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass
class Worker:
    """Does jobs; what it has read of a part it keeps.

    Args:
        say: called with progress lines.
    """

    asked: Asked
    say: Callable[[str], None]
    fabric: Fabric = field(init=False)
    parts: dict[Path, tuple[Session, World, Plan]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.fabric = local_fabric(1, self.asked.precision, "auto", self.asked.device)

    def __call__(self, job: Job) -> Ended:
        """Run and evaluate the rows that a unit answers, or run the unit alone where it answers
        none. A run that fails has left its record."""
        try:
            session, world, plan = self.part(job.part)
            if job.unit not in plan.nodes:
                return Ended(
                    job,
                    fatal=f"{job.part}: its study has no unit {job.unit} on this machine; use one version of Allograft "
                    "and PyTorch everywhere, and one folder that all machines see",
                )
            rows = [row for row in plan.rows if row.unit == job.unit]
            place = f"{job.number} of {job.total}"
            for row in rows:
                session.run(world, row, place)
            if not rows:
                node, row = plan.nodes[job.unit]
                session.run_node(world, row, node, place)
        except LeaseLost:
            return Ended(job, is_lost=True)
        except (AllograftError, OSError) as error:  # not of the run, which has a record: the folder, or the images
            return Ended(job, fatal=str(error))
        return Ended(job)

    def part(self, folder: Path) -> tuple[Session, World, Plan]:
        """A part of the study as the first process has prepared it."""
        if folder not in self.parts:
            asked = self.asked
            session = Session(
                kept_study(folder),
                folder,
                None,
                self.fabric,
                asked.workers,
                asked.checkpoint_seconds,
                self.say,
                frozenset(asked.continued),
            )
            world = World.read(session.study, folder)
            plan = replace(session, say=lambda line: None).plan(world)
            self.parts[folder] = session, world, plan
        return self.parts[folder]


def to_json(ended: Ended) -> str:
    """The line that answers a job."""
    return json.dumps({"crash": ended.crash, "is_lost": ended.is_lost, "fatal": ended.fatal})


def job_to_json(job: Job) -> str:
    """A line for a worker; what comes before it is no matter of the worker."""
    told = {"part": str(job.part), "unit": job.unit, "label": job.label, "number": job.number, "total": job.total}
    return json.dumps(told)


def asked_to_json(asked: Asked) -> str:
    """The first line for a worker."""
    return json.dumps(asdict(asked))


def main() -> None:
    """Read what is asked, then a job per line; write a line for each that has ended. Where the
    other end goes away, keep the place and end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed is for people
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process passes it on as SIGTERM
    kept = json.loads(sys.stdin.readline())
    worker = Worker(Asked(**{**kept, "continued": tuple(kept["continued"])}), _say)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(lines,), daemon=True).start()
    while not STOP.is_set():
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        told = json.loads(line)
        try:
            ended = worker(Job(**{**told, "part": Path(told["part"])}))
        except Stopped:
            break
        print(to_json(ended), file=answers, flush=True)


def _listen(lines: queue.Queue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    STOP.set()  # the first process is gone, or has no more to do


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
