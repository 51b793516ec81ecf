"""Surface Dice as a task's own metric: by hand, for missed classes, and refused where there are no
millimetres."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from allograft.apply.compare import compare
from allograft.apply.evaluate import evaluate, measuring
from allograft.errors import SpecError
from allograft.tasks.classification import Classification
from allograft.tasks.segmentation import Segmentation
from allograft.tree import plain

TASK = {"segmentation": {"classes": ["one", "two"], "surface_dice": 1.0}}
TWO_ROWS_OFF = (8 + math.sqrt(2)) / (12 + 2 * math.sqrt(2))
"""A square of 4 x 4 mm against itself two rows of 1 mm away, at 1 mm. Of its outline of 12 straight
elements of 1 mm and 4 corners of sqrt(2) / 2, near are three elements of each side, two of the inner
edge, and that edge's corners."""


def plane(path: Path, one: int | None, two: int | None, spacing: float = 1.0) -> None:
    """A plane with a square of each class, moved by so many rows; None = missed."""
    mask = np.zeros((16, 24, 1), np.uint8)
    for value, (shift, column) in enumerate(((one, 3), (two, 15)), 1):
        if shift is not None:
            mask[4 + shift : 8 + shift, column : column + 4] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(mask, np.diag([spacing, spacing, 5.0, 1.0])), path)


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    plane(tmp_path / "data" / "c.nii.gz", 0, 0)
    plane(tmp_path / "data" / "c_m.nii.gz", 0, 0)
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc.nii.gz,c_m.nii.gz,1,a\n")
    return tmp_path


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        (0, 0, 1.0),
        (1, 1, 1.0),  # a row of 1 mm is within the tolerance
        (2, 0, (TWO_ROWS_OFF + 1) / 2),
        (0, None, 0.5),  # a class that is missed has none of its surface found
        (2, None, TWO_ROWS_OFF / 2),
    ],
)
def test_by_hand(cohort: Path, one: int, two: int | None, expected: float) -> None:
    plane(cohort / "found" / "c.nii.gz", one, two)
    metrics = evaluate(cohort / "found", cohort / "data" / "manifest.csv", task=TASK).metrics["a"]
    assert metrics["surface_dice"] == pytest.approx(expected)
    assert metrics["surface_dice/two"] == (0.0 if two is None else 1.0)


def test_the_tolerance_is_in_mm(cohort: Path) -> None:
    plane(cohort / "found" / "c.nii.gz", 2, 0, 0.5)
    for name in ("c", "c_m"):
        plane(cohort / "data" / f"{name}.nii.gz", 0, 0, 0.5)
    manifest = cohort / "data" / "manifest.csv"
    for tolerance, expected in ((1.0, 1.0), (0.5, (TWO_ROWS_OFF + 1) / 2)):  # two rows of half a mm
        found = evaluate(cohort / "found", manifest, task=TASK, surface_dice=tolerance)
        assert found.metrics["a"]["surface_dice"] == pytest.approx(expected)


def test_it_is_absent_unless_it_is_asked_for(cohort: Path) -> None:
    plane(cohort / "found" / "c.nii.gz", 2, 0)
    task = {"segmentation": {"classes": ["one", "two"]}}
    assert not any(
        "surface" in key for key in evaluate(cohort / "found", cohort / "data" / "manifest.csv", task=task).metrics["a"]
    )


def test_two_are_compared_by_it(cohort: Path) -> None:
    plane(cohort / "A" / "c.nii.gz", 0, None)
    plane(cohort / "B" / "c.nii.gz", 2, 0)
    task = {"segmentation": {"classes": ["one", "two"]}}
    found = compare(cohort / "A", cohort / "B", cohort / "data" / "manifest.csv", task=task, surface_dice=1.0)
    one = next(one for one in found.differences if one.metric == "surface_dice")
    assert (one.a, one.b, one.is_lower_better) == (0.5, pytest.approx((TWO_ROWS_OFF + 1) / 2), False)


@pytest.mark.parametrize("tolerance", [0, -1.0, math.inf, math.nan])
def test_a_tolerance_that_is_none_is_refused(tolerance: float) -> None:
    with pytest.raises(SpecError, match=r"surface_dice is .*; expected a tolerance in mm above 0"):
        Segmentation(("one",), surface_dice=tolerance)


def test_pixels_without_mm_are_refused(tmp_path: Path) -> None:
    pixels = np.zeros((12, 12), np.uint8)
    pixels[3:8, 3:8] = 1
    for name in ("data/c", "data/c_m", "found/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc.png,c_m.png,1,a\n")
    task = {"segmentation": {"classes": ["one"]}}
    with pytest.raises(SpecError, match=r"c\.png: found pixels without a size in mm; .* leave surface_dice out"):
        evaluate(tmp_path / "found", tmp_path / "data" / "manifest.csv", task=task, surface_dice=1.0)


def test_a_task_without_masks_is_refused() -> None:
    with pytest.raises(SpecError, match="classification, which finds no masks"):
        measuring(Classification(("well", "sick")), surface_dice=1.0)


def test_it_says_how_to_judge_and_not_what_to_train() -> None:
    bare = Segmentation(("one",))
    asked = replace(bare, surface_dice=1.0)
    assert plain(asked) == plain(bare)  # what keys and cards are made of
    assert asked == bare
