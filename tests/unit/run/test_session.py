"""One process's part in a study: which rows it runs and when it comes back to one, and what a
failure leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import a_row

from allograft.errors import LeaseLost, OutputError
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.results.looks import Looking
from allograft.results.record import read_all
from allograft.run import session as room
from allograft.run.session import Session
from allograft.study.plan import Plan
from allograft.study.world import World


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    (folder / "prepared").mkdir()
    return write_cohort(folder)


# ---------------------------------------------------------- which rows
@dataclass
class Ran:
    """What ``run_all`` handed to ``run``."""

    rows: list[tuple[str, str]]
    continued: list[frozenset[str]]


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Ran:
    ran = Ran([], [])

    def run(self: Session, world: Any, row: Any, counted: str) -> bool:
        ran.rows.append((row.unit, counted))
        ran.continued.append(self.continued)
        return True

    monkeypatch.setattr(Session, "run", run)
    monkeypatch.setattr(room.time, "sleep", lambda seconds: None)
    return ran


def a_session(tmp_path: Path, **fabric: Any) -> Session:
    words = {"broadcast": lambda value: value, "world_size": 1, "is_global_zero": True, **fabric}
    return Session(None, tmp_path, None, SimpleNamespace(**words), 0, 1.0, lambda line: None, frozenset({"earlier"}))  # type: ignore[arg-type]


def a_plan(*units: str, inner: str = "") -> Plan:
    rows = [a_row(Supervised(), "b", 0, 0, unit) for unit in units]
    if inner:
        rows = [replace(row, nodes=(replace(row.nodes[0], key=inner), *row.nodes)) for row in rows]
    return Plan(tuple(rows), 1, SimpleNamespace())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shard", "units"), [((1, 1), "abcd"), ((1, 2), "ac"), ((2, 2), "bd"), ((3, 3), "c"), ((1, 3), "ad")]
)
def test_a_shard_is_every_nth_unit_with_all_its_rows(
    shard: tuple[int, int], units: str, handed: Ran, tmp_path: Path
) -> None:
    """A unit that answers two rows counts once."""
    a_session(tmp_path).run_all(None, a_plan("a", "b", "a", "c", "d"), shard, report=False)  # type: ignore[arg-type]
    assert sorted({unit for unit, _ in handed.rows}) == sorted(units)
    count = len(units) + ("a" in units)
    assert [counted for _, counted in handed.rows] == [f"{n} of {count}" for n in range(1, count + 1)]


def test_units_of_other_parts_and_of_the_plan_keep_their_optimizers(
    handed: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = a_plan("a")
    monkeypatch.setattr(Plan, "continued", frozenset({"mine"}))
    a_session(tmp_path).run_all(None, plan, (1, 1), report=False)  # type: ignore[arg-type]
    assert handed.continued == [frozenset({"earlier", "mine"})]


def test_a_row_whose_units_another_process_holds_is_come_back_to(
    handed: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it holds one that the row is built on."""
    asked: list[str] = []

    def held(path: Path) -> bool:
        asked.append(path.parent.name)
        return path.parent.name == "inner" and len(handed.rows) < 2

    monkeypatch.setattr(room, "held_elsewhere", held)
    plan = replace(a_plan("x", inner="inner"), rows=(*a_plan("x", inner="inner").rows, *a_plan("y", "z").rows))
    a_session(tmp_path).run_all(None, plan, (1, 1), report=False)  # type: ignore[arg-type]
    assert [unit for unit, _ in handed.rows] == ["y", "z", "x"]
    assert {"inner", "y"} <= {*asked}


def test_a_row_that_another_process_took_over_is_asked_again_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[str] = []
    said: list[str] = []

    def run(self: Session, world: Any, row: Any, counted: str) -> bool:
        tries.append(row.unit)
        if tries == ["a"]:
            raise LeaseLost("lost")
        return True

    monkeypatch.setattr(Session, "run", run)
    replace(a_session(tmp_path), say=said.append).run_all(None, a_plan("a", "b"), (1, 1), report=False)  # type: ignore[arg-type]
    assert tries == ["a", "b", "a"]
    assert said == [
        "[1 of 2] another process took over this unit while this one was suspended; its result will be used"
    ]
    tries.clear()
    with pytest.raises(LeaseLost):  # the others of its group would wait for it
        a_session(tmp_path, world_size=2).run_all(None, a_plan("a", "b"), (1, 1), report=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(("report", "first", "written"), [(True, True, 1), (False, True, 0), (True, False, 0)])
def test_an_interim_page_is_the_first_processs_and_names_what_waits(
    report: bool, first: bool, written: int, handed: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr(room, "Pace", lambda: lambda write: write())
    monkeypatch.setattr(
        room.closing,
        "write_page",
        lambda session, world, plan, *, pictures, waiting: pages.append((pictures, waiting)),
    )
    a_session(tmp_path, is_global_zero=first).run_all(None, a_plan("a", "b"), (1, 1), report=report)  # type: ignore[arg-type]
    assert pages == [(False, ["b"])] * written


# ---------------------------------------------------------- one row
@pytest.fixture
def studied(manifest: Path, tmp_path: Path) -> tuple[Session, World, Plan]:
    session = session_of(
        manifest,
        tmp_path / "out",
        "supervised",
        recipes=["finetune"],
        budget={"steps": 1, "adapt_steps": 1, "batch_size": 2},
    )
    world = session.prepare()
    return session, world, session.plan(world)


def row_of(plan: Plan, kind: type) -> Any:
    return next(row for row in plan.rows if type(row.recipe) is kind)


def test_a_failure_is_recorded_with_its_traceback_and_goes_when_it_is_mended(
    studied: tuple[Session, World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan = studied
    said: list[str] = []
    session = replace(session, say=said.append)
    row = row_of(plan, Supervised)
    with monkeypatch.context() as patched:
        patched.setattr(Supervised, "run", lambda *_: (_ for _ in ()).throw(ZeroDivisionError("by 0")))
        assert session.run(world, row, "1 of 2")
    (record,) = read_all(session.out).values()
    assert (record.unit, record.status, record.error) == (row.unit, "failed", "ZeroDivisionError: by 0")
    assert "ZeroDivisionError: by 0" in (session.units / row.unit / "error.txt").read_text()
    assert said == ["[1 of 2] supervised -> b, seed 0", "[1 of 2] failed: ZeroDivisionError: by 0"]
    assert not session.is_done(world, [row], row.unit)
    assert session.run(world, row, "1 of 2")
    records = read_all(session.out)
    assert {one.status for one in records.values()} == {"done"}
    assert {(one.site, one.part) for one in records.values()} >= {("b", "test"), ("a", "val"), ("d", "val")}
    assert session.is_done(world, [row], row.unit)
    assert not session.run(world, row, "again")
    # nobody has judged the unit for another row yet
    other = row_of(plan, Finetune)
    assert not session.is_done(world, [other], other.unit)
    assert session.is_done(world, [], row.unit)
    assert not session.is_done(world, [], other.unit)


@pytest.mark.parametrize("error", [OutputError("full"), LeaseLost("lost")])
def test_what_every_unit_would_meet_is_no_failure_of_one(
    error: Exception, studied: tuple[Session, World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan = studied
    row = row_of(plan, Supervised)
    monkeypatch.setattr(Supervised, "run", lambda *_: (_ for _ in ()).throw(error))
    for run in (lambda: session.run(world, row, "1"), lambda: session.run_node(world, row, row.nodes[-1], "1")):
        with pytest.raises(type(error)):
            run()
    assert read_all(session.out) == {}


def test_a_unit_alone_is_run_and_its_failure_only_said(
    studied: tuple[Session, World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan = studied
    said: list[str] = []
    session = replace(session, say=said.append)
    row = row_of(plan, Finetune)
    inner = row.nodes[0]
    with monkeypatch.context() as patched:
        patched.setattr(Supervised, "run", lambda *_: (_ for _ in ()).throw(ZeroDivisionError("by 0")))
        session.run_node(world, row, inner, "1 of 1")
    assert said[-1] == "[1 of 1] failed: ZeroDivisionError: by 0"
    assert not session.store(inner.key).carry_file.exists()
    session.run_node(world, row, inner, "1 of 1")
    assert session.store(inner.key).carry_file.exists()
    assert not session.store(row.unit).carry_file.exists()
    assert read_all(session.out) == {}


def test_a_look_is_kept_before_the_first_score(
    studied: tuple[Session, World, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan = studied
    order: list[str] = []
    monkeypatch.setattr(Looking, "__call__", lambda self: order.append("look"))
    monkeypatch.setattr(
        "allograft.run.judge.Judge.__call__",
        lambda self, stage, ordinal, seed: order.append(f"{stage.name} {ordinal} {seed}"),
    )
    assert session.run(world, row_of(plan, Finetune), "1")
    assert order[0] == "look"
    assert [word.split()[1:] for word in order if word != "look"] == [["0", "0"], ["0", "0"]]  # each unit's own stages


def test_a_folder_that_is_gone_ends_the_study(studied: tuple[Session, World, Plan]) -> None:
    session, world, plan = studied
    (session.out / "study.json").unlink()
    row = row_of(plan, Finetune)
    for run in (
        lambda: session.run(world, row, "1"),
        lambda: session.run_node(world, row, row.nodes[0], "1"),
        lambda: session.finish(world, plan, report=False),
    ):
        with pytest.raises(OutputError, match="is no longer there"):
            run()
