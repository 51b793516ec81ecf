"""What does jobs: a worker of a study's folder, and the processes of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.run.test_jobs import Session, a_plan

from allograft.errors import LeaseLost, OutputError
from allograft.run.executors import worker as workers
from allograft.run.executors.jobs import Asked, Ended, Job
from allograft.run.executors.local import LocalExecutor, LocalPool, _job_line, _reason
from allograft.run.executors.process import _answer
from allograft.run.executors.worker import Worker
from allograft.study.plan import Plan


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    asked: list[Any] = []
    monkeypatch.setattr(workers, "local_fabric", lambda *words: (asked.append(words), "a fabric")[1])
    made = Worker(Asked("cuda", "bf16-mixed", 3, 7.0, ("x",)), print)
    assert asked == [(1, "bf16-mixed", "auto", "cuda")]
    return made


class Running:
    """Notes what it is asked to run."""

    def __init__(self, error: Exception | None = None) -> None:
        self.ran: list[Any] = []
        self.error = error

    def run(self, world: Any, row: Any, counted: str) -> None:
        self.ran.append((row.unit, counted))
        if self.error:
            raise self.error

    def run_node(self, world: Any, row: Any, node: Any, counted: str) -> None:
        self.ran.append((f"node {node.key}", counted))


def test_a_worker_runs_every_row_of_a_unit_or_the_unit_alone(worker: Worker, tmp_path: Path) -> None:
    plan = a_plan("one")
    twice = Plan((*plan.rows[1:], *plan.rows[1:]), 1, plan.task)
    running = Running()
    worker.parts[tmp_path] = (running, None, twice)  # type: ignore[assignment]
    for unit in ("one", "source"):
        assert worker(Job(tmp_path, unit, "x", 2, 5)) == Ended(Job(tmp_path, unit, "x"))
    assert running.ran == [("one", "2 of 5"), ("one", "2 of 5"), ("node source", "2 of 5")]
    ended = worker(Job(tmp_path, "another", "x"))
    assert "its study has no unit another on this machine; use one version of Allograft" in ended.fatal


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (LeaseLost("lost"), {"is_lost": True}),
        (OutputError("full"), {"fatal": "full"}),
        (OSError("gone"), {"fatal": "gone"}),
    ],
)
def test_how_a_job_ends_where_it_cannot_go_on(
    error: Exception, ended: dict[str, Any], worker: Worker, tmp_path: Path
) -> None:
    worker.parts[tmp_path] = (Running(error), None, a_plan("one"))  # type: ignore[assignment]
    found = worker(Job(tmp_path, "one", "x"))
    assert found.is_lost == ended.get("is_lost", False)
    assert ended.get("fatal", "") in found.fatal
    assert json.loads(_answer(found)) == {"crash": "", "is_lost": found.is_lost, "fatal": found.fatal}


def test_a_worker_reads_a_part_once_with_all_that_it_was_told(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []
    monkeypatch.setattr(workers, "kept_study", lambda folder: f"the study of {folder.name}")
    monkeypatch.setattr(workers.World, "read", staticmethod(lambda study, out: (study, out)))
    monkeypatch.setattr(workers.Session, "plan", lambda self, world: read.append((self, world)) or "a plan")
    session, world, plan = worker.part(tmp_path)
    assert worker.part(tmp_path)[0] is session
    assert len(read) == 1
    assert (session.study, session.out, session.network, session.fabric) == (
        f"the study of {tmp_path.name}", tmp_path, None, "a fabric",
    )  # fmt: skip
    assert (session.workers, session.checkpoint_seconds, session.continued) == (3, 7.0, frozenset({"x"}))
    assert (session.say, world, plan) == (print, (session.study, tmp_path), "a plan")


# ---------------------------------------------------------- processes of this machine
def test_as_many_processes_as_are_asked_for_or_as_gpus_or_pairs_of_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("allograft.run.executors.local.cores", lambda: 8)
    monkeypatch.setattr("allograft.run.executors.local._gpus", lambda: ("4", "6", "7"))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = []
    for jobs, device in ((5, "cpu"), (None, "cpu"), (None, "cuda"), (2, "cuda")):
        session = Session(tmp_path)
        with LocalExecutor(jobs).open(Asked(device, "32-true", 0, 1.0, ()), session) as pool:  # type: ignore[arg-type]
            gpus = [each.get("CUDA_VISIBLE_DEVICES") for each in pool.environments]
            found.append((len(pool.environments), gpus if device == "cuda" else None, session.said))
    assert found == [
        (5, None, ["5 processes at a time, 1 threads each"]),
        (4, None, ["4 processes at a time, 2 threads each"]),
        (3, ["4", "6", "7"], ["3 processes at a time, 2 threads each"]),
        (2, ["4", "6"], ["2 processes at a time, 4 threads each"]),
    ]


class Process:
    """A process that has ended with a code, or lives."""

    def __init__(self, code: int | None = None) -> None:
        self.code, self.stdin = code, None

    def poll(self) -> int | None:
        return self.code

    def wait(self) -> int:
        assert self.code is not None
        return self.code


@pytest.mark.parametrize(
    ("code", "ended"), [(143, {"is_lost": True}), (-9, {"crash": "killed (signal 9)"}), (1, {"crash": "exit code 1"})]
)
def test_the_end_of_a_process_is_the_end_of_its_job(code: int, ended: dict[str, Any], tmp_path: Path) -> None:
    pool, job = LocalPool(Asked("cpu", "32-true", 0, 1.0, ()), print, [{}]), Job(tmp_path, "one", "x")
    process: Any = Process(code)
    pool.processes[0], pool.busy[0] = process, job
    pool.told.put((0, Process(code), None))  # type: ignore[arg-type] - one that was replaced
    assert pool.wait(0.01) == ()
    pool.told.put((0, process, None))
    (found,) = pool.wait(0.01)
    assert (found.job, found.is_lost) == (job, ended.get("is_lost", False))
    assert ended.get("crash", "") in found.crash
    assert bool(found.crash) == ("crash" in ended)
    assert (pool.busy, pool.processes) == ({}, {})
    assert pool.wait(0.01) == ()


def test_an_answer_ends_the_job_and_leaves_the_process(tmp_path: Path) -> None:
    pool, job = LocalPool(Asked("cpu", "32-true", 0, 1.0, ()), print, [{}]), Job(tmp_path, "one", "x")
    process: Any = Process()
    pool.processes[0], pool.busy[0] = process, job
    pool.told.put((0, process, _answer(Ended(job, fatal="full"))))
    assert list(pool.wait(0.01)) == [Ended(job, fatal="full")]
    assert pool.processes == {0: process}
    assert pool.has_room()


def test_a_job_as_a_process_reads_it_is_the_job(tmp_path: Path) -> None:
    job = Job(tmp_path, "one", "label", 3, 9, frozenset({(tmp_path, "source")}))
    fields = json.loads(_job_line(job))
    again = Job(**{**fields, "part": Path(fields["part"])})
    assert (again.key, again.label, again.number, again.total) == (job.key, "label", 3, 9)
    assert _reason(-15) == "its process ended by signal 15; the lines before this one may say why"
