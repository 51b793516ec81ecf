"""Manifests in which one thing is written in two ways, or a table that a spreadsheet wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from allograft.cohort.manifest import read_manifest
from allograft.errors import ImageError, ManifestError

HEAD = "image,subject,site\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate("ab"):
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def rows(folder: Path, text: str) -> list[tuple[str, str, str]]:
    (folder / "m.csv").write_text(text, encoding="utf-8")
    return [(case.name, case.subject, case.site) for case in read_manifest(folder / "m.csv")]


@pytest.mark.parametrize("again", ["./a.png", "x/../a.png", "link.png"])
def test_one_file_under_two_names_is_one_image(folder: Path, again: str) -> None:
    (folder / "link.png").symlink_to("a.png")
    with pytest.raises(ManifestError, match=r"row 3: image '.*' is in an earlier row too"):
        rows(folder, f"{HEAD}a.png,1,A\n{again},2,B\n")


@pytest.mark.parametrize(
    ("first", "second"), [("Jos\u00e9", "Jose\u0301"), ("\u00c5", "A\u030a"), ("\u00c5", "\u212b")]
)
@pytest.mark.parametrize("column", ["subject", "site"])
def test_names_that_look_alike_are_one_name(folder: Path, column: str, first: str, second: str) -> None:
    one, other = (f"{name},A" if column == "subject" else f"1,{name}" for name in (first, second))
    with pytest.raises(ManifestError, match=f"{column} '.*' is written in two ways that look alike"):
        rows(folder, f"{HEAD}a.png,{one}\nb.png,{other}\n")
    assert len(rows(folder, f"{HEAD}a.png,{one}\nb.png,{one}\n")) == 2


@pytest.mark.parametrize("hidden", ["\u200b", "\u200e", "\x00", "\ufeff", "\u00ad"])
def test_a_character_that_nobody_sees_makes_no_second_patient(folder: Path, hidden: str) -> None:
    with pytest.raises(ManifestError, match=r"row 2: subject .* holds an invisible character"):
        rows(folder, f"{HEAD}a.png,1{hidden}1,A\n")


def test_an_empty_channel_is_refused(folder: Path) -> None:
    for image in ("a.png;", ";a.png", "a.png;;b.png"):
        with pytest.raises(ManifestError, match="has an empty part"):
            rows(folder, f"{HEAD}{image},1,A\n")


def test_formulas_by_which_excel_keeps_zeros_are_their_text(folder: Path) -> None:
    assert rows(folder, f'{HEAD}a.png,"=""007""",A\nb.png,8,A\n') == [("a.png", "007", "A"), ("b.png", "8", "A")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('"image";"subject";"site"\n"a.png";"1";"A"\n', "semicolons separate the columns"),
        (f"sep=,\n{HEAD}a.png,1,A\n", "the header is 'sep=,'"),
        (f"# mine\n{HEAD}a.png,1,A\n", "the header is '# mine'"),
    ],
)
def test_what_stands_above_the_columns_is_shown(folder: Path, text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        rows(folder, text)


def test_the_advice_on_nan_can_be_followed(tmp_path: Path) -> None:
    """A study's setting is of images: of a mask the file itself has to be changed."""
    from allograft.cohort.readers import read_image, read_mask

    np.save(tmp_path / "a.npy", np.array([[1, np.nan]], np.float32))
    with pytest.raises(ImageError, match=r"store 0 in its place, else export it again$"):
        read_mask(tmp_path / "a.npy")
    with pytest.raises(ImageError, match=r"store 0 in its place, or train with preprocessing: \{nan: 0\}"):
        read_image([tmp_path / "a.npy"])


@pytest.mark.parametrize(
    ("first", "second"),
    [("P01,A", "p01,A"), ("P 01,A", "P  01,A"), ("7,A", "007,A"), ("7,A", "7.0,A"), ("1,Rome", "2,rome")],
)
def test_two_spellings_of_one_name_are_refused(folder: Path, first: str, second: str) -> None:
    with pytest.raises(ManifestError, match="written in two ways that look alike"):
        rows(folder, f"{HEAD}a.png,{first}\nb.png,{second}\n")


def test_patients_of_two_sites_may_count_alike(folder: Path) -> None:
    assert len(rows(folder, f"{HEAD}a.png,007,A\nb.png,7,B\n")) == 2


@pytest.mark.parametrize("column", ["mask", "boxes", "paired"])
def test_an_image_is_not_its_own_label(folder: Path, column: str) -> None:
    with pytest.raises(ManifestError, match=rf"'a\.png' is the image and its {column}"):
        rows(folder, f"image,{column},subject,site\na.png,a.png,1,A\n")


def test_rows_without_any_cell_are_left_out_wherever_they_are(folder: Path) -> None:
    assert len(rows(folder, f"\n,,\n{HEAD}a.png,1,A\n,,\nb.png,2,A\n,,\n")) == 2
