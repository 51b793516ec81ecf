"""Figures are kept as JSON and come back the same; images in them are small, and counted."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from allograft.errors import AllograftError, SpecError
from allograft.figure import TILE, Heatmap, Images, Lines, Points, Relabelled, from_json, thinned, to_json


@pytest.mark.parametrize(
    "figure",
    [
        Lines("loss", (1.0, 2.0), {"dice": (0.5, None)}, "step", "loss"),
        Heatmap("gates", ("encoder",), ("1", "2"), ((0.0, 1.0),), 0.0, 1.0),
        Points("features", (0.0, 1.0), (1.0, 0.0), ("source", "target"), (0.1, 0.2), "loss"),
        Points("images", (0.0, 1.0), (1.0, 0.0), ("source", "target"), (0, 1), "cluster"),
        Images(
            "examples",
            (("aa", "bb"), ("cc",)),
            ("one", "two"),
            (("x", ""), ("y",)),
            (("a1", "a2"), ("",)),
            "Nearest first.",
        ),
        Images("bare", (("aa",),)),
        Relabelled(("a.png", "b.png"), (3,), ((((0.0, 0.5, 2.0, 3.0),), ()),), (((1,), ()),)),
    ],
)
def test_a_round_trip_through_a_file(figure):
    assert from_json(json.loads(json.dumps(to_json(figure)))) == figure


@pytest.mark.parametrize("tree", [{}, {"kind": "pie"}, {"kind": "lines", "title": "x"}])
def test_something_else_is_refused(tree):
    with pytest.raises(AllograftError):
        from_json(tree)


def test_curves_of_many_steps_are_thinned_to_means_of_windows():
    line = thinned({"loss": [float(number) for number in range(1000)]}, "loss", most=100)
    assert len(line.x) == 100
    assert line.y["loss"][:2] == (4.5, 14.5)
    assert line.x[:2] == (5.5, 15.5)


def test_dots_of_an_earlier_version_that_number_images_are_read():
    kept = {**to_json(Points("images", (0.0,), (1.0,), ("source",), (0,), "cluster")), "numbers": [7]}
    assert from_json(kept) == Points("images", (0.0,), (1.0,), ("source",), (0,), "cluster")


def test_one_kind_alone_shows_images():
    shown = [Lines("l", (), {}, "x", "y"), Heatmap("h", (), (), ()), Points("p", (), (), ()), Images("i", ())]
    assert [figure.shows_images for figure in shown] == [False, False, False, True]


def _pixels(png: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_a_small_image_keeps_its_pixels_and_a_large_one_its_shape():
    small = np.arange(0, 252, 4, dtype=np.uint8).reshape(7, 9)
    wide = np.zeros((200, 400), np.uint8)
    wide[:, 200:] = 252
    ((kept, shrunk),) = Images.from_arrays("i", [[small, wide]]).rows
    assert np.array_equal(_pixels(kept), small)
    assert _pixels(shrunk).shape == (TILE // 2, TILE)
    assert _pixels(shrunk)[:, : TILE // 2 - 2].max() == 0
    assert _pixels(shrunk)[:, TILE // 2 + 2 :].min() == 252
    assert set(
        np.unique(_pixels(Images.from_arrays("i", [[np.arange(256, dtype=np.uint8)[None]]]).rows[0][0]) % 4)
    ) == {0}


def test_colours_stay_colours_in_a_palette():
    halves = np.zeros((40, 300, 3), np.uint8)
    halves[:, :150], halves[:, 150:] = (180, 30, 140), (60, 40, 200)
    ((shown,),) = Images.from_arrays("i", [[halves]]).rows
    canvas = Image.open(io.BytesIO(base64.b64decode(shown)))
    assert canvas.mode == "P"
    assert canvas.width == TILE
    made = np.asarray(canvas.convert("RGB"))
    assert np.abs(made[:, 2:50].astype(int) - (180, 30, 140)).max() < 8
    assert np.abs(made[:, 60:-2].astype(int) - (60, 40, 200)).max() < 8


@pytest.mark.parametrize("words", [{"names": ["a"]}, {"captions": [["x"], ["y"]]}, {"subjects": [["x", "y"]]}])
def test_words_that_are_not_as_many_as_the_images_are_refused(words):
    dot = np.zeros((2, 2), np.uint8)
    with pytest.raises(SpecError, match=f"images 'pairs'.*{next(iter(words))}"):
        Images.from_arrays("pairs", [[dot, dot], [dot]], **words)
