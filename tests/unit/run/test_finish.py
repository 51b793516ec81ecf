"""What a finished session leaves, and what each step of its end is told: devices, records,
templates, pictures and the key of its page."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.context import Store
from allograft.recipe import title
from allograft.results.record import read_all
from allograft.results.select import NOT_YET
from allograft.results.standing import standing_of
from allograft.run import closing
from allograft.run.closing import Result
from allograft.run.session import Session
from allograft.study.plan import Plan
from allograft.study.world import World

Ran = tuple[Session, World, Plan, Result]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    """A study of two seeds that is finished, without a page."""
    folder = tmp_path_factory.mktemp("finish")
    session = session_of(
        write_cohort(folder / "cohort"),
        folder / "out",
        "supervised",
        recipes=["finetune"],
        baselines=False,
        seeds=2,
        budget={"steps": 1, "adapt_steps": 1, "batch_size": 2},
    ).completed()
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    return session, world, plan, session.finish(world, plan, report=False)


def line_of(result: Result, name: str) -> Any:
    return next(line for line in result.lines if line.title == name)


# ---------------------------------------------------------- how far the study is
def test_a_study_is_finished_when_every_unit_is_done_and_every_row_judged_or_failed(ran: Ran) -> None:
    session, world, plan, _ = ran
    records = read_all(session.out)

    def now(kept: Mapping[str, Any], waiting: Any = (), units: Path = session.units) -> Any:
        return standing_of(world.study, plan, kept, units, waiting)

    whole = now(records)
    assert (whole.done, whole.total, bool(whole.verdicts)) == (4, 4, True)
    assert all(line.verdict or line.title == "finetune" for line in whole.lines)
    unit = next(row.unit for row in plan.rows if row.seed == 1 and row.recipe != plan.rows[0].recipe)
    # a unit that is there and was not judged
    judged = {name: record for name, record in records.items() if record.unit != unit}
    missing = now(judged)
    assert (missing.done, missing.verdicts) == (4, {})
    assert any(run.error == NOT_YET for line in missing.lines for run in line.runs)
    # one that waits
    assert now(records, [unit]).verdicts == {}
    # what failed is over, and so is all that it is built on
    row = next(row for row in plan.rows if row.unit == unit)
    failed = {
        "x": replace(
            records[next(iter(records))], unit=unit, seed=1, status="failed", error="broke", cases=(), site="b"
        )
    }
    elsewhere = session.out / "nowhere"
    over = now(failed, units=elsewhere)
    assert over.done == len(row.nodes) == 2
    assert now(failed, [unit], elsewhere).done == 0


def test_what_failed_is_counted_and_what_waits_is_not(ran: Ran) -> None:
    _, _, _, result = ran
    assert result.failed == 0
    (line, *rest) = result.lines
    errors = ["broke", NOT_YET]
    runs = tuple(replace(run, error=error) for run, error in zip(line.runs, errors, strict=True))
    assert replace(result, lines=(replace(line, runs=runs), *rest)).failed == 1
    assert "2 recipes at b; 0 runs failed" in repr(result)
    assert list(result.table["recipe"]) == [row["recipe"] for row in _rows(result.out / "results.csv")]


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---------------------------------------------------------- the page
@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the page is made of, instead of a page."""
    told: dict[str, Any] = {}

    def noted(name: str, answer: Any) -> Any:
        def note(*words: Any, **more: Any) -> Any:
            told.setdefault(name, []).append((words, more))
            return answer

        return note

    monkeypatch.setattr(
        "allograft.report.write_report", lambda path, **more: (path.write_text("page"), told.update(page=more))
    )
    monkeypatch.setattr("allograft.report.write_annotate", noted("annotate", None))
    monkeypatch.setattr("allograft.report.sections.sections_of", noted("sections", {"a section": 1}))
    monkeypatch.setattr("allograft.run.pictures.pictures_of", noted("pictures", {"a picture": 1}))
    monkeypatch.setattr("allograft.run.closing.curves_of", noted("curves", ["a curve"]))
    return told


@pytest.mark.parametrize("pictures", [True, False])
def test_pictures_and_figures_with_images_are_left_out_where_none_are_wanted(
    pictures: bool, ran: Ran, page: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    session, world, plan, _ = ran
    asked: list[bool] = []
    monkeypatch.setattr(Store, "figures", lambda self, *, images=True: asked.append(images) or {})
    session.finish(world, plan, report=True, pictures=pictures)
    assert ("pictures" in page) == pictures
    assert page["page"]["shows"].pictures == ({"a picture": 1} if pictures else {})
    assert asked == [pictures] * 2
    assert page["page"]["shows"].extras == {"a section": 1}
    assert page["page"]["shows"].curves == []  # the study is finished
    assert (page["page"]["study"], page["page"]["plan"]) == (world.study, plan)
    assert page["page"]["standing"].verdicts
    assert len(page["annotate"]) == 1
    ((_, more),) = page["sections"]
    assert more == {"device": session.fabric.device}


def test_a_page_in_the_middle_has_curves_and_no_sections_and_skips_damaged_records(
    ran: Ran, page: dict[str, Any]
) -> None:
    session, world, plan, _ = ran
    broken = session.out / "records" / "damaged.json"
    broken.write_text("{")
    try:
        closing.write_page(session, world, plan, pictures=False, waiting=[plan.rows[-1].unit])
    finally:
        broken.unlink()
    shows, standing = page["page"]["shows"], page["page"]["standing"]
    assert (shows.extras, shows.curves) == ({}, [])
    assert standing.verdicts == {}
    assert "sections" not in page
    assert shows.seconds.keys() == {*plan.units}


def test_a_page_is_kept_where_nothing_that_it_shows_has_changed(ran: Ran, page: dict[str, Any]) -> None:
    session, world, plan, _ = ran

    def written(other: Session = session, other_plan: Plan = plan, **more: Any) -> bool:
        page.clear()
        other.finish(
            world if other is session else replace(world, study=other.study),
            other_plan,
            report=True,
            keeps_page=True,
            **more,
        )
        return "page" in page

    assert written()
    assert not written()
    assert written(pictures=False)
    assert not written(pictures=False)
    renamed = replace(session, study=replace(session.study, selection="source-val"))
    assert written(renamed)
    fewer = replace(plan, rows=tuple(row for row in plan.rows if row.recipe == plan.rows[0].recipe))
    assert written(session, fewer)
    page.clear()
    session.finish(world, plan, report=False)
    assert "page" not in page
    session.finish(world, plan, report=True)  # asked for by itself it is made
    assert "page" in page


def test_a_look_is_kept_where_there_are_test_scores(ran: Ran) -> None:
    session, world, plan, _ = ran
    looked: list[str] = []
    looking: Any = lambda: looked.append("looked")  # noqa: E731
    replace(session, look=looking).finish(world, plan, report=False)
    assert looked == ["looked"]
    empty = session.out.parent / "empty"
    empty.mkdir()
    (empty / "study.json").write_text("{}")
    replace(session, look=looking, out=empty).finish(world, plan, report=False)
    assert looked == ["looked"]
    assert not (empty / "verdict.json").exists()


# ---------------------------------------------------------- what was cleaned
def test_what_the_table_needs_again_is_run_again_and_nothing_else(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    session, world, plan, result = ran
    tried: list[tuple[str, frozenset[str], str]] = []
    monkeypatch.setattr(
        Session, "run", lambda self, world, row, counted: tried.append((row.unit, self.continued, counted))
    )
    monkeypatch.setattr(Plan, "continued", frozenset({"mine"}))
    plan = replace(plan)  # which has not looked yet
    session.restore(world, plan)
    assert tried == []
    run = line_of(result, "finetune").best_run
    other = next(one for one in line_of(result, "finetune").runs if one is not run)
    for each, stage in ((run, "not the one"), (other, other.stage)):
        (session.units / each.row.unit / "cleaned.json").write_text(json.dumps([stage]))
    session.restore(world, plan)
    assert tried == []
    (session.units / run.row.unit / "cleaned.json").write_text(json.dumps([run.stage]))
    forgotten: list[str] = []
    monkeypatch.setattr(Store, "forget", lambda self: forgotten.append(self.folder.name))
    replace(session, continued=frozenset({"earlier"})).restore(world, plan)
    assert tried == [(run.row.unit, frozenset({"earlier", "mine"}), "cleaned before")]
    assert forgotten == [run.row.unit]
    for each in (run, other):
        (session.units / each.row.unit / "cleaned.json").unlink()
    assert title(run.row.recipe) == "finetune"
