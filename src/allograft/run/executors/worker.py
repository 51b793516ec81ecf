"""A worker: does jobs of a study in its folder, one after another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

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
            counted = f"{job.number} of {job.total}"
            for row in rows:
                session.run(world, row, counted)
            if not rows:
                node, row = plan.nodes[job.unit]
                session.run_node(world, row, node, counted)
        except LeaseLost:
            return Ended(job, is_lost=True)
        except (AllograftError, OSError) as error:  # of folder or images; a run's own has a record
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
