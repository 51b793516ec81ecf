"""Plots from numbers made by hand: how many labels, what changed since a validation, grey values."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allograft.cohort.histograms import Histogram
from allograft.figure import Lines, Points
from allograft.report import examination, monitor
from allograft.report.figures import draw_figure
from allograft.report.how_many_labels import label_section
from allograft.report.monitor import Monitored
from allograft.report.plots import Costs, Strip, strip_plot, time_unit
from allograft.report.spans import span_plot, spans
from allograft.results.analysis.label_curve import Curve, LabelCurve, Point
from allograft.results.comparison import Comparison
from allograft.results.drift import Drift
from allograft.results.power_law import Fit, Power


def point(amount: float, score: float, gain: float | None = None) -> Point:
    line: Any = None
    against = None if gain is None else Comparison(5, gain, gain - 0.02, gain + 0.03)
    return Point(amount, line, score, score - 0.011, score + 0.022, against)


FITTED = Fit(Power(0.9, 0.4, 1.5), 4, 0.034, 0.012, 0.056, "subjects", (0.85, 0.95))
UNCLEAR = Fit(Power(0.99, 0.4, 0.1), 4, 0.5, -0.012, 0.156, "subjects", (0.8, 1.0), "no ceiling is in sight")
FOUND = LabelCurve(
    "from a", "b", "subjects", "dice", 1, (1.0, 4.0),
    (
        Curve("supervised", (point(1, 0.4), point(4, 0.4)), False, False, None),
        Curve("adabn", (point(1, 0.55, 0.15), point(4, 0.56, 0.16)), False, False, None),
        Curve("finetune", (point(1, 0.5, 0.1), point(4, 0.7, 0.3)), True, False, FITTED),
        Curve("lora", (point(1, 0.51, 0.11), point(4, 0.6, 0.2)), True, False, UNCLEAR),
        Curve("target_supervised labels=all", (point(1, 0.82), point(4, 0.82)), False, True, None),
    ),
    {1.0: "supervised", 4.0: "finetune"}, "", 20, 14,
)  # fmt: skip


def test_the_best_row_at_each_budget_has_its_own_interval_gain_and_verdict() -> None:
    made = label_section(FOUND)
    best, more = made.sheets
    assert made.title == "Target: b (from a)"
    assert best.columns[3:5] == ("95 % over subjects", "vs. no adaptation")
    assert best.rows == (
        ("1 subject", "adabn", "0.550", "0.539 to 0.572", "+0.150 (+0.130 to +0.180)", "keep your model"),
        ("4 subjects", "finetune", "0.700", "0.689 to 0.722", "+0.300 (+0.280 to +0.330)", "change to finetune"),
    )
    assert more.columns == ("recipe", "expected of 4 more subjects", "95 % interval", "ceiling a", "rate c")
    assert more.rows == (
        ("finetune", "+0.034", "+0.012 to +0.056", "0.900 (0.850 to 0.950)", "1.50"),
        ("lora", "not identifiable", "−0.012 to +0.156", "", ""),
    )
    assert more.notes == ("lora: not identifiable, because no ceiling is in sight.",)
    assert label_section(replace(FOUND, part="", verdicts={})).title == "Target: b"
    assert [row[5] for row in label_section(replace(FOUND, verdicts={})).sheets[0].rows] == ["none yet"] * 2


def test_answers_and_notes_are_of_the_largest_budget() -> None:
    made = label_section(FOUND)
    assert made.answers == (
        "At 4 subjects finetune has the highest dice: 0.700.",
        "finetune, 4 more subjects: +0.034 (0.012 to 0.056).",
        "A fitted learning curve needs 5 budgets; this study has 2 so far: add 3 to target_labels to see what 4 more "
        "subjects are expected to bring.",
    )
    assert "The study has one seed" in " ".join(made.notes)
    assert "20 units at 2 budgets, 14 of them distinct, so 6 were not trained again" in made.notes[-1]
    assert "one seed" not in " ".join(label_section(replace(FOUND, seeds=2)).notes)
    # a row without a fit is best: what is expected is of the best row with one
    ahead = replace(FOUND.curves[1], points=(point(1, 0.55), point(4, 0.9)))
    other = label_section(replace(FOUND, curves=(FOUND.curves[0], ahead, *FOUND.curves[2:]))).answers
    assert other[0].startswith("At 4 subjects adabn has")
    assert other[1].startswith("finetune, 4 more subjects")
    none = label_section(replace(FOUND, curves=FOUND.curves[:2]))
    assert (len(none.sheets), any("least squares" in note for note in none.notes)) == (1, False)


def test_the_plot_of_budgets_has_each_point_of_each_row_in_its_look() -> None:
    made = label_section(FOUND)
    dots = re.findall(r'<circle class="at (c\d)"[^>]*><title>([^<]*)', made.plot)
    assert dots == [
        ("c0", "adabn at 1: 0.55"), ("c0", "adabn at 4: 0.56"), ("c1", "finetune at 1: 0.5"),
        ("c1", "finetune at 4: 0.7"), ("c2", "lora at 1: 0.51"), ("c2", "lora at 4: 0.6"),
    ]  # fmt: skip
    legend = [re.sub("<[^>]+>", "", one) for one in made.legend]
    assert legend == [
        "adabn (no target label)", "finetune", "lora", "Level lines: no adaptation, 0.400; all labels, 0.820."
    ]  # fmt: skip
    assert ["dasharray" in one for one in made.legend] == [True, False, False, False]
    paths = {name: path for path, name in re.findall(r' d="(M[^"]*)"><title>([^<]*)</title>', made.plot)}
    # the fit passes through the first point, and ends at the budget that it predicts
    assert paths["finetune, fitted"].split("L")[0] == paths["finetune"].split("L")[0]
    marks = dict(re.findall(r'<text class="tick" text-anchor="middle" x="([^"]*)"[^>]*>([^<]*)', made.plot))
    assert list(marks.values()) == ["1", "4", "8"]
    assert float(paths["finetune, fitted"].split("L")[-1].split()[0]) == float(list(marks)[2])
    assert [float(path.split()[0][1:]) - float(next(iter(marks))) for path in (paths["adabn"], paths["lora"])] == [
        pytest.approx(-5, abs=0.11), pytest.approx(5, abs=0.11)
    ]  # fmt: skip
    assert "labelled subjects of b" in made.plot
    two = replace(FOUND.curves[4], title="pooled")
    bounds = label_section(replace(FOUND, curves=(*FOUND.curves, two)))
    assert "all labels, target_supervised labels=all, 0.820; all labels, pooled, 0.820" in bounds.legend[-1]


def test_whiskers_stand_at_their_own_curve() -> None:
    curves = {"p": (0.0, 1.0), "q": (0.5, 0.25)}
    drawn = draw_figure(Lines("t", (0.0, 2.0), curves, "steps", "dice", {"q": (0.125, None)}), str)
    assert re.findall(r'<path class="(whisker [^"]*)" d="([^"]*)"', drawn.picture) == [
        ("whisker c1", "M58 157.8V104.2M54 157.8H62M54 104.2H62")
    ]
    assert re.findall(r'class="axis"[^>]*>([^<]*)', drawn.picture) == ["steps", "dice"]
    assert "q: 0.25 at 2" in drawn.picture


def test_points_are_told_by_their_group_and_colour() -> None:
    drawn = draw_figure(Points("t", (0.0, 9.0), (1.0, 5.0), ("a", "b"), (0.25, 0.75), "loss"), str)
    assert re.findall(r"<title>([^<]*)</title>", drawn.picture) == ["a, loss 0.25", "b, loss 0.75"]
    places = [tuple(map(float, one)) for one in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", drawn.picture)]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]  # more is further up


def test_what_a_row_costs_is_in_one_unit_and_on_its_own_side() -> None:
    rows = [Strip("one", {"S001": 0.5}, 0.5, True), Strip("two", {}, None)]
    drawn = str(strip_plot(rows, "dice", None, costs=Costs((1200.0, 300.0), (600.0, 300.0))))
    assert re.findall(r'<circle class="([^"]*)"[^>]*r="[\d.]+"><title>([^<]*)', drawn) == [
        ("dot chosen", "S001: 0.500"),
        ("ring chosen", "one: 20.0 minutes with the training of the source model"),
        ("dot chosen", "one: 10.0 minutes"),
        ("dot", "two: 5.0 minutes"),
    ]
    ring, dot = re.findall(r'<circle class="(?:ring|dot) chosen" cx="([\d.]+)" cy="[\d.]+" r="(?:4.5|5)"', drawn)
    assert float(dot) < float(ring)
    assert ">training, minutes<" in drawn
    assert drawn.count(">no score<") == 1
    assert [time_unit(at)[1] for at in (599.0, 600.0, 7199.0, 7200.0)] == ["seconds", "minutes", "minutes", "hours"]


def test_sizes_have_dots_by_their_share_of_images() -> None:
    drawn = str(span_plot(spans({"a": {"64 x 64": 4, "32 x 32": 12}, "b": {"48 x 48": 2}}), "pixels"))
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="([\d.]+)"><title>([^<]*)', drawn)
    assert [(radius, told) for *_, radius, told in dots] == [
        ("7.3", "32: 12 images"), ("5.5", "64: 4 images"), ("8.0", "48: 2 images")
    ]  # fmt: skip
    assert float(dots[0][0]) < float(dots[2][0]) < float(dots[1][0])
    assert float(dots[0][1]) == float(dots[1][1]) < float(dots[2][1])


def test_grey_values_have_a_curve_for_each_of_the_first_sites() -> None:
    shares = {"a": (0.25, 0.01), "b": (0.04, 0.09)}
    drawn = examination._drawn(Histogram("after", (0.0, 1.0, 3.0), shares))
    assert drawn.title == "after the preprocessing"
    dots = re.findall(r"<title>(\w: [^<]*) at ([\d.]+)</title>", drawn.picture)
    assert dots == [("a: 0.5", "0.5"), ("a: 0.1", "2"), ("b: 0.2", "0.5"), ("b: 0.3", "2")]
    many = {f"site {n:02d}": (0.25, 0.01) for n in range(13)}
    drawn = examination._drawn(Histogram("before", (0.0, 1.0, 3.0), many))
    assert drawn.title == "as stored, the first 12 of 13 sites"
    assert ("site 11" in drawn.picture, "site 12" in drawn.picture) == (True, False)


# ---- what changed since a validation

KNOWN: dict[str, Any] = {
    "held_out": "validation cases of a",
    "calibration": {
        site: {
            "cases": 30 + n, "temperature": 1.5 + n, "error_before": 0.12 + n, "error_after": 0.03 + n,
            "reliability": [{"confidence": 0.6, "accuracy": 0.5, "count": 10}, {"confidence": 0.9, "accuracy": 0.8}],
        }
        for n, site in enumerate("ab")
    },
    "fairness": [
        {"attribute": "sex", "headline": "auroc",
         "groups": [{"name": "f", "subjects": 14, "cases": 15, "scores": {"auroc": 0.75, "dice": 0.1}},
                    {"name": "m", "subjects": 9, "cases": 19, "scores": {}}]},
        {"attribute": "age", "headline": "dice",
         "groups": [{"name": "old", "subjects": 11, "cases": 12, "scores": {"auroc": 0.2, "dice": 0.5}}]},
    ],
    "notes": ["Kept in May."],
}  # fmt: skip
DRIFTS = [Drift("volume", 4, 2, 1.0, 2.5, 0.75, 0.5, p=0.01, adjusted=0.02), Drift("abstain", 4, 2, 0.1, 0.2, p=0.4)]
BEFORE, NOW = {"volume": [3.0, 1.0, 1.0, 1.0]}, {"volume": [2.0, 3.0]}


def a_page(**more: Any) -> Monitored:
    given: dict[str, Any] = {"model": "eyes", "task": "finding spots", "drifts": DRIFTS, "before": BEFORE, "now": NOW,
                             "failed": 3, "known": KNOWN, "rule": "beyond 12.5"}  # fmt: skip
    return Monitored(**{**given, **more})


def test_what_a_model_keeps_stands_in_the_columns_of_its_validation() -> None:
    calibration, fairness = monitor._calibration(KNOWN), monitor._fairness(KNOWN)
    assert calibration is not None
    assert [[cell.text for cell in cells] for _, cells in calibration.rows] == [
        ["a", "30", "0.12", "1.5", "0.03"], ["b", "31", "1.12", "2.5", "1.03"]
    ]  # fmt: skip
    assert [(column.name, column.small) for column in calibration.columns[2:]] == [
        ("calibration", "error"), ("temperature", ""), ("error", "at that temperature")
    ]  # fmt: skip
    assert fairness is not None
    assert [[(cell.text, cell.small) for cell in cells] for _, cells in fairness.rows] == [
        [("sex: f", "auroc"), ("14", ""), ("15", ""), ("0.75", "")],
        [("sex: m", "auroc"), ("9", ""), ("19", ""), ("–", "")],
        [("age: old", "dice"), ("11", ""), ("12", ""), ("0.5", "")],
    ]
    bare: dict[str, Any] = {"calibration": {}, "fairness": []}
    assert monitor._calibration(bare) is monitor._fairness(bare) is None


def test_both_distributions_are_drawn_and_each_diagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "POINTS", 3)
    monitor.write_page(tmp_path / "monitor.html", a_page())
    page = (tmp_path / "monitor.html").read_text(encoding="utf-8")
    assert re.findall(r"<h5>([^<]*)</h5>", page) == ["volume", "calibration at a", "calibration at b"]
    assert re.findall(r"<title>(validation|now): ([\d.]+) at ([123])</title>", page) == [
        ("validation", "0.75", "1"), ("validation", "0.75", "2"), ("validation", "1", "3"),
        ("now", "0", "1"), ("now", "0.5", "2"), ("now", "1", "3"),
    ]  # fmt: skip
    dots = re.findall(r"<title>(validation|perfect calibration): ([\d.]+) at (0.[69])</title>", page)
    assert dots[:4] == [
        ("validation", "0.5", "0.6"), ("validation", "0.8", "0.9"),
        ("perfect calibration", "0.6", "0.6"), ("perfect calibration", "0.9", "0.9"),
    ]  # fmt: skip
    assert dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page)) == {
        "Model": "eyes", "Task": "finding spots", "Could not be predicted": "3 images"
    }  # fmt: skip
    for words in ("Kept in May.", "beyond 12.5", "those of validation cases of a", "in volume. The scores"):
        assert words in page
    rows = [chosen for chosen, _ in monitor._table(DRIFTS).rows]
    assert rows == [True, False]


def test_what_is_to_be_known_first_depends_on_what_was_tested() -> None:
    assert a_page().sentence[0] == "These images differ from those of the validation"
    assert a_page(drifts=DRIFTS[1:]).sentence == (
        "No difference is shown", "in 1 number; small changes may go unnoticed."
    )  # fmt: skip
    assert a_page(drifts=[Drift("volume", 1, 1)]).sentence[0] == "Nothing could be compared"
