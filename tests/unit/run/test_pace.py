"""Reports are counted: few while a study runs, none where nothing has changed since the last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.run import closing
from allograft.run import session as room
from allograft.run.pace import Pace
from allograft.run.session import Session
from allograft.studies import rebuild, run_study


class Clock:
    """Stands still but where a test, or a report, lets time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.fixture
def reports_of(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
    """When reports were begun in a study of so many rows, from how long a row and a report take."""
    session = session_of(manifest, tmp_path, "supervised")

    def reports(rows: int, row_seconds: float, report_seconds: float, *, ran: bool = True) -> list[float]:
        clock, begun = Clock(), []
        monkeypatch.setattr(room, "Pace", lambda: Pace(clock=clock))

        def run(*_: Any) -> bool:
            clock.now += row_seconds
            return ran

        def report(*_: Any, **__: Any) -> None:
            begun.append(clock.now)
            clock.now += report_seconds

        monkeypatch.setattr(Session, "run", run)
        monkeypatch.setattr(closing, "write_page", report)
        plan: Any = SimpleNamespace(
            continued=frozenset(), rows=tuple(SimpleNamespace(unit=f"u{n}", nodes=()) for n in range(rows))
        )
        world: Any = None
        session.run_all(world, plan, (1, 1), report=True)
        return begun

    return reports


def without_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without what takes longest to draw."""
    monkeypatch.setattr("allograft.report.sections.sections_of", lambda *_, **__: {})
    monkeypatch.setattr("allograft.run.pictures.pictures_of", lambda *_, **__: {})


def test_short_rows_have_a_report_every_thirty_seconds(reports_of: Callable[..., list[float]]) -> None:
    assert reports_of(100, 1.0, 0.25) == [30.0, 60.25, 90.5]


def test_long_rows_have_one_each_and_the_last_is_left_to_the_end(reports_of: Callable[..., list[float]]) -> None:
    assert reports_of(4, 600.0, 2.0) == [600.0, 1202.0, 1804.0]


def test_reports_take_a_twentieth_of_the_time(reports_of: Callable[..., list[float]]) -> None:
    begun = reports_of(1000, 1.0, 10.0)
    assert begun == [30.0, 230.0, 430.0, 630.0, 830.0, 1030.0]  # 10 s of every 200
    assert len(begun) * 10.0 <= 0.05 * (1000 + 10.0 * len(begun)) + 10.0


def test_rows_that_were_finished_before_have_none(reports_of: Callable[..., list[float]]) -> None:
    assert reports_of(1000, 1.0, 1.0, ran=False) == []


def test_a_page_is_written_again_only_where_something_has_changed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = session_of(manifest, tmp_path / "x", "supervised").study.spelt_out(), tmp_path / "out"
    written: list[Path] = []
    real = closing.write_page
    without_sections(monkeypatch)
    monkeypatch.setattr(closing, "write_page", lambda self, *a, **k: (written.append(self.out), real(self, *a, **k))[1])

    def again() -> int:
        before = len(written)
        run_study(study, out)
        return len(written) - before

    assert [again(), again()] == [1, 0]
    page = (out / "report.html").read_bytes()
    for change in ("page", "record", "forgotten"):
        if change == "page":
            (out / "report.html").write_bytes(page[:-9])
        elif change == "record":
            record = next((out / "records").glob("*-val.json"))
            record.write_text(json.dumps({**json.loads(record.read_text()), "checksum": None}))
        else:
            (out / "report.html").unlink()
        assert [again(), again()] == [1, 0], change
        assert (out / "report.html").read_bytes() == page
    study["selection"] = "oracle"
    assert [again(), again()] == [1, 0]
    assert (out / "report.html").read_bytes() != page
    rebuild(out)  # is asked for a page, and makes it
    assert len(written) == 6


def test_a_report_that_does_not_come_to_its_end_is_written_again(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_sections(monkeypatch)
    study, out = session_of(manifest, tmp_path / "x", "supervised").study.spelt_out(), tmp_path / "out"
    run_study(study, out)
    page = (out / "report.html").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("allograft.report.write_report", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
        (out / "report.html").write_text("")
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out)
    (out / "report.html").write_text("half a page")
    run_study(study, out)
    assert (out / "report.html").read_bytes() == page


def test_a_finished_unit_is_passed_over_without_building_its_network(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(manifest, tmp_path / "out", "supervised")
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    monkeypatch.setattr("allograft.context.store.rebuilt", lambda *a: pytest.fail("a network was built"))
    monkeypatch.setattr("allograft.context.store.remade", lambda *a: pytest.fail("a part was built"))
    assert [session.run(world, row, "1 of 1") for row in plan.rows] == [False] * len(plan.rows)
