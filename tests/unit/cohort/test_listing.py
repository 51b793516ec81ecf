"""What a folder holds: every series as one image, at any depth, whatever its files are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.uid import MRImageStorage, RTStructureSetStorage
from tests.unit.cohort.test_dicom import OTHER, dicom, place, values

from allograft.cohort import Case, Coding, Preprocessing
from allograft.cohort.prepared_images import PreparedImages, file_hash
from allograft.cohort.readers import Series, read_image
from allograft.cohort.readers.listing import images_below


def write_series(folder: Path, uid: str, count: int = 3, name: str = "IM{:04d}", **tags: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        dicom(
            folder / name.format(index),
            values(index),
            SOPClassUID=MRImageStorage,
            SeriesInstanceUID=uid,
            **place(2.5 * index),
            **tags,
        )


@pytest.mark.parametrize("ending", ["", ".dcm", ".DCM", ".ima", ".12"])
def test_series_are_images_with_or_without_suffix(tmp_path: Path, ending: str) -> None:
    write_series(tmp_path / "p1" / "se1", "1.2.1", name="IM{:04d}" + ending)
    write_series(tmp_path / "p2" / "a" / "b", "1.2.2", 4, name="IM{:04d}.dcm")
    found = dict(images_below(tmp_path))
    assert list(found) == ["p1/se1", "p2/a/b"]
    assert [read_image([image]).spatial for image in found.values()] == [(6, 4, 3), (6, 4, 4)]


def test_two_series_in_one_folder_are_two_images(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1", name="A{}")
    write_series(tmp_path / "p1", "1.2.2", 4, name="B{}.dcm")
    found = dict(images_below(tmp_path))
    assert list(found) == ["p1/A0", "p1/B0.dcm"]
    assert [read_image([image]).spatial for image in found.values()] == [(6, 4, 3), (6, 4, 4)]
    assert file_hash(found["p1/A0"]) != file_hash(found["p1/B0.dcm"])
    case = Case("p1/A0", "1", "", (found["p1/A0"],))
    assert PreparedImages(Preprocessing(), Coding()).image(case)[0].shape == (1, 6, 4, 3)


def test_a_series_in_two_folders_is_one_image(tmp_path: Path) -> None:
    write_series(tmp_path / "p1" / "x", "1.2.1", name="A{}")
    (tmp_path / "p1" / "y").mkdir()
    (tmp_path / "p1" / "x" / "A1").rename(tmp_path / "p1" / "y" / "A1")
    ((name, image),) = images_below(tmp_path)
    assert (name, read_image([image]).spatial) == ("p1", (6, 4, 3))


def test_the_folder_itself_is_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1")
    ((name, image),) = images_below(tmp_path / "p1")
    assert (name, isinstance(image, Series)) == ("p1", True)


def test_radiographs_of_one_series_are_two_images(tmp_path: Path) -> None:
    for index in range(2):
        dicom(tmp_path / f"view{index}", values(index), SeriesInstanceUID="1.2.1")
    assert [name for name, _ in images_below(tmp_path)] == ["view0", "view1"]


def test_a_model_of_planes_sees_every_slice(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1", name="A{}")
    write_series(tmp_path / "p2", "1.2.2", name="B{}.dcm")
    assert [name for name, _ in images_below(tmp_path, planes=True)] == [
        "p1/A0",
        "p1/A1",
        "p1/A2",
        "p2/B0.dcm",
        "p2/B1.dcm",
        "p2/B2.dcm",
    ]


def test_other_files_beside_a_series(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1")
    dicom(
        tmp_path / "p1" / "plan",
        values(0),
        SOPClassUID=RTStructureSetStorage,
        PixelData=None,
        Rows=None,
        SeriesInstanceUID=OTHER,
    )
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "p1" / "key.png")
    for name in (".hidden.png", "DICOMDIR", "notes.txt", "p1/scan.hdr", "p1/scan.img", "slide.svs"):
        (tmp_path / name).write_bytes(b"no")
    assert [name for name, _ in images_below(tmp_path)] == ["p1", "p1/key.png", "p1/scan.img", "slide.svs"]


def test_a_damaged_file_is_listed_and_then_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1")
    (tmp_path / "p1" / "x.dcm").write_bytes(b"no DICOM at all")
    assert [name for name, _ in images_below(tmp_path)] == ["p1", "p1/x.dcm"]


def test_hidden_folders_and_an_index_are_no_images(tmp_path: Path) -> None:
    write_series(tmp_path / "p1", "1.2.1")
    write_series(tmp_path / ".trash", "1.2.2")
    (tmp_path / "p1" / "DICOMDIR").write_bytes((tmp_path / "p1" / "IM0000").read_bytes())
    assert [name for name, _ in images_below(tmp_path)] == ["p1"]
    (series,) = dict(images_below(tmp_path)).values()
    assert isinstance(series, Series)
    assert [path.name for path in series.files] == ["IM0000", "IM0001", "IM0002"]
    write_series(tmp_path / "p2", "1.2.3", count=1, NumberOfFrames=2)
    assert [name for name, _ in images_below(tmp_path)] == ["p1", "p2/IM0000"]
