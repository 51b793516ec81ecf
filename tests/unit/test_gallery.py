"""The gallery of the documentation: its study is one, and its pictures are there and small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image, ImageDraw

from allograft.strict import parse_yaml
from allograft.study.reading import make_study

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "gallery.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def gallery() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gallery", DOCS / "gallery.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_part_of_the_report_has_its_picture_on_the_page(gallery: ModuleType) -> None:
    shown = re.findall(r"^!\[.{20,}\]\(pictures/([\w-]+)\.png\)$", PAGE, flags=re.M)
    assert shown == list(gallery.PARTS)
    assert {file.stem for file in (DOCS / "pictures").iterdir()} == set(shown)
    for name in shown:
        file = DOCS / "pictures" / f"{name}.png"
        assert file.stat().st_size < 150_000
        with Image.open(file) as picture:
            assert picture.width > 800


def test_its_study_is_one() -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.M | re.S)
    assert len(make_study(parse_yaml(text, "gallery")).rows) == 8


def test_a_long_page_is_cut_at_its_marks_and_trimmed(gallery: ModuleType) -> None:
    page = Image.new("RGB", (200, 300), "white")
    draw = ImageDraw.Draw(page)
    for top, size in ((40, 20), (180, 50)):
        draw.rectangle((60, top, 60 + size - 1, top + size - 1), fill="black")
    for mark in (100, 260):
        draw.rectangle((0, mark, 199, mark + 5), fill=gallery.MARK)
    assert [cut.size for cut in gallery.parts(page)] == [(20 + 24, 20 + 24), (50 + 24, 50 + 24)]
