"""The page about augmentation has every range that the code draws from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from allograft.methods.bigaug import NINE, SMOOTHING, BigAug
from allograft.transforms.augmentation import RANGES

PAGE = Path(__file__).parents[3] / "docs" / "howto" / "augmentation.md"
ROWS = {
    # row of the page: (key of RANGES, key of NINE)
    "rotation in 2-D": ("angle_2d", "rotation"),
    "rotation in 3-D": ("angle_3d", "rotation"),
    "magnification": ("scale", "scale"),
    "mirroring": ("flip", None),
    "elastic deformation": (None, "deformation"),
    "Gaussian noise": ("noise_sd", "noise"),
    "Gaussian blur": ("blur_sigma", "blurriness"),
    "sharpening": (None, "sharpness"),
    "brightness": ("brightness", "brightness"),
    "contrast": ("contrast", "perturbation"),
    "gamma": ("gamma", "contrast"),
    "low resolution": ("zoom", None),
}


def cells() -> dict[str, list[str]]:
    """The first words of each row -> its other cells."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]
    return {row[0].partition(",")[0]: row[1:] for row in table}


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", cell)]


def test_every_transformation_has_one_row() -> None:
    assert list(cells()) == list(ROWS)
    assert {ours for ours, _ in ROWS.values() if ours} == set(RANGES["strong"])
    assert {theirs for _, theirs in ROWS.values() if theirs} == set(NINE)


@pytest.mark.parametrize("row", ROWS)
def test_the_columns_are_what_the_code_draws_from(row: str) -> None:
    ours, theirs = ROWS[row]
    strong, _, bigaug = cells()[row]
    drawn = RANGES["strong"].get(ours or "")
    if drawn is None:
        assert strong == "none"
    else:
        limits = [] if drawn.low == drawn.high else [drawn.low, drawn.high]
        assert numbers(strong) == [drawn.probability, *limits]
    if theirs is None:
        assert bigaug == "none"
        return
    low, high = NINE[theirs]
    more = {"deformation": [*SMOOTHING], "perturbation": [low, high]}.get(theirs, [])
    drawn_by_bigaug = numbers(bigaug.replace("1 + (", "("))
    assert drawn_by_bigaug == [BigAug().probability, low, high, *more]
