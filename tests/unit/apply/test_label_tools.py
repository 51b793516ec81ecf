"""The tools that label images, where a picture is not square, not grey or not named as expected: what they
find, which files they look at, and whose words they read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from allograft.apply.box_labels import find_boxes, label_boxes
from allograft.apply.skin_sheet import pair
from allograft.apply.skin_tones import label_skin_tones
from allograft.transforms.skin_tone import PATCHES, SIDE, SIZE

SKIN = (240, 205, 180)
GAP = 6


def discs(*places: tuple[int, int, int], size: tuple[int, int] = (128, 64)) -> np.ndarray:
    """Dark discs, x, y and radius, on a plane of so many columns and rows."""
    canvas = Image.new("L", size, 200)
    pen = ImageDraw.Draw(canvas)
    for x, y, r in places:
        pen.ellipse((x - r, y - r, x + r, y + r), fill=60)
    return np.asarray(canvas)


def test_a_circle_over_the_border_ends_at_the_border_of_its_own_axis() -> None:
    (box,) = find_boxes(discs((114, 30, 14)), "hough", (6, 18))
    assert box == pytest.approx((100, 16, 128, 44), abs=2)
    (box,) = find_boxes(discs((30, 114, 14), size=(64, 128)), "hough", (6, 18))
    assert box == pytest.approx((16, 100, 44, 128), abs=2)


def test_circles_that_are_closer_than_the_largest_diameter_are_two() -> None:
    assert len(find_boxes(discs((40, 30, 9), (66, 30, 9)), "hough", (6, 20))) == 2


@pytest.mark.parametrize("method", ["hough", "watershed", "edges"])
def test_nothing_larger_than_the_largest_radius_is_found(method: str) -> None:
    found = find_boxes(discs((100, 100, 50), (230, 60, 9), size=(256, 200)), method, (5, 14))  # type: ignore[arg-type]
    assert found
    assert all(max(x1 - x0, y1 - y0) <= 2 * 14 + 1 for x0, y0, x1, y1 in found)


def test_all_colours_count_and_hidden_files_do_not(tmp_path: Path) -> None:
    colours = np.full((64, 128, 3), 200, np.uint8)
    colours[..., 2] = discs((40, 30, 10))  # blue alone
    Image.fromarray(colours).save(tmp_path / "BLUE.PNG")
    Image.fromarray(colours).save(tmp_path / ".hidden.png")
    counts = label_boxes([tmp_path], tmp_path / "weak", method="watershed", radius=(5, 16))
    assert counts == {str(tmp_path / "BLUE.PNG"): 1}


def test_people_s_types_are_found_by_the_path_in_the_table_and_in_the_column_that_is_named(tmp_path: Path) -> None:
    """Two images of one name: only the path tells them apart."""
    for name, colour in (("a", SKIN), ("b", (110, 75, 50))):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((64, 64, 3), colour, np.uint8)).save(tmp_path / name / "one.png")
    human = tmp_path / "human.csv"
    paths = [(tmp_path / name / "one.png").as_posix() for name in "ab"]
    human.write_text(f"image,type,fitzpatrick\n{paths[0]},6,1\n{paths[1]},1,6\n")
    found = [label_skin_tones([tmp_path / "a", tmp_path / "b"], tmp_path / "tones.csv", human=human, column=column)
             for column in ("type", "fitzpatrick")]  # fmt: skip
    assert [each.within_one for each in found] == [0.0, 1.0]


def test_a_volume_of_three_channels_is_no_photograph(tmp_path: Path) -> None:
    np.save(tmp_path / "volume.npy", np.zeros((3, 32, 32, 32), np.uint8))
    (tone,) = label_skin_tones([tmp_path / "volume.npy"], tmp_path / "tones.csv").tones.values()
    assert tone.type is None
    assert "expected colours" in tone.note


def test_hair_is_removed_where_the_patches_are_drawn_and_nowhere_else() -> None:
    image = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    row, column = PATCHES[0]
    image[row + SIDE // 2] = 20  # a hair through the patch
    drawn = pair(image, 0)
    left, right = drawn[:SIZE, :SIZE], drawn[:SIZE, SIZE + GAP : -GAP]
    place = row + SIDE // 2, column + SIDE // 2
    assert left[place].max() == 20
    assert right[place].min() > 100
