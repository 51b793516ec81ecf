"""The sheet of patches: which one is framed in green, how many photographs, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from allograft.apply.skin_sheet import CHOSEN, COLUMNS, GAP, MOST, OTHER, pair, write_sheet
from allograft.cli.cohorts import skin_tone
from allograft.errors import SpecError
from allograft.transforms.skin_tone import PATCHES, SIDE, SIZE, SkinTone, estimate_skin_tone

DARK, LIGHT = (160, 110, 85), (225, 175, 140)


def photograph(lightest: int) -> NDArray[np.uint8]:
    """Skin that is lighter where one patch lies."""
    image = np.full((SIZE, SIZE, 3), DARK, np.uint8)
    row, column = PATCHES[lightest]
    image[row : row + SIDE, column : column + SIDE] = LIGHT
    return image


@pytest.mark.parametrize("lightest", range(len(PATCHES)))
def test_the_patch_that_the_tone_is_of_is_framed_in_green(lightest: int) -> None:
    image = photograph(lightest)
    chosen = estimate_skin_tone(image).patch
    assert chosen == lightest
    drawn = pair(image, chosen)
    assert drawn.shape == (SIZE + GAP, 2 * (SIZE + GAP), 3)
    assert np.array_equal(drawn[:SIZE, :SIZE], image)
    right = drawn[:SIZE, SIZE + GAP : -GAP]
    for number, (row, column) in enumerate(PATCHES):
        frame = CHOSEN if number == lightest else OTHER
        assert tuple(right[row - 1, column + SIDE // 2]) == tuple(right[row + SIDE // 2, column - 1]) == frame
        inside = right[row : row + SIDE, column : column + SIDE]
        assert np.array_equal(inside, image[row : row + SIDE, column : column + SIDE])


def test_the_command_draws_the_first_photographs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(MOST + 2):
        Image.fromarray(photograph(number % 8)).save(folder / f"{number:02}.png")
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(folder / "000-grey.png")  # has no patch
    skin_tone([folder], tmp_path / "tones.csv", sheet=tmp_path / "sheet.png")
    assert f"{MOST} photographs with their patches in {tmp_path / 'sheet.png'}" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (COLUMNS * 2 * (SIZE + GAP), MOST // COLUMNS * (SIZE + GAP))


def test_a_row_that_is_not_full_ends_in_white(tmp_path: Path) -> None:
    Image.fromarray(photograph(0)).save(tmp_path / "one.png")
    assert write_sheet({str(tmp_path / "one.png"): SkinTone(30.0, 3, 0)}, tmp_path / "sheet.png") == 1
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.asarray(sheet.convert("RGB"))[:, 2 * (SIZE + GAP) :].min() >= 250


def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "grey.png")
    for arguments, said in (
        ({"sheet": tmp_path / "sheet.jpg"}, "the sheet is written as PNG, found '.jpg'; expected sheet.png"),
        ({"sheet": tmp_path / "sheet.png", "skin": "ycbcr"}, "sheet: skin is ycbcr, which looks at no patches"),
    ):
        with pytest.raises(SpecError, match=said):
            skin_tone([tmp_path / "grey.png"], tmp_path / "tones.csv", **arguments)  # type: ignore[arg-type]
        assert not (tmp_path / "tones.csv").exists()
    with pytest.raises(SpecError, match="no photograph has a patch to draw"):
        write_sheet({"grey.png": SkinTone(float("nan"), None, None)}, tmp_path / "sheet.png")
