"""Weak boxes from image processing: round things are found where they are."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from allograft.apply.box_labels import Method, find_boxes, label_boxes
from allograft.errors import ManifestError, SpecError

DISCS = [(30, 30, 10), (90, 40, 12), (60, 95, 9)]
"""x, y and radius."""


def _image(path: Path, discs: list[tuple[int, int, int]] = DISCS, dark: bool = True) -> Path:
    canvas = Image.new("L", (128, 128), 200 if dark else 40)
    pen = ImageDraw.Draw(canvas)
    for x, y, r in discs:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=60 if dark else 220)
    canvas.save(path)
    return path


@pytest.mark.parametrize("dark", [True, False])
@pytest.mark.parametrize("method", ["hough", "watershed", "edges"])
def test_discs_are_found(method: Method, dark: bool, tmp_path: Path) -> None:
    grey = np.asarray(Image.open(_image(tmp_path / "a.png", dark=dark)))
    found = find_boxes(grey, method, (5, 16))
    expected = sorted((x - r, y - r, x + r + 1, y + r + 1) for x, y, r in DISCS)
    assert len(found) == 3
    for box, wanted in zip(found, expected, strict=True):
        assert box == pytest.approx(wanted, abs=3)


def test_touching_discs_are_parted_and_radii_are_kept_to(tmp_path: Path) -> None:
    grey = np.asarray(Image.open(_image(tmp_path / "a.png", [(40, 60, 12), (62, 60, 12), (100, 20, 3)])))
    found = find_boxes(grey, "watershed", (6, 16))
    assert [box[0] for box in found] == pytest.approx([28, 51], abs=3)
    assert find_boxes(np.full((32, 32), 7, np.uint8), "watershed", (2, 8)) == []


def test_files_are_written_as_a_manifest_names_them(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    _image(folder / "one.png")
    _image(folder / "none.png", [])
    counts = label_boxes([folder], tmp_path / "weak", method="watershed", radius=(5, 16), name="rbc")
    assert sorted(counts.values()) == [0, 3]
    rows = list(csv.DictReader((tmp_path / "weak" / "boxes.csv").read_text().splitlines()))
    assert [row["count"] for row in rows] == ["0", "3"]
    written = json.loads((tmp_path / "weak" / rows[1]["boxes"]).read_text())
    assert written["labels"] == ["rbc"] * 3
    assert len(written["boxes"]) == 3


def test_bad_requests_are_named(tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png")
    with pytest.raises(SpecError, match="watershed"):
        label_boxes([image], tmp_path, method="watersheds", radius=(5, 9))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="radii from 9 to 5"):
        label_boxes([image], tmp_path, method="hough", radius=(9, 5))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no image"):
        label_boxes([tmp_path / "empty"], tmp_path, method="hough", radius=(5, 9))
    (tmp_path / "b").mkdir()
    twin = _image(tmp_path / "b" / "a.png")
    with pytest.raises(ManifestError, match="called a too"):
        label_boxes([image, twin], tmp_path / "out", method="hough", radius=(5, 9))


def test_radii_may_be_lengths(tmp_path: Path) -> None:
    image = _image(tmp_path / "a.png")
    found = [
        label_boxes([image], tmp_path / str(size), method="watershed", radius=(5 * size, 16 * size), pixel_size=size)
        for size in (1.0, 0.25)
    ]
    assert found[0] == found[1] == {str(image): 3}
    files = [(tmp_path / name / "boxes" / "a.json").read_text() for name in ("1.0", "0.25")]
    assert files[0] == files[1]
    with pytest.raises(SpecError, match="a pixel of 0; expected a length above 0"):
        label_boxes([image], tmp_path, method="hough", radius=(5, 16), pixel_size=0)
