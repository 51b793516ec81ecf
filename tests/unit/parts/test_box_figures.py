"""What is shown of a correction: counts worked out by hand, and frames where the boxes are."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import write_photographs, write_rows

from allograft.batch import Boxes
from allograft.cohort import Cohort
from allograft.grey import grey_of, plane
from allograft.parts.box_figures import boxes_of, change_figure, correction_images, outlined, relabelled, shared
from allograft.tasks.detection import Detection
from allograft.transforms.cloning import cloned


def boxes(*rows: list[float], label: int = 1) -> Boxes:
    return Boxes(torch.tensor(rows).reshape(-1, 4), torch.full((len(rows),), label))


A, NEAR_A, B, C = [0.0, 0, 10, 10], [0.0, 0, 10, 8], [20.0, 20, 30, 30], [40.0, 0, 50, 10]


def test_boxes_are_the_same_where_they_overlap_by_half_in_one_image_and_class() -> None:
    assert shared([boxes(A, B)], [boxes(NEAR_A, C)]) == 1  # 80 of 100 pixels
    assert shared([boxes(A)], [boxes([5.0, 0, 15, 10])]) == 0  # 50 of 150
    assert shared([boxes(A)], [boxes([0.0, 0, 10, 5])]) == 1  # 50 of 100: at least half
    assert shared([boxes(A)], [boxes(A, label=2)]) == 0
    assert shared([boxes(A), boxes()], [boxes(), boxes(A)]) == 0
    assert (shared([boxes(A, NEAR_A)], [boxes(A)]), shared([boxes(A)], [boxes(A, NEAR_A)])) == (2, 1)


def test_the_boxes_of_each_epoch_are_counted_beside_those_that_came_and_the_epoch_before() -> None:
    noisy = [boxes(A, B), boxes(C)]
    figure = change_figure(noisy, {3: [boxes(NEAR_A, C), boxes()], 4: [boxes(C), boxes(C)]})
    assert figure.x == (4.0, 5.0)
    assert dict(figure.y) == {
        "boxes": (2.0, 2.0),
        "of these, among those that came": (1.0, 1.0),
        "of these, there the epoch before": (1.0, 1.0),
    }
    doubled = change_figure([boxes(A)], {0: [boxes(A, NEAR_A)], 1: [boxes(A)]}, kept=1)
    assert dict(doubled.y)["of these, among those that came"] == (2.0, 1.0)
    assert dict(doubled.y)["of these, there the epoch before"] == (2.0, 1.0)
    assert doubled.title.endswith("it came with 1; 1 of 2 epochs detect nothing in any image and keep the boxes")
    assert "it came with 3" in figure.title
    assert "keep the boxes" not in figure.title


def test_frames_are_white_and_wide_enough_to_be_seen_when_shrunk() -> None:
    grey = np.zeros((224, 300), dtype=np.uint8)
    made = outlined(grey, boxes([10.4, 20, 60, 90], [250.0, 200, 320, 230]))
    assert not grey.any()
    assert (made[20:23, 10:60] == 255).all()  # 300 of 112 pixels: three
    assert (made[20:90, 57:60] == 255).all()
    assert not made[23:87, 13:57].any()
    assert made[221:, 250:].all()  # cut at the image's edge
    assert not made[:20].any()


@pytest.mark.parametrize(("background", "columns"), [("none", 2), ("weak", 3)])
def test_pictures_show_both_kinds_of_boxes_and_the_clone(tmp_path: Path, background: str, columns: int) -> None:
    manifest = write_photographs(tmp_path, {"b": 2}, size=(64, 64))
    rows = []
    for name in ("b0", "b1"):
        (tmp_path / f"{name}.json").write_text(json.dumps({"boxes": [[4, 4, 24, 24]], "labels": ["cell"]}))
        rows.append({"image": f"{name}.png", "boxes": f"{name}.json", "subject": name, "site": "b"})
    write_rows(manifest, rows)
    cohort = Cohort.read(manifest, Detection(("cell",)).coding)
    corrected = cohort.relabelled({case.name: boxes([30.0, 30, 60, 60], A) for case in cohort.cases[:1]})
    assert [len(each) for each in boxes_of([corrected])] == [2, 1]
    assert [len(each) for each in boxes_of([corrected, corrected])] == [2, 1, 2, 1]
    figure = correction_images([cohort], [corrected], background)
    assert [len(row) for row in figure.rows] == [columns, columns]
    assert figure.captions[0][:2] == ("boxes that came: 1", "corrected: 2")
    assert figure.subjects == (("b0",) * columns, ("b1",) * columns)
    came, now = (np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in figure.rows[0][:2])
    assert came[4, 4:24].min() == now[59, 30:60].min() == 252  # the whitest of 64 greys
    assert not (came == now).all()
    if columns == 3:
        after = boxes([30.0, 30, 60, 60], A)
        clone = grey_of(plane(cloned(cohort.case(0).image[0], after, background).numpy()))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(figure.rows[0][2])))), clone // 4 * 4)
        assert figure.captions[0][2] == "cloned onto weak blur"
    first = correction_images([cohort.site("b"), cohort], [corrected.site("b"), corrected], background, most=3)
    assert [row[0] for row in first.subjects] == ["b0", "b1", "b0"]


def test_kept_boxes_and_their_classes_are_those_of_their_epochs_and_of_the_images_of_every_cohort() -> None:
    cohorts: Any = [SimpleNamespace(cases=[SimpleNamespace(name=name)]) for name in ("a.png", "b.png")]
    corrected = {epoch: [boxes([float(epoch), 0, 9, 9], label=epoch), boxes()] for epoch in (4, 5, 6)}
    kept = relabelled(cohorts, corrected, most=2)
    assert (kept.cases, kept.epochs) == (("a.png", "b.png"), (4, 6))
    assert kept.xyxy == ((((4, 0, 9, 9),), ()), (((6, 0, 9, 9),), ()))
    assert kept.label == (((4,), ()), ((6,), ()))
