"""Every column of the tables beside ``results.csv`` holds what its name says: label curves, two models
head to head, corrected boxes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.results.analysis.test_label_curve import BOUND, only, parts

from allograft.results.analysis import correction, label_curve
from allograft.results.analysis.correction import CAME, CORRECTED, Agreement, Correction, write_corrections
from allograft.results.analysis.label_curve import label_curves, write_label_curve
from allograft.results.comparison import Comparison
from allograft.results.head_to_head import (
    ALL,
    Difference,
    HeadToHead,
    Unmatched,
    differences,
    metrics_of,
    ordinals_of,
    worst,
)
from allograft.results.head_to_head_files import SUMMARY, write_cases, write_summary
from allograft.results.statistics import adjust
from allograft.tasks.classification import Classification
from allograft.tasks.segmentation import Segmentation


def read(path: Path) -> list[dict[str, Any]]:
    def typed(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(newline="", encoding="utf-8") as file:
        return [{key: typed(text) for key, text in row.items()} for row in csv.DictReader(file)]


def like(row: dict[str, Any]) -> dict[str, Any]:
    return {key: "" if v is None else v if isinstance(v, str) else pytest.approx(v) for key, v in row.items()}


# ---------------------------------------------------------- label curves
def test_every_column_of_a_label_curve(tmp_path: Path) -> None:
    amounts = [1, 2, 4, 8, 16]
    found = replace(
        only(label_curves(parts(amounts))),
        part="=from a",
        verdicts={n: "adabn" if n < 4 else "finetune" for n in amounts},
    )
    path = write_label_curve(tmp_path, [found])
    assert path is not None
    rows, expected = read(path), []
    for curve in found.curves:
        common = {"part": "'=from a", "target": "b", "recipe": curve.title, "unit": "subjects", "metric": "dice"}
        for point in curve.points:
            best = found.best(point.amount)
            row: dict[str, Any] = dict.fromkeys(label_curve.COLUMNS, "") | common
            row |= {"kind": "measured", "budget": point.amount, "seeds_done": 2, "subjects": 8}
            row |= {"labelled_subjects": point.amount if curve.title == "finetune" else 0}
            row |= {"score": point.score, "low": point.low, "high": point.high}
            row |= {"best": int(best is not None and best[0].title == curve.title)}
            row |= {"verdict": int(curve.title == ("adabn" if point.amount < 4 else "finetune"))}
            if point.gain is not None:
                gain = point.gain
                row |= {"difference": gain.difference, "difference_low": gain.low, "difference_high": gain.high}
            expected.append(row)
        if (fit := curve.fit) is not None:
            row = dict.fromkeys(label_curve.COLUMNS, "") | common
            row |= {"kind": "expected", "budget": 20, "score": fit.curve(20), "more": 4, "gain": fit.gain}
            row |= {"gain_low": fit.low, "gain_high": fit.high, "note": fit.unclear}
            row |= {"ceiling": fit.curve.ceiling, "drop": fit.curve.drop, "rate": fit.curve.rate}
            expected.append(row)
    assert rows == [like(row) for row in expected]
    tuned = next(row for row in rows if (row["recipe"], row["budget"]) == ("finetune", 4))
    assert tuned["low"] < tuned["score"] < tuned["high"]
    assert tuned["difference_low"] <= tuned["difference"] <= tuned["difference_high"]
    assert {row["recipe"] for row in rows if row["best"] == 1} == {"adabn", "finetune"}
    assert {row["recipe"] for row in rows if row["kind"] == "expected"} == {"finetune"}
    assert not any(row["best"] for row in rows if row["recipe"] == BOUND)
    assert write_label_curve(tmp_path / "none", []) is None


def test_units_are_counted_at_each_budget_and_once() -> None:
    found = only(label_curves(parts([1, 2, 4])))
    # three rows of two seeds that all budgets share, and fine-tuning's own
    assert (found.units, found.distinct) == (3 * 8, 6 + 3 * 2)


# ---------------------------------------------------------- head to head
FOUND = Comparison(
    subjects=9,
    difference=0.1,
    low=0.01,
    high=0.2,
    p=0.03,
    adjusted=0.06,
    effect=0.5,
    rank_biserial=0.7,
    sd=0.3,
    dof=8.0,
    false_claim=0.04,
    note="a note",
    cases=12,
    undefined=(2, 3),
)


def two(**changes: Any) -> HeadToHead:
    a = [
        {"case": f"c{n}", "subject": f"={n // 2}", "site": "s", "dice": 0.1 * n, "iou": None if n else 0.4}
        for n in range(4)
    ]
    b = [{**case, "dice": 0.5 - 0.2 * n} for n, case in enumerate(a)]
    return HeadToHead(("A", "B"), "dice", a, b, (Difference("s", "dice", 0.3, 0.4, FOUND),), **changes)


def test_every_column_of_a_summary(tmp_path: Path) -> None:
    made = [Difference("=s", "dice", 0.3, 0.4, FOUND), Difference("s", "hd95/x", 3.0, 2.0, None)]
    first, second = read(write_summary(tmp_path / "summary.csv", replace(two(), differences=tuple(made))))
    assert list(first) == [*SUMMARY]
    assert first == {
        "site": "'=s",
        "metric": "dice",
        "better": "higher",
        "subjects": 9,
        "cases": 12,
        "undefined_a": 2,
        "undefined_b": 3,
        "a": 0.3,
        "b": 0.4,
        "difference": 0.1,
        "low": 0.01,
        "high": 0.2,
        "p": 0.03,
        "p_adjusted": 0.06,
        "false_claim": 0.04,
        "cohen_dz": 0.5,
        "rank_biserial": 0.7,
        "note": "a note",
    }
    assert second == dict.fromkeys(SUMMARY, "") | {
        "site": "s",
        "metric": "hd95/x",
        "better": "lower",
        "a": 3.0,
        "b": 2.0,
    }
    assert [one.lead for one in (made[0], replace(made[1], found=FOUND), made[1])] == [0.1, -0.1, 0.0]


def test_every_column_of_the_cases(tmp_path: Path) -> None:
    left = Unmatched("c9", "a", "t", "B", "has no row")
    found = two(unmatched=(left,))
    rows = read(write_cases(tmp_path / "cases.csv", found))
    assert [*ordinals_of(found).items()] == [("=0", "S001"), ("=1", "S002"), ("a", "S003")]
    assert rows[3] == {
        "case": "c3",
        "subject": "'=1",
        "site": "s",
        "ordinal": "S002",
        "dice A": pytest.approx(0.3),
        "dice B": pytest.approx(-0.1),
        "dice difference": pytest.approx(-0.4),
        "iou A": "",
        "iou B": "",
        "iou difference": "",
        "note": "",
    }
    assert rows[0]["iou difference"] == 0.0
    assert (rows[4]["case"], rows[4]["ordinal"], rows[4]["note"]) == ("c9", "S003", "left out: B has no row")
    assert len(rows) == 5
    assert found.sites == ["s", "t"]


def test_scores_that_only_later_cases_have_are_columns_too() -> None:
    cases = [{"case": "a", "dice": 0.1}, {"case": "b", "hd95": 3.0, "iou/x": 0.2, "iou/y": 0.4}]
    assert metrics_of(cases, "hd95") == ["hd95", "dice", "iou/x", "iou/y"]


def test_the_worst_cases_are_those_of_the_worse_of_the_two() -> None:
    """0 and 0.5, 0.1 and 0.3, 0.2 and 0.1, 0.3 and -0.1; of equal ones the greater difference."""
    assert worst(two()) == [3, 0, 2, 1]
    assert worst(two(), 2) == [3, 0]


def masks(rng: np.random.Generator, gain: float) -> list[dict[str, Any]]:
    cases = []
    for site, count in (("x", 7), ("y", 8)):
        for n in range(count):
            dice = None if (n == 0 and gain) or n == 1 else 0.5 + gain + 0.05 * rng.random()
            cases.append({"case": f"{site}{n}", "subject": f"{site}{n}", "site": site, "dice": dice})
    return cases


def test_p_is_adjusted_over_sites_alone_and_undefined_cases_are_counted_for_each() -> None:
    rng = np.random.default_rng(0)
    task = Segmentation(("vessel",))
    a, b = masks(rng, 0.0), masks(rng, 0.1)
    found = {one.site: one for one in differences(task, a, b) if one.metric == "dice"}
    assert list(found) == [ALL, "x", "y"]
    comparisons = {site: one.found for site, one in found.items()}
    assert all(one is not None for one in comparisons.values())
    whole, x, y = (one for one in comparisons.values() if one is not None)
    assert (whole.undefined, x.undefined, y.undefined) == ((2, 4), (1, 2), (1, 2))
    assert (whole.cases, x.cases, y.cases) == (11, 5, 6)
    assert whole.adjusted is None
    tested = [one for one in (x, y) if one.p is not None]
    assert [one.adjusted for one in tested] == adjust([one.p or 0.0 for one in tested])
    assert y.difference > 0.05
    turned = {one.site: one.found for one in differences(task, b, a) if one.metric == "dice"}
    assert turned["y"] is not None
    assert (turned["y"].undefined, turned["y"].difference) == ((2, 1), pytest.approx(-y.difference))
    # of the better one being no better, whichever is listed first
    assert turned["y"].false_claim == pytest.approx(y.false_claim)
    assert (y.false_claim or 1.0) < 0.05


def test_areas_and_other_pooled_scores_are_the_second_less_the_first() -> None:
    rng = np.random.default_rng(1)
    task = Classification(("no", "yes"))

    def scored(sharpness: float) -> list[dict[str, Any]]:
        made = []
        for n in range(24):
            chance = 1 / (1 + np.exp(-sharpness * (n % 2 - 0.5) - rng.normal()))
            made.append(
                {"case": str(n), "subject": str(n), "site": "s", "label": n % 2, "probabilities": [1 - chance, chance]}
            )
        return made

    a, b = scored(0.5), scored(8.0)  # the second is nearly always right
    found = {one.metric: one for one in differences(task, a, b)}
    area = found["auroc"]
    assert area.a is not None
    assert area.b is not None
    assert area.found is not None
    assert area.found.difference == pytest.approx(area.b - area.a)
    assert area.found.difference > 0
    assert area.found.low is not None
    assert area.found.high is not None
    assert area.found.low <= area.found.difference <= area.found.high
    assert (area.found.cases, area.found.subjects) == (24, 24)
    pooled = [one for one in found.values() if one.found is not None and one.found.note.endswith("interval only")]
    assert pooled
    for one in pooled:
        assert one.found is not None
        assert one.found.low is not None
        assert one.found.high is not None
        assert one.found.low - 0.05 <= one.found.difference <= one.found.high + 0.05, one.metric
        assert one.found.cases == 24


# ---------------------------------------------------------- corrected boxes
def images(boxes: int, true: int, pairs: int, *, subject: str = "p") -> list[dict[str, Any]]:
    first = {"case": "x", "subject": subject, "boxes": boxes, "true": true, "pairs": pairs}
    return [first, {"case": "y", "subject": "q", "boxes": 1, "true": 2, "pairs": 1}]


def test_every_column_of_a_correction(tmp_path: Path) -> None:
    came = Agreement((tuple(images(4, 8, 2)), tuple(images(6, 8, 4))))
    corrected = Agreement((tuple(images(3, 6, 3)), tuple(images(5, 6, 2, subject="r"))))
    made = Correction("=mine", "b", {}, {"reader2": {CAME: came, CORRECTED: corrected}}, None)
    write_corrections(tmp_path, [made])
    first, second = read(tmp_path / correction.FILE)
    assert list(first) == [*correction.COLUMNS]
    assert (first["recipe"], first["target"], first["reader"], first["boxes"]) == ("'=mine", "b", "reader2", CAME)
    assert (first["runs"], first["subjects"], first["images"]) == (2, 2, 2)
    assert (first["count"], first["reader_count"], first["paired"]) == (6, 10, 4)
    precision, recall = [3 / 5, 5 / 7], [3 / 10, 5 / 10]
    for rate, values in (("precision", precision), ("recall", recall)):
        assert first[rate] == pytest.approx(np.mean(values))
        assert first[f"{rate}_sd_over_runs"] == pytest.approx(np.std(values, ddof=1))
        assert first[f"{rate}_low"] <= first[rate] <= first[f"{rate}_high"]
        assert (first[f"{rate}_low"], first[f"{rate}_high"]) == came.intervals()[rate]
    assert (second["boxes"], second["subjects"], second["precision_low"]) == (CORRECTED, 3, "")
    assert second["precision"] == pytest.approx(np.mean([4 / 4, 3 / 6]))
    write_corrections(tmp_path, [replace(made, agreements={})])
    assert not (tmp_path / correction.FILE).exists()
