"""The loop that hands out jobs, with a pool that does them at once: what comes first, what comes
again, what ends all, and what workers are told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.tiny import a_row

from allograft.context import Node
from allograft.context.journal import STOP, Stopped
from allograft.errors import OutputError, SpecError
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.recipe import Needs
from allograft.run.executors import jobs as room
from allograft.run.executors.jobs import Asked, Ended, Job, check_executor, execute, inner_units, jobs_of
from allograft.study.plan import Plan


@dataclass
class Session:
    """The part of a session that the loop needs."""

    out: Path
    done: set[str] = field(default_factory=set)
    said: list[str] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)
    looks: list[str] = field(default_factory=list)
    continued: frozenset[str] = frozenset({"earlier"})
    workers: int = 3
    checkpoint_seconds: float = 7.0
    network: Any = None
    fabric: Any = field(
        default_factory=lambda: SimpleNamespace(
            device=SimpleNamespace(type="cuda"), world_size=1, _precision=SimpleNamespace(precision="bf16-mixed")
        )
    )
    study: Any = field(default_factory=lambda: SimpleNamespace(budget=SimpleNamespace(batch_size=4)))

    def is_done(self, world: Any, rows: Any, unit: str) -> bool:
        return unit in self.done

    def look(self) -> None:
        self.looks.append("looked")

    def say(self, line: str) -> None:
        self.said.append(line)

    def keep_failure(self, row: Any, error: Exception) -> None:
        self.failures.append((row.unit, f"{type(error).__name__}: {error}"))


def a_plan(*names: str) -> Plan:
    """Finetune units on one source unit, a row for each of them and for the source."""
    source, tuned = Supervised(), Finetune()
    rows = [a_row(source, "b", 0, 0, "source")]
    for name in names:
        nodes = (Node("source", tuned.first, Needs()), Node(name, tuned, Needs()))
        rows.append(type(rows[0])(tuned, rows[0].question, 0, 0, "", nodes))
    return Plan(tuple(rows), 1, SimpleNamespace())  # type: ignore[arg-type]


@dataclass
class Pool:
    """Does what it is given at once; ``ends`` says how the first tries of a unit end."""

    ends: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    room: int = 2
    given: list[str] = field(default_factory=list)
    open_: list[Job] = field(default_factory=list)
    most: int = 0
    stopped: int = 0
    asked: list[Any] = field(default_factory=list)

    @contextmanager
    def open(self, asked: Asked, session: Any) -> Iterator[Pool]:
        self.asked.append((asked, session))
        yield self

    def has_room(self) -> bool:
        return len(self.open_) < self.room

    def submit(self, job: Job) -> None:
        self.given.append(job.unit)
        self.open_.append(job)
        self.most = max(self.most, len(self.open_))

    def wait(self, seconds: float) -> Sequence[Ended]:
        job = self.open_.pop(0)
        tries = self.ends.get(job.unit, [])
        return [Ended(job, **(tries.pop(0) if tries else {}))]

    def stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Interim pages, each as soon as it is due."""
    written: list[tuple[Any, ...]] = []
    monkeypatch.setattr(room, "Pace", lambda: lambda write: write())
    monkeypatch.setattr(
        room,
        "write_page",
        lambda session, world, plan, *, pictures, waiting: written.append(
            (session.out.name, pictures, sorted(waiting))
        ),
    )
    monkeypatch.setattr("allograft.run.preview.step_memory", lambda session, world: (100, 10))
    return written


def test_what_others_are_built_on_comes_first_and_no_more_at_a_time_than_there_is_room(
    pages: list[Any], tmp_path: Path
) -> None:
    session, pool = Session(tmp_path / "out"), Pool()
    execute(pool, {"": (session, None, a_plan("one", "two", "three"))}, report=True)  # type: ignore[arg-type, dict-item]
    assert pool.given[0] == "source"
    assert sorted(pool.given[1:]) == ["one", "three", "two"]
    assert pool.most == 2
    assert session.looks == ["looked"]
    assert session.failures == []
    assert [waiting for _, _, waiting in pages] == [["one", "three", "two"], ["three", "two"], ["three"]]
    assert {pictures for _, pictures, _ in pages} == {False}


def test_without_a_report_no_page_is_written(pages: list[Any], tmp_path: Path) -> None:
    execute(Pool(), {"": (Session(tmp_path), None, a_plan("one"))}, report=False)  # type: ignore[arg-type, dict-item]
    assert pages == []


def test_a_lost_job_is_done_again_and_a_crash_is_a_failed_run(pages: list[Any], tmp_path: Path) -> None:
    session, pool = (
        Session(tmp_path),
        Pool({"one": [{"is_lost": True}, {"is_lost": True}], "two": [{"crash": "broke"}]}),
    )
    execute(pool, {"": (session, None, a_plan("one", "two"))}, report=False)  # type: ignore[arg-type, dict-item]
    assert [pool.given.count(unit) for unit in ("source", "one", "two")] == [1, 3, 1]
    assert session.failures == [("two", "TrainingError: broke")]
    assert session.said == ["[3 of 3] failed: broke"]


def test_what_is_built_on_a_crashed_unit_is_still_tried(pages: list[Any], tmp_path: Path) -> None:
    session, pool = Session(tmp_path), Pool({"source": [{"crash": "broke"}]})
    execute(pool, {"": (session, None, a_plan("one"))}, report=False)  # type: ignore[arg-type, dict-item]
    assert pool.given == ["source", "one"]
    assert session.failures == [("source", "TrainingError: broke")]


def test_what_every_job_would_meet_ends_all(pages: list[Any], tmp_path: Path) -> None:
    pool = Pool({"source": [{"fatal": "disk full"}]})
    with pytest.raises(OutputError, match=r"^disk full$"):
        execute(pool, {"": (Session(tmp_path), None, a_plan("one"))}, report=False)  # type: ignore[arg-type, dict-item]
    assert (pool.given, pool.stopped) == (["source"], 1)


def test_asked_to_end_the_pool_is_stopped(pages: list[Any], tmp_path: Path) -> None:
    pool = Pool()
    STOP.set()
    try:
        with pytest.raises(Stopped):
            execute(pool, {"": (Session(tmp_path), None, a_plan("one"))}, report=False)  # type: ignore[arg-type, dict-item]
    finally:
        STOP.clear()
    assert (pool.given, pool.stopped) == ([], 1)


def test_where_all_is_done_no_process_is_started(pages: list[Any], tmp_path: Path) -> None:
    session, pool = Session(tmp_path, done={"source", "one"}), Pool()
    execute(pool, {"": (session, None, a_plan("one"))}, report=True)  # type: ignore[arg-type, dict-item]
    assert (pool.asked, session.looks, pages) == ([], [], [])


def test_a_unit_of_two_parts_is_run_by_the_first_and_waited_for_by_the_second(tmp_path: Path) -> None:
    one, two = Session(tmp_path / "one", done={"done"}), Session(tmp_path / "two")
    parts: Any = {"x": (one, None, a_plan("a", "done")), "y": (two, None, a_plan("b"))}
    made = {job.key: job for job in jobs_of(parts)}
    assert [(part.name, unit) for part, unit in made] == [
        ("one", "source"), ("one", "a"), ("two", "source"), ("two", "b"),
    ]  # fmt: skip
    assert made[two.out, "source"].after == {(one.out, "source")}
    assert made[two.out, "b"].after == {(two.out, "source")}
    assert [(job.number, job.total, job.label) for job in made.values()] == [
        (1, 4, "supervised"), (2, 4, "finetune"), (3, 4, "supervised"), (4, 4, "finetune"),
    ]  # fmt: skip
    assert inner_units(a_plan("a")) == {"source": set(), "a": {"source"}}


def test_a_worker_is_told_all_that_its_session_has(pages: list[Any], tmp_path: Path) -> None:
    first, second = Session(tmp_path / "one"), Session(tmp_path / "two", continued=frozenset({"later"}))
    pool = Pool()
    execute(pool, {"x": (first, None, a_plan("a")), "y": (second, None, a_plan("b"))}, report=False)  # type: ignore[arg-type, dict-item]
    ((asked, told),) = pool.asked
    assert told is first
    assert asked == Asked("cuda", "bf16-mixed", 3, 7.0, ("earlier", "later"), 100 + 4 * 10)


@pytest.mark.parametrize(
    ("changes", "shard", "said"),
    [
        ({"network": object()}, (1, 1), "a network of your own"),
        ({"fabric": SimpleNamespace(world_size=2)}, (1, 1), "leave out --devices"),
        ({}, (1, 2), "leave out --shard"),
    ],
)
def test_what_cannot_go_with_an_executor(changes: dict[str, Any], shard: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=said):
        check_executor(Session(tmp_path, **changes), shard)  # type: ignore[arg-type]
    check_executor(Session(tmp_path), (1, 1))  # type: ignore[arg-type]
