"""Examples of matched clusters: which images they are, how they are cut, and that what is kept beside a unit names and shows nobody."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import read, write_photographs, write_volumes

from allograft.cohort import Cohort, Slices
from allograft.context import Store
from allograft.figure import Points
from allograft.report.gallery import MATCHED
from allograft.report.overlay import grey_of, plane, window_of
from allograft.report.thumbnails import COLUMNS, GAP, SIDE, sheet, small
from allograft.run.matched import PAIRS, nearest
from allograft.studies import rebuild, run_study
from allograft.study import matched


def _places(cohort: Cohort) -> list[tuple[Cohort, int]]:
    return [(cohort, index) for index in range(len(cohort))]


def _pixels(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("L"))


def test_the_middle_comes_first_and_every_subject_before_a_second_of_any(tmp_path: Path) -> None:
    places = _places(read(write_photographs(tmp_path, {"a": 3}, per_subject=3)))  # 0 to 2 are of the first subject
    x = (0.0, 1.0, 5.0, -2.0, 90.0, -4.0)
    figure = Points("p", x, (0.0,) * 6, ("source",) * 4 + ("target", "source"), (0,) * 5 + (0,), numbers=(0, 1, 2, 4, 3, 7))
    assert [index for _, index in nearest(figure, "source", 0, places)] == [0, 4, 7, 1]  # the middle is 0, number 2 is one too many
    assert [index for _, index in nearest(figure, "target", 0, places)] == [3]
    assert nearest(replace(figure, numbers=(8, 1, 2, 4, 3, 7)), "source", 0, places)[0] == places[8]


def test_the_largest_pairs_are_shown_and_counted(tmp_path: Path) -> None:
    places = _places(read(write_photographs(tmp_path, {"a": 16})))
    sizes = [1, 3, 2, 1, 4]  # of the source; a single target image each
    colours = tuple(colour for colour, size in enumerate(sizes) for _ in range(size)) + tuple(range(5))
    groups = ("source",) * sum(sizes) + ("target",) * 5
    numbers = (*range(sum(sizes)), *range(11, 16))
    figure = Points("p", tuple(map(float, range(len(groups)))), (0.0,) * len(groups), groups, colours, "cluster", numbers)
    made = matched._pairs("aiva", figure, {"source": places, "target": places})
    assert [picture.title for picture in made] == [f"aiva, cluster {colour}" for colour in (4, 1, 2, 0)]
    assert len(made) == PAIRS
    assert made[0].caption == "of 4 source and 1 target images"
    pixels = _pixels(made[2].png)
    above, below = pixels[:SIDE], pixels[SIDE + GAP :]
    filled = [[bool(row[:, n * (SIDE + GAP) :][:, :SIDE].any()) for n in range(COLUMNS)] for row in (above, below)]
    assert filled == [[True, True, False, False], [True, False, False, False]]
    lone = np.asarray(Image.fromarray(small(places[13])).resize((SIDE, SIDE), Image.Resampling.BICUBIC))  # cluster 2's target image
    assert np.abs(below[:, :SIDE].astype(int) - lone).max() < 4


def test_a_slice_looks_as_it_does_in_its_volume(tmp_path: Path) -> None:
    manifest = write_volumes(tmp_path, [(5, 4, 3)])
    whole = read(manifest)
    volume = whole.case(0).image[0].numpy()
    for axis in range(3):
        for neighbours in (0, 1):
            places = _places(read(manifest, slices=Slices(axis, neighbours)))
            upright = [grey_of(plane(np.moveaxis(volume, 1 + axis, -1), n), window_of(volume)) for n in range(len(places))]
            assert len(places) == volume.shape[1 + axis]
            assert all(np.array_equal(small(place), expected) for place, expected in zip(places, upright, strict=True))
    assert small((whole, 0)).shape == (4, 5)
    assert np.array_equal(small((whole, 0)), small(_places(read(manifest, slices=Slices(2)))[1]))  # the middle one


def test_an_empty_slice_is_as_dark_as_in_its_volume() -> None:
    rng = np.random.default_rng(0)

    class Shelf:
        def image(self, case: Any) -> tuple[NDArray[np.float32], None]:
            return np.concatenate([rng.uniform(0, 0.01, (1, 8, 8, 1)), rng.uniform(0, 1, (1, 8, 8, 3))], -1).astype(np.float32), None

    class Sliced:
        slices, shelf, cases, items = Slices(2), Shelf(), ("x",), ((0, 0),)

        def case(self, index: int) -> Any:
            import torch

            image = torch.from_numpy(self.shelf.image("x")[0][None, ..., 0])
            return type("Batch", (), {"image": image})

    assert small((Sliced(), 0)).max() < 10  # type: ignore[arg-type]


def test_images_keep_their_shape_and_stand_in_rows() -> None:
    wide, tall = np.full((10, 20), 200, np.uint8), np.full((20, 10), 100, np.uint8)
    pixels = _pixels(sheet([[wide, tall], [tall]]))
    assert pixels.shape == (2 * SIDE + GAP, COLUMNS * SIDE + (COLUMNS - 1) * GAP)
    assert pixels[SIDE // 2, 2] == 200
    assert pixels[2, SIDE // 2] == 0  # above and below what is wide
    assert pixels[2, SIDE + GAP + SIDE // 2] == 100
    assert pixels[SIDE // 2, SIDE + GAP + 2] == 0
    assert pixels[SIDE + GAP + 2, SIDE // 2] == 100


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("matched")
    recipe = {"aiva": {"rounds": 1, "clusters": 2, "first": "start"}}
    study = session_of(write_cohort(folder / "cohort"), folder / "out", recipe, recipes=[recipe, "finetune"]).study
    assert not run_study(study, folder / "out", say=lambda line: None).failed
    return folder / "out"


def test_the_report_shows_them_and_the_unit_keeps_numbers_alone(made: Path) -> None:
    html = (made / "report.html").read_text(encoding="utf-8")
    (section,) = re.findall(rf"<h3>{MATCHED}</h3>.*?(?=<h3>)", html, re.DOTALL)
    assert section.count("<figure>") == 2
    assert re.search(r"<strong>aiva clusters=2 rounds=1 first=start, cluster \d</strong> of \d source and \d target images", section)
    for source in re.findall(r'src="data:image/png;base64,([^"]+)"', section):
        assert _pixels(base64.b64decode(source)).shape == (2 * SIDE + GAP, COLUMNS * SIDE + (COLUMNS - 1) * GAP)
    (kept,) = [path for path in made.glob("units/*/figures.json") if "clusters-before" in path.read_text()]
    assert ".png" not in kept.read_text()
    figures: Any = Store(kept.parent).figures()
    assert sorted(figures["clusters-before"].numbers) == sorted([*range(5), *range(7)])
    assert figures["clusters-after"].numbers == ()


def test_a_report_without_pictures_or_without_clusters_has_no_such_section(made: Path, tmp_path: Path) -> None:
    (kept,) = [path for path in made.glob("units/*/figures.json") if "clusters-before" in path.read_text()]
    told = kept.read_text()
    try:
        kept.write_text(re.sub(r'"numbers": \[[\d, \s]+\]', '"numbers": []', told))
        assert Store(kept.parent).figures()["clusters-before"].numbers == ()  # type: ignore[union-attr]
        rebuild(made)
        without = (made / "report.html").read_text(encoding="utf-8")
        assert MATCHED not in without
        assert "<img" in without
    finally:
        kept.write_text(told)
    rebuild(made, pictures=False)
    assert MATCHED not in (made / "report.html").read_text(encoding="utf-8")
