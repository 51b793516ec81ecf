"""Skin tones as a table."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allograft.apply.skin_tones import label_skin_tones
from allograft.cli.cohorts import skin_tone
from allograft.errors import ImageError, ManifestError, SpecError

TONES = {"fair": (240, 205, 180), "tan": (200, 150, 115), "dark": (110, 75, 50)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "images"
    images.mkdir()
    for name, colour in TONES.items():
        Image.fromarray(np.full((64, 64, 3), colour, dtype=np.uint8)).save(images / f"{name}.png")
    Image.fromarray(np.full((64, 64), 90, dtype=np.uint8)).save(images / "grey.png")
    (images / "torn.png").write_bytes(b"\x89PNG\r\n")
    (images / "notes.txt").write_text("no image")
    return images


def rows(path: Path) -> dict[str, dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return {Path(row["image"]).stem: row for row in csv.DictReader(file)}


def test_one_row_an_image_and_reasons_where_unknown(folder: Path, tmp_path: Path) -> None:
    done = label_skin_tones([folder], tmp_path / "tones.csv")
    table = rows(tmp_path / "tones.csv")
    assert list(table) == ["dark", "fair", "grey", "tan", "torn"]
    assert list(table["dark"]) == ["image", "angle", "type", "patch", "note"]
    assert [table[name]["type"] for name in ("fair", "tan", "dark")] == ["1", "3", "6"]
    assert table["fair"]["patch"] == "230:115"
    assert table["grey"]["type"] == table["torn"]["type"] == "unknown"
    assert table["grey"]["angle"] == ""
    assert "colours" in table["grey"]["note"]
    assert "torn.png" in table["torn"]["note"]
    assert done.unknown == 2
    assert done.within_one is None


def test_all_pixels_of_skin_colour_are_measured_where_asked(folder: Path, tmp_path: Path) -> None:
    """Of all pixels there is no patch to name."""
    label_skin_tones([folder], tmp_path / "tones.csv", skin="ycbcr")
    table = rows(tmp_path / "tones.csv")
    assert (table["fair"]["type"], table["fair"]["patch"]) == ("1", "")


def test_an_image_smaller_than_a_patch_is_unknown(tmp_path: Path) -> None:
    Image.fromarray(np.full((12, 40, 3), TONES["fair"], dtype=np.uint8)).save(tmp_path / "small.png")
    assert label_skin_tones([tmp_path / "small.png"], tmp_path / "tones.csv").unknown == 1
    row = rows(tmp_path / "tones.csv")["small"]
    assert (row["type"], row["note"]) == ("unknown", "the image is smaller than a patch of 20 x 20 pixels")


def test_agreement_with_people_and_thresholds_fitted_to_them(folder: Path, tmp_path: Path) -> None:
    human = tmp_path / "human.csv"
    human.write_text("image,type\nfair.png,1\ntan.png,1\ndark.png,5\ngrey.png,3\n")
    out = tmp_path / "tones.csv"
    done = label_skin_tones([folder], out, human=human)
    assert done.within_one == pytest.approx(2 / 3)
    assert (done.judged, done.named, len(done.tones)) == (
        3,
        4,
        5,
    )  # grey has a human type, and no tone to compare it with
    fitted = label_skin_tones([folder], out, human=human, thresholds="calibrate")
    assert fitted.within_one == 1
    assert [rows(out)[name]["type"] for name in ("fair", "tan", "dark")] == ["1", "1", "5"]


def test_what_cannot_be_done_is_said(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tones.csv"
    with pytest.raises(ImageError, match="no such file"):
        label_skin_tones([folder / "absent.png"], out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no photograph"):
        label_skin_tones([tmp_path / "empty"], out)
    with pytest.raises(SpecError, match="human types"):
        label_skin_tones([folder], out, thresholds="calibrate")
    human = tmp_path / "human.csv"
    human.write_text("image,kind\nfair.png,1\n")
    with pytest.raises(ManifestError, match="columns image and type"):
        label_skin_tones([folder], out, human=human)
    human.write_text("image,type\nother.png,1\n")
    with pytest.raises(ManifestError, match="no row with a type names any of 5 images"):
        label_skin_tones([folder], out, human=human)
    human.write_text("image,type\ngrey.png,1\n")
    with pytest.raises(ManifestError, match=r"the tone of every image with a type \(1\) is unknown"):
        label_skin_tones([folder], out, human=human)
    human.write_text("image,type\nfair.png,2\ntan.png,2\ngrey.png,5\n")
    with pytest.raises(SpecError, match=r"found type 2 alone, on 2 image\(s\).*expected at least two types"):
        label_skin_tones([folder], out, human=human, thresholds="calibrate")
    with pytest.raises(SpecError, match=r"tones.xlsx.*found '.xlsx'; expected tones.csv"):
        label_skin_tones([folder], tmp_path / "tones.xlsx")
    assert not out.exists()
    assert not (tmp_path / "tones.xlsx").exists()


def test_human_types_are_read_as_pandas_writes_them(folder: Path, tmp_path: Path) -> None:
    """A column with a gap is one of floats; what says that nothing is known does not count."""
    human = tmp_path / "human.csv"
    human.write_text("image,type\nfair.png,1.0\ntan.png,nan\ndark.png,\ngrey.png,unknown\n")
    done = label_skin_tones([folder], tmp_path / "tones.csv", human=human)
    assert (done.within_one, done.judged, done.named) == (1.0, 1, 1)


def test_the_command_says_on_how_many_images_people_agree(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    human = tmp_path / "human.csv"
    human.write_text("image,type\nfair.png,1\ngrey.png,2\n")
    skin_tone([folder], tmp_path / "tones.csv", human=human)
    assert (
        "within one type of the human labels: 100.0% of 1 of 5 images, 1 of unknown tone left out"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize("word", ["9", "0", "-1", "2.5", "inf", "light"])
def test_a_type_that_is_none_is_refused(word: str, folder: Path, tmp_path: Path) -> None:
    human = tmp_path / "human.csv"
    human.write_text(f"image,type\nfair.png,1\ntan.png,{word}\n")
    with pytest.raises(
        ManifestError, match=rf"human.csv: row 3 \(tan.png\): type is '{word}'; expected a Fitzpatrick type from 1 to 6"
    ):
        label_skin_tones([folder], tmp_path / "tones.csv", human=human)


def test_a_dark_lesion_over_all_borders_is_noted_in_the_table_and_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photographs").mkdir()
    Image.fromarray(np.full((256, 256, 3), (70, 40, 35), np.uint8)).save(tmp_path / "photographs" / "covered.png")
    skin_tone([tmp_path / "photographs"], tmp_path / "tones.csv")
    (row,) = rows(tmp_path / "tones.csv").values()
    assert row["type"] == "6"
    assert "may be a lesion over all borders" in row["note"]
    assert "1 of the darkest type may be lesions over all borders" in capsys.readouterr().out
