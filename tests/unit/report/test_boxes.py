"""Boxes over their image: which are found, missed and false can be told by their colours."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from allograft.batch import Boxes
from allograft.report.boxes import draw_boxes
from allograft.report.overlay import AGREE, EXTRA, MISSED

TRUE = torch.tensor([[20.0, 30, 80, 60], [300, 200, 380, 290], [150, 30, 190, 60]])
FOUND = torch.tensor([[20.0, 34, 80, 64], [20, 30, 80, 60], [200, 100, 260, 180], [150, 30, 190, 60]])
SCORE, CLASSES = torch.tensor([0.4, 0.9, 0.8, 0.7]), torch.tensor([1, 1, 1, 2])


def colours(truth: Boxes | None) -> dict[tuple[int, int], str]:
    """Of (row, column), the colour that is nearest; the image is 300 x 400, drawn as it is."""
    png = draw_boxes(np.zeros((300, 400)), truth, Boxes(FOUND, CLASSES, SCORE))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert pixels.shape == (300, 400, 3)
    names = {"agree": AGREE, "missed": MISSED, "extra": EXTRA, "none": "#000000"}
    known = {name: [int(colour[at : at + 2], 16) for at in (1, 3, 5)] for name, colour in names.items()}
    places = [(45, 20), (64, 50), (63, 50), (140, 200), (250, 300), (45, 150), (45, 50), (200, 45)]
    return {at: min(known, key=lambda name: np.abs(pixels[at] - known[name]).max()) for at in places}


def test_the_surest_box_finds_and_another_class_does_not() -> None:
    told = colours(Boxes(TRUE, torch.tensor([1, 1, 1]), None))
    assert told[45, 20] == "agree"
    assert told[63, 50] == "extra"  # overlaps as well, and is less sure
    assert told[140, 200] == "extra"
    assert told[250, 300] == "missed"
    assert told[45, 150] == "extra"  # over the true one, which it does not find: another class
    assert told[64, 50] == told[45, 50] == told[200, 45] == "none"


def test_without_truth_all_that_is_found_is_orange() -> None:
    told = colours(None)
    assert [told[at] for at in ((45, 20), (63, 50), (140, 200), (45, 150))] == ["extra"] * 4
    assert told[250, 300] == "none"
