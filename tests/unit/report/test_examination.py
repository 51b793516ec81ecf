"""The doctor's page: images with outlines, plots of sizes, spacings and grey values, no script."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.report.test_browser import CHROMIUM, Browser

from allograft.cohort.doctor import examine
from allograft.cohort.manifest import read_manifest
from allograft.phantoms.brain import write_brain
from allograft.report.examination import write_examination
from allograft.report.overlay import class_colour
from allograft.report.spans import span_plot, spans
from allograft.report.thumbnails import EACH, thumbnails


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    return write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=5, size=32, dims=3)


@pytest.fixture(scope="module")
def page(manifest: Path) -> Path:
    path = manifest.parent / "doctor.html"
    write_examination(path, examine(manifest), manifest)
    return path


def test_it_shows_images_sizes_and_grey_values_and_nobody(page: Path, manifest: Path) -> None:
    html = page.read_text()
    assert html.count("<img") == 2 * EACH
    assert "<script" not in html
    assert all(source.startswith("data:image/png;base64,") for source in re.findall(r'src="([^"]*)', html))
    assert "mask value 1" in html
    for words in ("as stored", "after the preprocessing", "pixels along an axis", "mm between pixels"):
        assert words in html
    with manifest.open(newline="") as file:
        assert not any(row["image"] in html for row in csv.DictReader(file))
    with manifest.open(newline="") as file:
        subjects = {row["subject"] for row in csv.DictReader(file)}
    assert not any(subject in html for subject in subjects)


def test_the_same_cohort_gives_the_same_page(page: Path, manifest: Path) -> None:
    write_examination(manifest.parent / "again.html", examine(manifest), manifest)
    assert (manifest.parent / "again.html").read_bytes() == page.read_bytes()


def test_masks_are_outlined_in_the_colours_of_their_values(tmp_path: Path) -> None:
    image, mask = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    mask[8:24, 8:24], mask[40:56, 40:56] = 7, 255
    for name, array in (("image", image), ("mask", mask)):
        Image.fromarray(array).save(tmp_path / f"{name}.png")
    (tmp_path / "manifest.csv").write_text("image,mask,subject,site\nimage.png,mask.png,p,a\n")
    ((shown,),) = thumbnails(read_manifest(tmp_path / "manifest.csv"), [7, 255]).values()
    assert shown.caption == "row 2, S001"
    png = Image.open(io.BytesIO(base64.b64decode(shown.source.partition(",")[2]))).convert("RGB")
    pixels = np.asarray(png).astype(int)
    scale = len(pixels) // 64
    for place, index in ((8, 1), (40, 2)):
        colour = [int(class_colour(index)[at : at + 2], 16) for at in (1, 3, 5)]
        assert np.abs(pixels[place * scale, (place + 8) * scale] - colour).max() < 50
        assert np.abs(pixels[(place + 8) * scale, (place + 8) * scale] - colour).max() > 100  # inside it is faint


def test_what_cannot_be_drawn_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "manifest.csv").write_text("image,subject,site\nbroken.png,p,a\n")
    manifest = tmp_path / "manifest.csv"
    assert thumbnails(read_manifest(manifest), []) == {}
    write_examination(tmp_path / "doctor.html", examine(manifest), manifest)
    html = (tmp_path / "doctor.html").read_text()
    assert "<svg" not in html
    assert "stop: unreadable" in html


def test_a_row_for_each_site_and_each_axis_that_differs() -> None:
    rows = spans({"a": {"64 x 48 x 20": 3, "64 x 48 x 24": 1}, "b": {"0.5 x 0.5 x 3": 2}})
    assert rows == {
        "a, axis 1": Counter({64.0: 4}),
        "a, axis 2": Counter({48.0: 4}),
        "a, axis 3": Counter({20.0: 3, 24.0: 1}),
        "b, axis 1 and 2": Counter({0.5: 2}),
        "b, axis 3": Counter({3.0: 2}),
    }
    drawn = span_plot(rows, "pixels")
    assert drawn.count("<circle") == 6
    assert "24: 1 images" in drawn
    assert span_plot({}, "pixels") == ""


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH; install it, or name it in CHROMIUM")
@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_screens(page: Path, width: int, dark: bool, tmp_path: Path) -> None:
    browser = Browser.start(tmp_path)
    try:
        browser.open(page, width, dark=dark)
        assert browser.complaints == []
        assert browser.ask("document.documentElement.scrollWidth") <= width
        assert browser.ask("Array.from(document.images).every(image => image.naturalWidth > 0)")
    finally:
        browser.stop()
