"""Height and width of images that are not square: crops, tiles, donors and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.batch import Batch
from allograft.cohort.doctor import examine
from allograft.parts.donors import draw_donors
from allograft.phantoms.box_noise import BoxNoise
from allograft.transforms.sample import Sample, Tile, tiles

HEIGHT, WIDTH = 8, 15
PATCH = (4, 5)
NUMBERED = Batch(torch.arange(1.0, HEIGHT * WIDTH + 1).view(1, 1, HEIGHT, WIDTH), torch.zeros(1).long(), ("a",))


def corner(crop: torch.Tensor) -> tuple[int, int]:
    """The row and column of a crop's first pixel, once it is one of the numbered image."""
    row, column = divmod(int(crop[0, 0, 0, 0]) - 1, WIDTH)
    assert torch.equal(crop, NUMBERED.image[:, :, row : row + PATCH[0], column : column + PATCH[1]])
    return row, column


def test_a_crop_lies_anywhere_inside() -> None:
    rng = torch.Generator().manual_seed(0)
    seen = {corner(Sample(patch=PATCH)(NUMBERED, rng).image) for _ in range(500)}
    assert seen == {(row, column) for row in range(HEIGHT - 4 + 1) for column in range(WIDTH - 5 + 1)}


def test_tiles_cover_the_image_row_by_row() -> None:
    assert tiles((HEIGHT, WIDTH), PATCH) == [(row, column) for row in (1.5, 5.5) for column in (2.0, 7.0, 12.0)]
    rng = torch.Generator().manual_seed(0)
    cut = [corner(Tile(PATCH).of(NUMBERED, number, rng).image) for number in range(6)]
    assert cut == [(row, column) for row in (0, 4) for column in (0, 5, 10)]


def test_donors_have_the_size_of_the_first() -> None:
    class Two:
        """A high image and a wide one."""

        def __len__(self) -> int:
            return 2

        def unlabelled(self) -> Two:
            return self

        def case(self, number: int) -> Any:
            return SimpleNamespace(image=torch.rand(1, 1, *((4, 9), (6, 3))[number]), cases=(f"c{number}",))

    made = {tuple(draw_donors([Two()], 2, torch.Generator().manual_seed(n)).shape) for n in range(8)}  # type: ignore[list-item]
    assert made == {(2, 1, 4, 9), (2, 1, 6, 3)}


@pytest.mark.parametrize(("box", "leaves"), [([0, 0, 15, 8], False), ([0, 0, 8, 9], True)])
def test_the_doctor_knows_which_boxes_leave_an_image(box: list[int], leaves: bool, tmp_path: Path) -> None:
    Image.fromarray(np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)).save(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"boxes": [box], "labels": ["x"]}))
    found = examine(
        write_rows(tmp_path / "manifest.csv", [{"image": "a.png", "boxes": "a.json", "subject": "a", "site": "s"}])
    )
    assert ("geometry" in {finding.topic for finding in found.findings}) == leaves


def test_noise_of_boxes_stays_in_the_image_and_reaches_its_far_corner() -> None:
    boxes = [[1.0, 1.0, 4.0, 4.0]] * 50
    drawn = BoxNoise(drop=1.0, invent=1.0)(boxes, (HEIGHT, WIDTH), np.random.default_rng(0))
    assert len(drawn) == 50
    assert drawn.min() >= 0
    assert np.allclose(drawn[:, 2:].max(0), [WIDTH, HEIGHT], atol=0.5)
    pushed = BoxNoise(jitter=5.0)(boxes, (HEIGHT, WIDTH), np.random.default_rng(0))
    assert pushed.max(0)[2:].tolist() == [WIDTH, HEIGHT]
