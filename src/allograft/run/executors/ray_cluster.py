"""Units of a study on a Ray cluster: a task each, wherever its cores, GPU and memory are free."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from allograft.errors import SpecError, require_extra
from allograft.run.executors.jobs import Asked, Ended, Job
from allograft.run.executors.worker import Worker
from allograft.run.session import Session

PROCESS_BYTES = 2**30
"""Memory of a process before its first training step."""
REACH = 10.0
"""Seconds that a cluster has to answer."""
RETRIES = 3
"""How often a unit begins again elsewhere when its machine is lost."""


@dataclass(frozen=True)
class RayExecutor:
    """A Ray cluster that runs already. Every machine sees the study's folder and its images under
    the same paths.

    Args:
        address: of the cluster; ``auto`` for the one that this machine belongs to.
        device: ``auto`` for a GPU per unit where the cluster has any, ``cpu`` or ``cuda``.
    """

    address: str = "auto"
    device: str = "auto"

    @contextmanager
    def open(self, asked: Asked, session: Session) -> Iterator[RayPool]:
        """Connect to the cluster, and leave it in the end.

        Raises:
            MissingExtraError: Ray is not installed.
            SpecError: no cluster at the address, or no machine in it that a unit fits on.
        """
        require_extra("ray", "cluster")
        import ray

        try:
            _reach(self.address)
            ray.init(address=self.address, log_to_driver=True, logging_level=logging.WARNING)
        except (OSError, ValueError, RuntimeError) as error:
            raise SpecError(
                f"--address {self.address}: no Ray cluster can be reached ({str(error).splitlines()[0]}); start one "
                "with 'ray start --head', or choose --executor local"
            ) from error
        try:
            machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            asked = replace(asked, device=_device(self.device, machines))
            wanted = _request(asked)
            _check_machines(wanted, machines)
            session.say(f"Ray cluster of {len(machines)} machines; each unit asks for {_in_words(wanted)}")
            pool = RayPool(asked, wanted)
            try:
                yield pool
            except BaseException:
                pool.stop()
                raise
        finally:
            ray.shutdown()


@dataclass
class RayPool:
    """Tasks that run or wait for a machine.

    Args:
        wanted: the resources of each task, as Ray names them.
    """

    asked: Asked
    wanted: dict[str, float]
    tasks: dict[Any, Job] = field(default_factory=dict)

    def has_room(self) -> bool:
        """Ray keeps the queue."""
        return True

    def submit(self, job: Job) -> None:
        """Hand in a task; one whose machine is lost begins again on another."""
        import ray

        wanted = {"num_cpus": self.wanted["CPU"], "num_gpus": self.wanted["GPU"], "memory": self.wanted["memory"]}
        task = ray.remote(run_job).options(**wanted, max_retries=RETRIES, name=f"{job.label} {job.unit[:8]}")
        self.tasks[task.remote(self.asked, replace(job, after=frozenset()))] = job

    def wait(self, seconds: float) -> Sequence[Ended]:
        """Tasks that have ended."""
        import ray

        ready, _ = ray.wait(list(self.tasks), num_returns=1, timeout=seconds)
        return [self._ended(task, self.tasks.pop(task)) for task in ready]

    def stop(self) -> None:
        """Interrupt every task. A unit goes on from its newest checkpoint."""
        import ray

        for task in self.tasks:
            with suppress(Exception):  # the cluster may be gone
                ray.cancel(task, recursive=False)

    def _ended(self, task: Any, job: Job) -> Ended:
        import ray

        try:
            made: Ended = ray.get(task)
        except ray.exceptions.RayTaskError as error:  # of our code or its environment, not of a run
            return Ended(job, fatal=f"{job.label}: {str(error).strip().splitlines()[-1]}")
        except ray.exceptions.RayError as error:
            what = str(error).strip().splitlines()[0]
            return Ended(job, crash=f"its process was lost {RETRIES + 1} times or had no memory left ({what})")
        return replace(made, job=job)


def run_job(asked: Asked, job: Job) -> Ended:
    """What a task does, on whichever machine."""
    import torch

    torch.set_num_threads(threads())
    if asked not in _WORKERS:
        _WORKERS[asked] = Worker(asked, _say)
    return _WORKERS[asked](job)


_WORKERS: dict[Asked, Worker] = {}
"""Of this process, which Ray uses for one task after another."""


def _reach(address: str) -> None:
    """Raise ``OSError`` where nothing listens at HOST:PORT: Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH).close()


def threads() -> int:
    """Threads of a unit: as ``OMP_NUM_THREADS`` says where the study was started, else one."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(allowed)) if allowed.isdigit() else 1


def _device(named: str, machines: Sequence[dict[str, float]]) -> str:
    if named == "auto":
        return "cuda" if any(machine.get("GPU", 0) >= 1 for machine in machines) else "cpu"
    return named.partition(":")[0]


def _request(asked: Asked) -> dict[str, float]:
    """What a unit asks of a machine: a core per thread and loader process, a GPU, and the memory of
    a process with a training step in it (which a GPU has in its own)."""
    memory = PROCESS_BYTES + (asked.step_bytes if asked.device == "cpu" else 0)
    return {"CPU": threads() + asked.workers, "GPU": float(asked.device == "cuda"), "memory": memory}


def _check_machines(wanted: dict[str, float], machines: Sequence[dict[str, float]]) -> None:
    """Raise ``SpecError`` where no machine has it, and the study would wait for ever."""
    if any(all(machine.get(name, 0) >= amount for name, amount in wanted.items()) for machine in machines):
        return
    largest = {name: max((machine.get(name, 0) for machine in machines), default=0) for name in wanted}
    raise SpecError(
        f"--executor ray: a unit asks for {_in_words(wanted)}, and the largest machine of the cluster has "
        f"{_in_words(largest)}; choose fewer --workers, a smaller budget.batch_size or patch, or add a machine"
    )


def _in_words(resources: dict[str, float]) -> str:
    """
    >>> _in_words({"CPU": 2, "GPU": 4, "memory": 1.5 * 2**30}), _in_words({"CPU": 2, "GPU": 0, "memory": 0})
    ('2 cores, 4 GPU, 1.5 GiB', '2 cores, 0.0 GiB')
    """
    gpu = f", {resources['GPU']:.0f} GPU" if resources["GPU"] else ""
    return f"{resources['CPU']:.0f} cores{gpu}, {resources['memory'] / 2**30:.1f} GiB"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
