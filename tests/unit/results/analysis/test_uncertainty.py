"""The spread beside the errors: what is counted, and when there is nothing to say."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe
from allograft.report.figures import draw_figure
from allograft.results.analysis.uncertainty import uncertainty
from allograft.results.record import Record, measured
from allograft.results.select import Chosen, Line


def a_line(title: str, *seeds: list[dict[str, Any]], target: str = "b") -> Line:
    row = a_row(parse_recipe("supervised"), target, 0, 0)
    runs = []
    for cases in seeds:
        record = Record("u", {"name": title}, 0, "trained", 0, target, "test", cases=tuple(cases))
        runs.append(Chosen(row, "trained", {target: (record,)}, None))
    return Line(title, None, target, tuple(runs), {}, {})


def case(right: bool, confidence: float, spread: float | None = None) -> dict[str, Any]:
    """One of two classes, of which the first was found."""
    made = {"case": "x", "subject": "x", "label": 0 if right else 1, "probabilities": [confidence, 1 - confidence]}
    return made if spread is None else {**made, "spread": spread}


KNOWS = [case(True, 0.9, 0.1), case(True, 0.9, 0.2), case(False, 0.6, 0.8), case(True, 0.6, 0.7)]


def test_numbers_are_those_of_the_cases() -> None:
    turned = [{**one, "spread": 1 - one["spread"]} for one in KNOWS]
    plain = [case(True, 0.75), case(False, 0.75), case(False, 0.75), case(True, 0.75)]
    found = uncertainty([a_line("diffmic", KNOWS, turned), a_line("supervised", plain)], "b")
    assert found is not None
    sheet, figure = found
    assert [row[0] for row in sheet.rows] == ["diffmic", "supervised"]
    # the wrong case has the largest spread of one seed, and the smallest of the other
    assert sheet.rows[0][1] == "0.500 ± 0.707"
    # two cases 0.9 sure and right, two 0.6 sure of which one is right
    assert sheet.rows[0][2] == "0.100 ± 0.000"
    assert sheet.rows[0][3] == "0.750 ± 0.000"
    assert sheet.rows[0][4] == "0.750 ± 0.354"
    assert sheet.rows[1][1:] == ("", "0.250", "0.500", "")
    assert figure.x == pytest.approx([0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95])
    assert set(figure.y) == {"diffmic", "supervised", "perfect calibration"}


def test_a_bin_shows_its_share_where_it_has_cases_enough() -> None:
    many = [case(number % 4 != 0, 0.8, 0.1) for number in range(8)] + [case(True, 0.31, 0.5)]
    found = uncertainty([a_line("diffmic", many)], "b")
    assert found is not None
    curve = found[1].y["diffmic"]
    assert curve[7] == 0.75  # (0.7, 0.8]
    assert [value for number, value in enumerate(curve) if number != 7] == [None] * 9
    assert draw_figure(found[1], str)


def test_without_a_spread_or_a_class_there_is_nothing_to_say() -> None:
    assert uncertainty([a_line("supervised", [case(True, 0.9)])], "b") is None
    assert uncertainty([a_line("mris", [{"case": "x", "subject": "x", "mae": 0.1, "spread": 0.2}])], "b") is None
    assert uncertainty([a_line("diffmic", KNOWS, target="c")], "b") is None


def test_neighbours_are_no_measure() -> None:
    told = {"case": "a", "subject": "1", "mae": 0.5, "spread": 0.1, "score": 0.9, "neighbours": "x; y"}
    assert measured([told]) == ({"case": "a", "subject": "1", "mae": 0.5},)
