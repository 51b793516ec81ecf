"""The manifest: what it says, and every way in which it is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from allograft.cohort import Case, read_manifest
from allograft.errors import ManifestError

HEADER = "image,mask,subject,site,split,age\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "root" / "data"
    root.mkdir(parents=True)
    for name in ("a.png", "b.png", "m.png", "r.png"):
        (root / name).write_bytes(b"x")
    (tmp_path / "root" / "outside.png").write_bytes(b"x")
    return root


def cases(folder: Path, text: str, encoding: str = "utf-8") -> tuple[Case, ...]:
    (folder / "manifest.csv").write_bytes(text.encode(encoding))
    return read_manifest(folder / "manifest.csv")


def test_a_row_becomes_a_case(folder: Path) -> None:
    one, two = cases(
        folder,
        "image,mask,label,region,subject,site,split,age\na.png; b.png,m.png,x|y,r.png,1,A,train,30\nb.png,,,,2,A,,\n",
    )
    assert one == Case(
        "a.png; b.png",
        "1",
        "A",
        (folder / "a.png", folder / "b.png"),
        {"mask": folder / "m.png", "label": "x|y"},
        folder / "r.png",
        "train",
        {"age": "30"},
    )
    assert two == Case("b.png", "2", "A", (folder / "b.png",))
    assert one.unlabelled().labels == {}


def test_csv_and_parquet_and_a_byte_order_mark_read_alike(folder: Path) -> None:
    text = HEADER + "a.png,m.png,01,A,train,30\nb.png,,02,A,,\n"
    plain = cases(folder, text)
    assert cases(folder, text, "utf-8-sig") == plain
    assert cases(folder, text.replace("\n", "\r\n")) == plain
    pd.read_csv(folder / "manifest.csv", dtype=str).to_parquet(folder / "manifest.parquet")
    assert read_manifest(folder / "manifest.parquet") == plain


def test_blanks_around_a_cell_of_parquet_are_none_of_its_text(folder: Path) -> None:
    frame = pd.DataFrame({"image": [" a.png"], "subject": ["1 "], "site": ["\tA"], "scanner": [" one two "]})
    frame.to_parquet(folder / "m.parquet")
    (case,) = read_manifest(folder / "m.parquet")
    assert (case.name, case.subject, case.site, case.attributes) == ("a.png", "1", "A", {"scanner": "one two"})


def test_whole_numbers_in_parquet_stay_whole(folder: Path) -> None:
    frame = pd.DataFrame(
        {"image": ["a.png", "b.png"], "subject": [1, 2], "site": ["A", "A"], "age": pd.array([30, None], dtype="Int64")}
    )
    frame.to_parquet(folder / "m.parquet")
    assert [(case.subject, case.attributes) for case in read_manifest(folder / "m.parquet")] == [
        ("1", {"age": "30"}),
        ("2", {}),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no rows"),
        (HEADER, "holds no rows"),
        ("image,subjct,site\na.png,1,A\n", r"column 'subject' is missing.*did you mean 'subjct'"),
        ("image,subject,site,site\na.png,1,A,B\n", "is in the header twice"),
        (HEADER + "a.png,,,A,,\n", "row 2: column 'subject' is empty"),
        (HEADER + "a.png,,1,A,,\n,,1,A,,\n", "row 3: column 'image' is empty"),
        (HEADER + "a.png,,1,A,,\na.png,,2,A,,\n", r"row 3: image 'a\.png' is in an earlier row"),
        (HEADER + "a.png,,1,A,tests,\n", "row 2: split is 'tests'; expected train, val, test"),
        (HEADER + "a.png,,1,A,train,\nb.png,,1,A,test,\n", "subject '1' is on two sides, train and test"),
        (HEADER + "a.png,,1,A,train,\nb.png,,1,B,test,\n", "subject '1' is on two sides"),
        (HEADER + "c.png,,1,A,,\n", r"row 2, image: no file 'c\.png'"),
        (HEADER + "a.png;c.png,,1,A,,\n", r"row 2, image: no file 'c\.png'"),
        (HEADER + "a.png,c.png,1,A,,\n", r"row 2, mask: no file 'c\.png'"),
        (HEADER + "../outside.png,,1,A,,\n", r"row 2, image: '\.\./outside\.png' leaves the data folder"),
        (HEADER + "a.png,../outside.png,1,A,,\n", "row 2, mask: .* leaves the data folder"),
        (HEADER + "/etc/hostname,,1,A,,\n", "row 2, image: .* leaves the data folder"),
        (HEADER + f"{'x' * 5000}.png,,1,A,,\n", "row 2, image: 'xxx.* is not a path"),
        (HEADER + "a.png,,1,A,,30,more\n", "row 2: has more cells than the header"),
    ],
)
def test_what_is_refused(text: str, told: str, folder: Path) -> None:
    with pytest.raises(ManifestError, match=told) as error:
        cases(folder, text)
    assert "manifest.csv" in str(error.value)


def test_files_that_are_no_manifest(folder: Path) -> None:
    with pytest.raises(ManifestError, match=r"absent.csv: no such manifest"):
        read_manifest(folder / "absent.csv")
    with pytest.raises(ManifestError, match="not a CSV file in UTF-8"):
        cases(folder, HEADER + "a.png,,é,A,,\n", "latin-1")
    (folder / "m.parquet").write_bytes(b"PAR1 but not really")
    with pytest.raises(ManifestError, match="not a Parquet file"):
        read_manifest(folder / "m.parquet")


def test_a_link_that_leaves_the_data_folder_is_refused_unless_the_root_is_moved_up(folder: Path) -> None:
    (folder / "link.png").symlink_to("../outside.png")
    with pytest.raises(ManifestError, match="leaves the data folder"):
        cases(folder, HEADER + "link.png,,1,A,,\n")
    (one,) = read_manifest(folder / "manifest.csv", root=folder.parent)
    assert one.image == (folder.parent / "outside.png",)
