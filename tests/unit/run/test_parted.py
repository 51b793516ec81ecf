"""What holds over all parts of a study: its files come and go with those of the parts, and its page
is of what the parts planned."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.results.test_verdict import FREE, TOP, a_study, planted, scored

from allograft.results.csv_files import write_metrics, write_results
from allograft.results.evidence import marked, verdicts_of
from allograft.results.record import Record
from allograft.results.standing import Standing
from allograft.run import parted
from allograft.run.closing import Result
from allograft.run.parted import MISSING, PartsResult, join, missing_parts, part_sessions
from allograft.run.session import Session
from allograft.study.parts import part_folder

NAMES = ("from a", "from b")


def a_part(out: Path, name: str, *, finished: bool = True) -> Result:
    """What a part leaves, whose source is the last letter of its name."""
    study = a_study(source=[f"{name[-1]}home"])
    plan, table = planted(study, scored({TOP: 0.2, FREE: 0.1}))
    folder = part_folder(out, name)
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = verdicts_of(study, plan, table) if finished else {}
    lines = tuple(marked(table, verdicts))
    write_results(folder, plan, lines)
    write_metrics(folder, plan, lines)
    return Result(folder, study, plan, lines, {}, Standing(lines, verdicts, 4, 4))


@pytest.fixture
def whole(tmp_path: Path) -> PartsResult:
    study = a_study(source=["a", "c"])
    return PartsResult(tmp_path, study, {name: a_part(tmp_path, name) for name in NAMES}, {"lost": "no weights"})


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_tables_and_verdicts_of_all_parts_are_one(whole: PartsResult) -> None:
    join(whole.out, whole, 2, report=False)
    for name in ("results.csv", "metrics.csv"):
        rows = read(whole.out / name)
        assert {(row["part"], row["source"]) for row in rows} == {("from a", "ahome"), ("from b", "bhome")}
        assert len(rows) == sum(len(read(part.out / name)) for part in whole.parts.values())
    verdicts = json.loads((whole.out / "verdict.json").read_text())
    assert {part: {site: one["row"] for site, one in of.items()} for part, of in verdicts.items()} == {
        "from a": {"b": TOP},
        "from b": {"b": TOP},
    }
    assert list(whole.table["part"].unique()) == [*NAMES]
    assert len(whole.table) == len(read(whole.out / "results.csv"))
    assert not (whole.out / "report.html").exists()


def test_a_file_that_no_part_has_any_more_goes(whole: PartsResult) -> None:
    (whole.out / "correction.csv").write_text("of an earlier run")
    for part in whole.parts.values():
        (part.out / "metrics.csv").unlink()
    (whole.out / "metrics.csv").write_text("of an earlier run")
    join(whole.out, whole, 2, report=False)
    assert not (whole.out / "correction.csv").exists()
    assert not (whole.out / "metrics.csv").exists()
    part = whole.parts["from b"].out
    (part / "correction.csv").write_text("recipe\nx\n")
    join(whole.out, whole, 2, report=False)
    assert read(whole.out / "correction.csv") == [{"part": "from b", "source": "bhome", "recipe": "x"}]


@pytest.mark.parametrize("how", ["a part is missing", "a part is not finished"])
def test_there_is_no_verdict_before_every_part_has_one(how: str, whole: PartsResult) -> None:
    join(whole.out, whole, 2, report=False)
    assert (whole.out / "verdict.json").exists()
    if how == "a part is missing":
        join(whole.out, replace(whole, parts={"from a": whole.parts["from a"]}), 2, report=False)
    else:
        parts = {**whole.parts, "from b": a_part(whole.out, "from b", finished=False)}
        join(whole.out, replace(whole, parts=parts), 2, report=False)
    assert not (whole.out / "verdict.json").exists()


def test_failures_of_all_parts_are_counted_and_every_page_is_found_from_the_folder(whole: PartsResult) -> None:
    part = whole.parts["from b"]
    line = part.lines[0]
    broken = replace(line, runs=tuple(replace(run, error="broke") for run in line.runs))
    parts = {"from a": replace(whole.parts["from a"], lines=(broken,)), "from b": replace(part, lines=(broken, broken))}
    assert (whole.failed, replace(whole, parts=parts).failed) == (0, 6)
    assert repr(whole).endswith("from a, from b; 0 runs failed)")
    assert [(one.name, one.link) for one in whole.named_parts] == [
        (name, f"{part_folder(whole.out, name).relative_to(whole.out).as_posix()}/report.html") for name in NAMES
    ]
    assert [one.standing for one in whole.named_parts] == [part.standing for part in whole.parts.values()]


def test_the_page_is_of_the_records_that_the_parts_planned(whole: PartsResult, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    planned = next(iter(whole.parts["from b"].plan.units))
    records = {
        name: Record(unit, {"name": name}, 0, "end", 0, "b", "test")
        for name, unit in (("ours", planned), ("other", "gone"))
    }
    monkeypatch.setattr(parted, "read_all", lambda out: records if out.name == "from-b" else {})
    monkeypatch.setattr(parted, "severity_sheet", lambda every, metric: told.update(records=every, metric=metric))
    monkeypatch.setattr(parted, "protocol_sentence", lambda out: "frozen")
    monkeypatch.setattr(parted, "write_overview", lambda *words, **more: told.update(words=words, more=more))
    join(whole.out, whole, 3, report=True)
    assert [record.recipe["name"] for record in told["records"]] == ["ours"]
    assert told["metric"] == "dice"
    page, study, shown, parts, severity = told["words"]
    assert (page, study, parts, severity) == (whole.out / "report.html", whole.study, 3, None)
    assert [one.name for one in shown] == [*NAMES]
    assert told["more"] == {"missing": {"lost": "no weights"}, "frozen": "frozen"}


def test_what_was_not_run_is_kept_with_why(tmp_path: Path) -> None:
    assert missing_parts(tmp_path) == {}
    (tmp_path / MISSING).write_text('{"lost": "no weights"}')
    assert missing_parts(tmp_path) == {"lost": "no weights"}


def test_every_part_has_a_session_of_its_own_folder(tmp_path: Path) -> None:
    study = a_study(source=["a", "b", "c"], target=[], pairs="all")
    whole = Session(study, tmp_path, None, SimpleNamespace(), 4, 7.0, print)  # type: ignore[arg-type]
    sessions = part_sessions(whole)
    assert {name: (one.study.source, one.out) for name, one in sessions.items()} == {
        f"from {site}": ((site,), part_folder(tmp_path, f"from {site}")) for site in "abc"
    }
    assert {(one.workers, one.checkpoint_seconds, one.units) for one in sessions.values()} == {
        (4, 7.0, tmp_path / "units")
    }
    alone = replace(whole, study=a_study())
    assert part_sessions(alone)[""].out == tmp_path
