"""Errors of made images by label: who is counted where, and when there is nothing to part."""

from __future__ import annotations

from typing import Any

from tests.unit.tiny import a_row

from allograft.cohort import Case
from allograft.recipe import parse_recipe
from allograft.results.analysis.strata import strata_sheet
from allograft.results.record import Record
from allograft.results.select import Chosen, Line

GRADES = {"1": "01", "2": "01", "3": "4", "4": None}
CASES = [
    Case(name, f"s{name}", "b", (), labels={} if grade is None else {"label": grade}) for name, grade in GRADES.items()
]


def a_line(title: str, *seeds: list[tuple[str, str, float | None, float | None]]) -> Line:
    runs = []
    for seed, rows in enumerate(seeds):
        cases: list[dict[str, Any]] = [
            {"case": name, "subject": subject, "mae": 1.0, "median_error": median, "mad_error": deviation}
            for name, subject, median, deviation in rows
        ]
        record = Record("u", {"name": title}, seed, "trained", 0, "b", "test", cases=tuple(cases))
        runs.append(Chosen(a_row(parse_recipe("supervised"), "b", seed, 0), "trained", {"b": (record,)}, None))
    return Line(title, None, "b", tuple(runs), {}, {})


def test_a_column_holds_the_images_of_its_label_and_one_all() -> None:
    first = [("1", "x", 0.2, 0.1), ("2", "y", 0.4, 0.3), ("3", "y", 0.8, 0.5), ("4", "z", None, None)]
    second = [("1", "x", 0.4, 0.1), ("2", "y", 0.6, 0.3), ("3", "y", 1.0, 0.5), ("4", "z", None, None)]
    sheet = strata_sheet([a_line("mris", first, second), a_line("unet", [("1", "x", 1.0, 1.0)])], CASES, "b")
    assert sheet is not None
    assert sheet.columns == ("recipe", "01 (2 images)", "4 (1 images)", "all (3 images)")
    # all: subject y counts once, with the mean of two images: (0.2 + 0.6) / 2 and (0.4 + 0.8) / 2
    assert sheet.rows[0] == ("mris", "0.400 ± 0.200", "0.900 ± 0.500", "0.500 ± 0.250")
    assert sheet.rows[1] == ("unet", "1.000 ± 1.000", "", "1.000 ± 1.000")


def test_other_tasks_and_one_label_have_no_table() -> None:
    alike = [Case("1", "x", "b", (), labels={"label": "01"})]
    assert strata_sheet([a_line("mris", [("1", "x", 0.2, 0.1)])], alike, "b") is None
    assert strata_sheet([a_line("mris", [("1", "x", None, None)])], CASES, "b") is None
    assert strata_sheet([a_line("mris", [("1", "x", 0.2, 0.1)])], CASES, "c") is None
