"""The table of models and sites: whose cases each cell is of, what its row says, and which records it takes."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from allograft.apply import site_table
from allograft.apply.site_table import COLUMNS, Entry, Held, SiteTable, interval, merge, printed, write_sites
from allograft.apply.travelling import SiteRecord
from allograft.errors import OutputError
from allograft.results.intervals import score_limits, t_limits
from allograft.tasks.segmentation import Segmentation

TASK = Segmentation(("blob",))
FIRST = Held("u1", "tuned", ("a-model", "b-model"), ("x", "y"), "sum1")
SECOND = Held("u2", "trained", ("c-model",), (), "sum2")


def case(name: str, subject: str, dice: float | None, hd95: float | None = 1.0) -> dict[str, Any]:
    return {"case": name, "subject": subject, "dice": dice, "hd95": hd95}


CASES = [case("1", "p", 0.5), case("2", "p", 0.7), case("3", "q", 0.9), case("4", "r", 0.8, None)]


def rows_of(out: Path) -> list[dict[str, str]]:
    with open(out / "sites.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_has_its_mean_its_interval_and_its_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = SiteTable(TASK, (Entry(FIRST, "x", "", CASES), Entry(SECOND, "z", "hash", CASES[:2])))
    monkeypatch.setattr(site_table, "site_table", lambda out: table)
    assert write_sites(tmp_path) is table
    rows = {(row["model"], row["metric"]): row for row in rows_of(tmp_path)}
    assert list(rows_of(tmp_path)[0]) == list(COLUMNS)
    assert not any(metric.startswith("undefined/") for _, metric in rows)
    dice = rows["a-model", "dice"]
    assert (dice["learned_from"], dice["site"], dice["record"]) == ("x+y", "x", "")
    assert float(dice["mean"]) == pytest.approx((0.6 + 0.9 + 0.8) / 3)
    low, high = score_limits([0.6, 0.8, 0.9])
    assert (float(dice["low"]), float(dice["high"])) == (pytest.approx(low), pytest.approx(high))
    assert (dice["subjects"], dice["cases"], dice["undefined_cases"]) == ("3", "4", "0")
    assert rows["a-model", "hd95"]["undefined_cases"] == "1"
    other = rows["c-model", "dice"]
    assert (other["learned_from"], other["site"], other["record"]) == ("", "z", "hash")
    assert (other["low"], other["high"], other["subjects"], other["cases"]) == ("", "", "1", "2")


def test_a_distance_has_an_interval_of_student_s_and_a_share_one_between_0_and_1() -> None:
    far = [case("1", "p", 0.99, 3.0), case("2", "q", 1.0, 9.0), case("3", "r", 0.98, 4.0)]
    low, high = t_limits([3.0, 4.0, 9.0])
    assert interval(TASK, far, "hd95") == (pytest.approx(low), pytest.approx(high))
    low, high = score_limits([0.98, 0.99, 1.0])
    assert interval(TASK, far, "dice") == (pytest.approx(low), pytest.approx(high))
    assert low < high <= 1
    assert interval(TASK, far, "absent") is None


def text_of(table: SiteTable) -> list[list[str]]:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(printed(table))
    lines = [line for line in console.export_text().splitlines() if "n=" in line]
    return [re.split(r"\s{2,}|[│┃|]", line.strip(" │┃|")) for line in lines]


def test_every_model_is_a_line_and_every_site_a_column_the_study_s_own_first() -> None:
    entries = (Entry(FIRST, "z", "hash", CASES[:2]), Entry(FIRST, "x", "", CASES), Entry(SECOND, "x", "", CASES[2:3]))
    table = SiteTable(TASK, entries)
    assert table.sites == ("x", "z")
    first, second = ([cell.strip() for cell in line if cell.strip()] for line in text_of(table))
    assert first[:2] == ["a-model (= b-model)", "x+y"]
    assert re.fullmatch(r"0\.767 \[0\.\d\d, 0\.\d\d\] n=3", first[2])
    low, high = map(float, re.findall(r"\[(.*), (.*)\]", first[2])[0])
    assert low < 0.767 < high
    assert first[3] == "0.600 n=1"
    assert second == ["c-model", "none", "0.900 n=1"]


# ---------------------------------------------------------- the study's own cases
def record(**changes: Any) -> Any:
    plain = {"unit": "u1", "stage": "tuned", "site": "x", "part": "test", "status": "done", "measured": CASES[:1]}
    return SimpleNamespace(**{**plain, **changes})


def kept(monkeypatch: pytest.MonkeyPatch, *parts: Iterable[Any], merged: dict[str, SiteRecord] | None = None) -> None:
    """A study of these records in so many parts."""
    folders = {Path(str(number)): dict(enumerate(records)) for number, records in enumerate(parts)}
    monkeypatch.setattr(site_table, "part_folders", lambda out: list(folders))
    monkeypatch.setattr(site_table, "read_all", lambda folder: folders[folder])
    monkeypatch.setattr(site_table, "held_models", lambda out: [FIRST, SECOND])
    monkeypatch.setattr(site_table, "merged_records", lambda out: merged or {})
    monkeypatch.setattr(site_table, "kept_study", lambda out: SimpleNamespace(made_task=TASK))


def test_test_cases_of_all_folds_and_parts_are_together_and_others_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = [
        record(),
        record(measured=CASES[1:2]),
        record(part="val", measured=CASES[3:]),
        record(status="failed", measured=CASES[3:]),
        record(unit="u3", measured=CASES[3:]),
        record(stage="trained", measured=CASES[3:]),
        record(site="y", measured=CASES[3:]),
        record(unit="u2", stage="trained", measured=CASES[2:3]),
        record(site="w", measured=[]),
    ]
    kept(monkeypatch, records, [record(measured=CASES[2:3]), record(measured=CASES[:1])])
    found = [(entry.held, entry.site, [each["case"] for each in entry.cases]) for entry in
             site_table.site_table(Path("out")).entries]  # fmt: skip
    assert found == [(FIRST, "x", ["1", "2", "3"]), (FIRST, "y", ["4"]), (SECOND, "x", ["3"])]


def site_record(**changes: Any) -> SiteRecord:
    cases = tuple({**each, "case": n, "subject": n, "site": 1 + n % 2} for n, each in enumerate(CASES[:3], 1))
    plain = SiteRecord("u2", "trained", "sum2", "d" * 16, ("x", ""), cases, 0)
    return replace(plain, **changes)


def test_a_merged_site_keeps_its_own_column_and_its_own_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = site_record(), site_record(data="e" * 16, sites=("north", "x"))
    merged = {"h1": one, "h2": other, "h3": site_record(unit="u1", stage="tuned"), "h4": site_record(unit="gone")}
    kept(monkeypatch, [record(), record(unit="u2", stage="trained")], merged=merged)
    entries = site_table.site_table(Path("out")).entries
    found = [(entry.held.unit, entry.site, entry.record, [each["case"] for each in entry.cases]) for entry in entries]
    assert found == [
        ("u1", "x", "", ["1"]),
        ("u1", "x (dddddd)", "h3", [2]),
        ("u1", "site 2 (dddddd)", "h3", [1, 3]),
        ("u2", "x", "", ["1"]),
        ("u2", "x (dddddd)", "h1", [2]),
        ("u2", "site 2 (dddddd)", "h1", [1, 3]),
        ("u2", "north", "h2", [2]),
        ("u2", "x (eeeeee)", "h2", [1, 3]),
    ]
    assert not any("site" in each for entry in entries if entry.record for each in entry.cases)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"unit": "u9"}, "which out does not hold; expected one of a-model, b-model, c-model"),
    ({"stage": "tuned"}, "which out does not hold"),
    ({"model": "sum1"}, "with weights of checksum sum1; .*c-model has sum2: evaluate that folder"),
    ({"surface_dice": 2.0}, "has a tolerance of 2.0 mm, and the table one of 1.0 mm"),
    ({"unlabelled": 3}, "c-model was evaluated on the same cases before; remove .*there.json"),
    ({}, "this record is in .*merged already"),
]


@pytest.mark.parametrize(("change", "said"), REFUSED)
def test_a_record_that_does_not_fit_is_refused_and_none_is_written(
    change: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(monkeypatch, [])
    there = site_record()
    looks: list[Any] = []
    monkeypatch.setattr(site_table, "merged_records", lambda out: {} if change else {there.hash: there})
    if "unlabelled" in change:
        monkeypatch.setattr(site_table, "merged_records", lambda out: {"there": there})
    monkeypatch.setattr(site_table, "_tolerance", lambda study: 1.0)
    monkeypatch.setattr(site_table, "add_look", lambda *given: looks.append(given))
    monkeypatch.setattr(site_table, "write_sites", lambda out: looks.append("written"))
    records = {"fits.json": site_record(data="f" * 16, surface_dice=1.0), "new.json": site_record(**change)}
    monkeypatch.setattr(site_table, "read_site_record", lambda path: records[path.name])
    monkeypatch.setattr(site_table, "FOLDER", str(tmp_path / "merged"))
    with pytest.raises(OutputError, match=said):
        merge(Path("out"), [Path("fits.json"), Path("new.json")])
    assert looks == []
    assert not (tmp_path / "merged").exists()
    merge(Path("out"), [Path("fits.json")])
    assert looks == [(Path("out"), "merge", "1 records and the table of sites"), "written"]
    (written,) = (tmp_path / "merged").iterdir()
    assert written.name == f"{records['fits.json'].hash}.json"
