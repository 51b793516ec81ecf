"""Precision and recall of corrected boxes against further readers, by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.tiny import a_row, write_rows

from allograft import tree
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Store
from allograft.figure import Relabelled, to_json
from allograft.recipe import parse_recipe
from allograft.results.analysis.correction import (
    CAME,
    CORRECTED,
    FILE,
    Correction,
    correction_sheet,
    corrections,
    write_corrections,
)
from allograft.results.record import Record
from allograft.results.select import Chosen, Line
from allograft.tasks.detection import Detection

LEFT, RIGHT, BELOW, CORNER = [0, 0, 10, 10], [20, 0, 30, 10], [0, 10, 10, 20], [30, 10, 40, 20]
DRAWN = {
    "boxes": {"a": [LEFT, RIGHT], "b": [LEFT], "c": [LEFT]},
    "boxes_reader2": {"a": [LEFT, RIGHT, BELOW], "b": [CORNER]},
    "boxes_reader3": {"a": [LEFT]},
}
Boxes = Sequence[Sequence[float]]


def wide(boxes: Boxes) -> Boxes:
    """On the grid of the study, which is twice as wide as the images."""
    return [[2 * x0, y0, 2 * x1, y1] for x0, y0, x1, y1 in boxes]


@pytest.fixture
def world(tmp_path: Path) -> Any:
    rows = [{"image": f"{name}.png", "subject": f"s{name}", "site": "t"} for name in "abc"]
    for column, images in DRAWN.items():
        for row in rows:
            drawn = images.get(row["image"][0])
            row[column] = "" if drawn is None else f"{row['image'][0]}-{column}.json"
            if drawn is not None:
                tree = {"boxes": drawn, "labels": ["cell"] * len(drawn)}
                (tmp_path / row[column]).write_text(json.dumps(tree))
    for name in "abc":
        Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / f"{name}.png")
    manifest = write_rows(tmp_path / "manifest.csv", rows)
    coding = Detection(("cell",)).coding
    return SimpleNamespace(cohorts=(Cohort.read(manifest, coding, preprocessing=Preprocessing(size=(20, 80))),))


def kept(out: Path, unit: str, *epochs: dict[str, Boxes], first: int = 3) -> None:
    """What a unit corrected, epoch by epoch, in pixels of the images."""
    names = list(epochs[0])
    xyxy = tuple(tuple(tuple(tuple(map(float, box)) for box in wide(each[name])) for name in names) for each in epochs)
    label = tuple(tuple((1,) * len(boxes) for boxes in images) for images in xyxy)
    cases = tuple(f"{name}.png" for name in names)
    shown = Relabelled(cases, tuple(range(first, first + len(epochs))), xyxy, label)
    tree.write_json(Store(out / "units" / unit).figures_file, {"relabelled": to_json(shown)})


def a_line(*units: str, errors: Sequence[str] = ()) -> Line:
    rows = [a_row(parse_recipe("supervised"), "t", seed, 0, unit) for seed, unit in enumerate(units)]
    runs = [Chosen(row, "corrected", {}, None) for row in rows]
    runs = [replace(run, error=error) for run, error in zip(runs, errors or [""] * len(runs), strict=True)]
    return Line("sissi", None, "t", tuple(runs), {}, {})


GOOD = {"a": [LEFT, RIGHT, BELOW, LEFT], "b": [CORNER], "c": [LEFT]}


def of_two_seeds(out: Path, world: Any) -> Correction:
    kept(out, "one", {"a": [LEFT], "b": [], "c": []}, GOOD)
    kept(out, "two", DRAWN["boxes"])
    (made,) = corrections(out, world, [a_line("one", "two"), a_line("none")])
    return made


def test_precision_and_recall_are_those_counted_by_hand(tmp_path: Path, world: Any) -> None:
    made = of_two_seeds(tmp_path, world)
    assert made.counts == {CAME: [4, 4], CORRECTED: [6, 4]}  # with the image that no reader has seen
    came, corrected = made.agreements["reader2"][CAME], made.agreements["reader2"][CORRECTED]
    assert came.values("precision") == pytest.approx([2 / 3, 2 / 3])
    assert came.values("recall") == pytest.approx([2 / 4, 2 / 4])
    assert corrected.values("precision") == pytest.approx([4 / 5, 2 / 3])  # the second box on one cell is wrong
    assert corrected.values("recall") == pytest.approx([4 / 4, 2 / 4])
    # both subjects, one of them twice, or the other
    assert corrected.intervals()["precision"] == pytest.approx((0.5, 0.875))  # (1 + 0) / 2 and (3/4 + 1) / 2
    assert corrected.intervals()["recall"] == pytest.approx((0.5, 5 / 6))
    third = made.agreements["reader3"]
    assert third[CAME].values("precision") == [0.5, 0.5]
    assert third[CORRECTED].values("precision") == [0.25, 0.5]
    assert third[CORRECTED].intervals() == {}  # of one subject


def test_the_curve_begins_with_the_boxes_that_came(tmp_path: Path, world: Any) -> None:
    shown = of_two_seeds(tmp_path, world).by_epoch
    assert shown is not None
    assert shown.x == (3, 4, 5)
    assert shown.y["precision, reader2"] == pytest.approx((2 / 3, 1, 4 / 5))
    assert shown.y["recall, reader2"] == pytest.approx((1 / 2, 1 / 4, 1))
    assert shown.y["recall, reader3"] == (1, 1, 1)


def test_table_and_file_have_both_kinds_of_boxes_and_no_case(tmp_path: Path, world: Any) -> None:
    made = of_two_seeds(tmp_path, world)
    sheet = correction_sheet([made])
    assert sheet is not None
    assert sheet.columns[:5] == ("recipe", "boxes", "number", "precision, reader2", "recall, reader2")
    assert sheet.rows[0][:5] == ("sissi", "that came", "4", *(f"{v} ± 0.000" + w for v, w in CAME_WORDS))
    assert sheet.rows[1][:4] == ("sissi", "corrected", "5", "0.733 ± 0.094 (0.500 to 0.875)")
    write_corrections(tmp_path, [made])
    text = (tmp_path / FILE).read_text()
    assert not any(name in text for name in (".png", "sa", "sb", "sc"))
    rows = {(row["reader"], row["boxes"]): row for row in csv.DictReader(text.splitlines())}
    assert len(rows) == 4
    row = rows["reader2", "corrected"]
    assert [row[key] for key in ("runs", "subjects", "images", "count", "reader_count", "paired")] == [
        *("2", "2", "2", "4.0", "4.0", "3.0")
    ]
    assert float(row["precision"]) == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert float(row["recall_high"]) == pytest.approx(5 / 6)
    assert rows["reader3", "that came"]["precision_low"] == ""


CAME_WORDS = (("0.667", " (0.000 to 1.000)"), ("0.500", " (0.000 to 0.667)"))


def test_without_true_boxes_the_table_counts_and_says_what_is_needed(tmp_path: Path, world: Any) -> None:
    kept(tmp_path, "one", {"c": [LEFT, RIGHT]})
    (made,) = corrections(tmp_path, world, [a_line("one")])
    sheet = correction_sheet([made])
    assert sheet is not None
    assert sheet.rows == (("sissi", "that came", "1"), ("sissi", "corrected", "2"))
    assert "boxes_reader2" in sheet.notes[0]
    assert made.by_epoch is None
    (tmp_path / FILE).write_text("of an earlier manifest")
    write_corrections(tmp_path, [made])
    assert not (tmp_path / FILE).exists()
    assert corrections(tmp_path, world, [a_line("none")]) == []
    assert correction_sheet([]) is None


def test_seeds_of_other_subjects_have_no_interval_and_failed_ones_do_not_count(tmp_path: Path, world: Any) -> None:
    kept(tmp_path, "one", {name: GOOD[name] for name in "ab"})
    kept(tmp_path, "two", {name: GOOD[name] for name in "a"})
    (both,) = corrections(tmp_path, world, [a_line("one", "two")])
    corrected = both.agreements["reader2"][CORRECTED]
    assert corrected.values("precision") == [0.8, 0.75]
    assert corrected.intervals() == {}
    (first,) = corrections(tmp_path, world, [a_line("one", "two", errors=("", "failed"))])
    assert first.agreements["reader2"][CORRECTED].values("precision") == [0.8]


def test_a_rate_that_nothing_defines_is_said(tmp_path: Path, world: Any) -> None:
    kept(tmp_path, "one", {"a": [], "b": []})
    (made,) = corrections(tmp_path, world, [a_line("one")])
    sheet = correction_sheet([made])
    assert sheet is not None
    assert sheet.rows[1][2:5] == ("0", "undefined", "0.000 (0.000 to 0.000)")


def test_epochs_that_kept_all_boxes_are_reported(tmp_path: Path, world: Any) -> None:
    for unit in ("one", "two", "three"):
        kept(tmp_path, unit, GOOD)
    line = a_line("one", "two", "three")
    facts: dict[str, dict[str, Any]] = {"one": {"kept_epochs": 2}, "two": {"kept_epochs": 0}, "three": {}}
    runs = [
        replace(run, tests={"t": (Record(unit, {}, 0, "corrected", 0, "t", "test", facts=each),)})
        for run, (unit, each) in zip(line.runs, facts.items(), strict=True)
    ]
    (made,) = corrections(tmp_path, world, [replace(line, runs=tuple(runs))])
    sheet = correction_sheet([made])
    assert sheet is not None
    assert sheet.notes[-1].startswith("sissi: in 1 of 3 runs nothing was detected in any image in some epochs (2 at")
    (never,) = corrections(tmp_path, world, [line])
    assert correction_sheet([never]).notes == correction_sheet([made]).notes[:-1]  # type: ignore[union-attr]
