"""Units of a study on several processes of this machine."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import IO

from allograft.errors import SpecError
from allograft.run.executors.jobs import Asked, Ended, Job
from allograft.run.session import Session

STOPPED = 143
"""Exit code of a process that was asked to end and has kept its place."""
GRACE = 120.0
"""Seconds that a process has to keep its place when it is asked to end."""


@dataclass(frozen=True)
class LocalExecutor:
    """Processes of this machine, each with its share of the cores and, where there are several, its
    GPU.

    Args:
        jobs: how many at a time; None for one per GPU, or without a GPU one per two cores.
    """

    jobs: int | None = None

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise SpecError(f"--jobs: found {self.jobs}, expected 1 or more")

    @contextmanager
    def open(self, asked: Asked, session: Session) -> Iterator[LocalPool]:
        """Processes are started when they are needed, and end with the pool."""
        gpus = _gpus() if asked.device == "cuda" else ()
        jobs = self.jobs or len(gpus) or max(1, cores() // 2)
        environments = [environment(jobs, number, gpus) for number in range(jobs)]
        threads = environments[0]["OMP_NUM_THREADS"]
        session.say(f"{jobs} processes at a time, {threads} threads each")
        pool = LocalPool(asked, session.say, environments)
        try:
            yield pool
        except BaseException:
            pool.stop()
            raise
        finally:
            pool.close()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def environment(jobs: int, number: int, gpus: Sequence[str]) -> dict[str, str]:
    """Of one of so many processes: no more threads than its share of the cores, and than the user
    allows; one of the GPUs in turn.

    >>> made = environment(10**6, 3, ["0", "1"])
    >>> made["OMP_NUM_THREADS"], made["CUDA_VISIBLE_DEVICES"]
    ('1', '1')
    """
    share = max(1, cores() // jobs)
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    threads = str(min(share, int(allowed)) if allowed.isdigit() and int(allowed) else share)
    made = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    return {**made, "CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else made


def _gpus() -> tuple[str, ...]:
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    return tuple(every)


@dataclass
class LocalPool:
    """The processes, by number.

    Args:
        environments: of each of them.
    """

    asked: Asked
    say: Callable[[str], None]
    environments: Sequence[Mapping[str, str]]
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    busy: dict[int, Job] = field(default_factory=dict)
    told: queue.Queue[tuple[int, subprocess.Popen[str], str | None]] = field(default_factory=queue.Queue)
    readers: list[threading.Thread] = field(default_factory=list)
    speaking: threading.Lock = field(default_factory=threading.Lock)

    def has_room(self) -> bool:
        """Whether a process has no job."""
        return len(self.busy) < len(self.environments)

    def submit(self, job: Job) -> None:
        """Hand the job to a process that has none; one is started where there is none yet."""
        idle = [number for number in range(len(self.environments)) if number not in self.busy]
        alive = [number for number in idle if number in self.processes and self.processes[number].poll() is None]
        number = (alive or idle)[0]
        self.busy[number] = job
        if not alive:
            self._start(number)
        with suppress(BrokenPipeError):  # it is gone; its end is told by the reader
            _write(self.processes[number].stdin, _job_line(job))

    def wait(self, seconds: float) -> Sequence[Ended]:
        """What the next process tells."""
        try:
            number, process, line = self.told.get(timeout=seconds)
        except queue.Empty:
            return ()
        if self.processes.get(number) is not process:  # the end of one that was replaced
            return ()
        if line is not None:
            return (Ended(self.busy.pop(number), **json.loads(line)),)
        code = self.processes.pop(number).wait()
        if number not in self.busy:
            return ()
        job = self.busy.pop(number)
        return (Ended(job, is_lost=True) if code == STOPPED else Ended(job, crash=_reason(code)),)

    def stop(self) -> None:
        """SIGTERM to all, upon which they write a checkpoint; a second Ctrl-C, or too long a wait,
        kills them."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        until = time.monotonic() + GRACE
        try:
            for process in self.processes.values():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:
            for process in self.processes.values():
                if process.poll() is None:
                    process.kill()

    def close(self) -> None:
        """Let the processes, which have no job, end."""
        for process in self.processes.values():
            with suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        for process in self.processes.values():
            process.wait()
        for reader in self.readers:
            reader.join()

    def _start(self, number: int) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "allograft.run.executors.process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=self.environments[number],
            start_new_session=True,  # Ctrl-C goes to the first process alone, which passes it on
        )
        self.processes[number] = process
        with suppress(BrokenPipeError):
            _write(process.stdin, json.dumps(asdict(self.asked)))
        lines = threading.Thread(target=self._show, args=(number, process.stderr), daemon=True)
        answers = threading.Thread(target=self._answers, args=(number, process, lines), daemon=True)
        for reader in (lines, answers):
            reader.start()
            self.readers.append(reader)

    def _show(self, number: int, lines: IO[str] | None) -> None:
        for line in lines or ():
            with self.speaking:
                self.say(f"job {number + 1}: {line.rstrip()}")

    def _answers(self, number: int, process: subprocess.Popen[str], lines: threading.Thread) -> None:
        for line in process.stdout or ():
            self.told.put((number, process, line))
        lines.join()  # what it said last comes before its end
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        self.told.put((number, process, None))


def _job_line(job: Job) -> str:
    """A job as the process reads it; what comes before it is no matter of the process."""
    fields = {"part": str(job.part), "unit": job.unit, "label": job.label, "number": job.number, "total": job.total}
    return json.dumps(fields)


def _write(stream: IO[str] | None, line: str) -> None:
    assert stream is not None
    stream.write(line + "\n")
    stream.flush()


def _reason(code: int) -> str:
    """Why a process was lost."""
    if code == -signal.SIGKILL:
        return (
            "its process was killed (signal 9), probably because memory ran out; choose fewer --jobs, a smaller "
            "budget.batch_size or a smaller patch"
        )
    what = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return f"its process ended {what}; the lines before this one may say why"
