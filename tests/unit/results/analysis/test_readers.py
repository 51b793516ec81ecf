"""The metrics against each reader's boxes as a table."""

from __future__ import annotations

from typing import Any

from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe
from allograft.results.analysis.readers import reader_sheet
from allograft.results.record import Record
from allograft.results.select import Chosen, Line


def a_line(title: str, metrics: dict[str, tuple[float, ...]], *facts: dict[str, Any]) -> Line:
    row = a_row(parse_recipe("supervised"), "b", 0, 0)
    records = [Record("u", {"name": title}, 0, "corrected", 0, "b", "test", facts=each) for each in facts]
    runs = tuple(Chosen(row, "corrected", {"b": (record,)}, None) for record in records)
    return Line(title, None, "b", runs, {}, {"b": metrics})


ONE = {"ap50": (0.5, 0.7), "ap75": (0.3, 0.3), "ap": (0.25, 0.35), "ar": (0.4, 0.4)}
TWO = {f"{name}/reader2": tuple(value / 2 for value in values) for name, values in ONE.items()}


def test_a_row_has_the_four_metrics_of_each_reader_and_when_its_correction_began() -> None:
    corrected = a_line("sissi", {**ONE, **TWO}, {"start_epoch": 3}, {"start_epoch": "never"})
    plain = a_line("supervised", {**ONE, **TWO}, {}, {})
    sheet = reader_sheet([corrected, plain], "b")
    assert sheet is not None
    assert sheet.columns[:4] == ("recipe", "start epoch", "ap50, reader 1", "ap75, reader 1")
    assert sheet.columns[6:] == tuple(f"{name}, reader2" for name in ("ap50", "ap75", "ap", "ar"))
    assert sheet.rows[0][1:3] == ("3 in 1 of 2 runs", "0.600 ± 0.141")
    assert sheet.rows[0][6] == "0.300 ± 0.071"
    assert sheet.rows[1][1] == ""
    never = reader_sheet([a_line("sissi", {**ONE, **TWO}, {"start_epoch": "never"})], "b")
    assert never is not None
    assert never.rows[0][1] == "never"


def test_one_reader_needs_no_table_and_other_metrics_have_no_reader() -> None:
    assert reader_sheet([a_line("sissi", ONE, {"start_epoch": 3})], "b") is None
    assert reader_sheet([a_line("unet", {"dice": (0.5,), "dice/anterior": (0.5,)})], "b") is None
    assert reader_sheet([a_line("sissi", {**ONE, **TWO})], "c") is None
