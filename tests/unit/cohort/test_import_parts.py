"""What importers would take a part of, or take for something else: links, lists, sessions, sizes, pieces of names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from allograft.cohort.importers.bids import import_bids
from allograft.cohort.importers.coco import import_coco
from allograft.cohort.importers.folder import import_folder
from allograft.cohort.importers.labels import mask_notes
from allograft.cohort.importers.msd import import_msd
from allograft.cohort.importers.nnunet import import_nnunet
from allograft.cohort.importers.patterns import Pattern
from allograft.cohort.importers.table import import_table
from allograft.cohort.importers.voc import import_voc
from allograft.cohort.manifest import read_manifest
from allograft.cohort.readers import read_image
from allograft.cohort.readers.listing import images_below
from allograft.errors import ImageError, ManifestError


def picture(path: Path) -> Path:
    """30 wide and 20 high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    return path


def touched(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


# ---------------------------------------------------------- links that were not fetched
def test_a_link_to_nothing_is_named_by_an_import(tmp_path: Path) -> None:
    picture(tmp_path / "p1.png")
    (tmp_path / "p2.png").symlink_to("../annex/p2.png")
    found = import_folder(tmp_path, tmp_path, image="{subject}.png", site="a")
    assert found.rows == 1
    assert found.unmatched == (
        "p2.png: a link to a file that is not there (datalad get or git annex get fetch it), left out",
    )


def test_a_link_to_nothing_is_named_by_bids(tmp_path: Path) -> None:
    touched(tmp_path / "sub-1/anat/sub-1_T1w.nii.gz")
    (tmp_path / "sub-2/anat").mkdir(parents=True)
    (tmp_path / "sub-2/anat/sub-2_T1w.nii.gz").symlink_to("gone")
    found = import_bids(tmp_path, tmp_path, site="a")
    assert found.rows == 1
    assert any("sub-2_T1w.nii.gz: a link to a file that is not there" in line for line in found.unmatched)


def test_a_link_to_nothing_fails_in_a_folder_to_be_predicted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to("gone")
    found = dict(images_below(tmp_path))
    assert list(found) == ["a.png", "b.png"]
    with pytest.raises(ImageError, match=r"b.png: a link to a file that is not there \(datalad get"):
        read_image([found["b.png"]])


def test_a_series_with_a_link_to_nothing_is_no_whole_series(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "IM0").symlink_to("gone")
    with pytest.raises(ImageError, match="IM0: a link to a file that is not there"):
        read_image([tmp_path / "s"])


# ---------------------------------------------------------- BIDS
def bids(folder: Path, table: str) -> Callable[[], Any]:
    touched(folder / "sub-1/anat/sub-1_T1w.nii.gz")
    (folder / "participants.tsv").write_text(table)
    return lambda: import_bids(folder, folder, site_column="site")


def test_a_participant_of_two_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="sub-1 is listed twice, at site 'A' and 'B'"):
        bids(tmp_path, "participant_id\tsite\nsub-1\tA\nsub-1\tB\n")()


def test_a_participant_listed_twice_at_one_site_is_one(tmp_path: Path) -> None:
    bids(tmp_path, "participant_id\tsession\tsite\nsub-1\ta\tA\n1\tb\tA\n")()
    assert [case.site for case in read_manifest(tmp_path / "manifest.csv")] == ["A"]


@pytest.mark.parametrize(
    "name", ["ses-1/anat/sub-1_ses-2_T1w.nii.gz", "ses-1/anat/sub-1_T1w.nii.gz", "anat/sub-1_ses-2_T1w.nii.gz"]
)
def test_a_session_in_the_folder_of_another_is_left_out_and_named(tmp_path: Path, name: str) -> None:
    touched(tmp_path / "sub-1/ses-1/anat/sub-1_ses-1_T1w.nii.gz", tmp_path / "sub-1" / name)
    found = import_bids(tmp_path, tmp_path, site="a")
    assert found.rows == 1
    assert [line.partition(":")[0] for line in found.unmatched] == [f"sub-1/{name}"]


# ---------------------------------------------------------- lists of MSD and MONAI
def test_what_the_lists_of_a_dataset_leave_out_is_named(tmp_path: Path) -> None:
    touched(*(tmp_path / part / f"{name}.nii.gz" for part in ("imagesTr", "labelsTr") for name in "abc"))
    entry = {name: {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in "abc"}
    lists = {"training": [entry["a"]], "validation": [entry["b"]], "modality": {"0": "CT"}}
    (tmp_path / "dataset.json").write_text(json.dumps(lists))
    found = import_msd(tmp_path, tmp_path, site="x", one_image_per_subject=True)
    assert found.rows == 1
    assert found.unmatched == (
        "dataset.json lists 1 cases under 'validation', left out; move them to 'training' to take them",
        "imagesTr/b.nii.gz: an image that dataset.json does not name under 'training' or 'test'",
        "imagesTr/c.nii.gz: an image that dataset.json does not name under 'training' or 'test'",
    )


@pytest.mark.parametrize(("value", "line"), [(1.0, '"a": [1]'), ([1.0, 2], '"a": [1, 2]'), ("3", '"a": [3]')])
def test_whole_numbers_of_json_are_mask_values(value: object, line: str) -> None:
    assert line in mask_notes({"background": 0, "a": value}, Path("."))[0]


@pytest.mark.parametrize("value", [1.5, None, "1,2", {}, True])
def test_other_values_are_refused(value: object) -> None:
    with pytest.raises(ManifestError, match="expected a whole number, or a list of them"):
        mask_notes({"background": 0, "a": value}, Path("."))


# ---------------------------------------------------------- boxes meet their image
def coco(folder: Path, box: list[float], **image: int) -> Callable[[], Any]:
    picture(folder / "im/a.png")
    held = {
        "images": [{"id": 7, "file_name": "a.png", **image}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 1, "bbox": box}],
    }
    (folder / "a.json").write_text(json.dumps(held))
    return lambda: import_coco(folder / "a.json", folder, images=folder / "im", site="x", one_image_per_subject=True)


@pytest.mark.parametrize(("width", "height"), [(60, 40), (15, 10), (30, 30), (20, 30)])
def test_boxes_drawn_on_another_size_are_refused(tmp_path: Path, width: int, height: int) -> None:
    words = rf"image 7: boxes of an image of {width} x {height} pixels, a.png has 30 x 20"
    with pytest.raises(ManifestError, match=words):
        coco(tmp_path, [1, 1, 5, 5], width=width, height=height)()
    (tmp_path / "im/a.xml").write_text(voc(width, height))
    with pytest.raises(ManifestError, match=rf"a.xml: boxes of an image of {width} x {height} pixels"):
        import_voc(tmp_path / "im", tmp_path, images=tmp_path / "im", site="x", one_image_per_subject=True)


@pytest.mark.parametrize("size", [{}, {"width": 30, "height": 20}, {"width": 0, "height": 0}])
def test_boxes_of_this_size_or_of_none_are_taken(tmp_path: Path, size: dict[str, int]) -> None:
    assert coco(tmp_path, [1, 1, 5, 5], **size)().rows == 1


def test_shares_of_an_image_are_no_pixels(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"image 7: every number of its boxes is at most 1, such as \[0.125, 0.25, 0.5, 0.75\]"
    ):
        coco(tmp_path, [0.125, 0.25, 0.375, 0.5])()


def voc(width: int, height: int, root: str = "annotation") -> str:
    box = "<xmin>2</xmin><ymin>3</ymin><xmax>5</xmax><ymax>6</ymax>"
    size = f"<size><width>{width}</width><height>{height}</height></size>"
    end = root.partition(" ")[0]
    return f"<{root}>{size}<object><name>cell</name><bndbox>{box}</bndbox></object></{end}>"


@pytest.mark.parametrize("root", ['annotation xmlns="https://example.org"', "annotations", "doc"])
def test_an_xml_of_another_kind_is_not_an_image_without_boxes(tmp_path: Path, root: str) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "a.xml").write_text(voc(30, 20, root))
    with pytest.raises(ManifestError, match=r"its outermost element is .*; expected annotation"):
        import_voc(tmp_path, tmp_path, images=tmp_path, site="x", one_image_per_subject=True)


# ---------------------------------------------------------- tables and pieces of names
@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_comma_in_the_name_of_a_column_is_no_mark(tmp_path: Path, mark: str) -> None:
    picture(tmp_path / "a.png")
    text = f"path{mark}who{mark}age, years\na.png{mark}1{mark}3, 4\n"
    (tmp_path / "t.csv").write_text(text)
    import_table(tmp_path / "t.csv", tmp_path, image="path", subject="who", site_name="A", attributes=["age, years"])
    (case,) = read_manifest(tmp_path / "manifest.csv")
    assert case.attributes == {"age, years": "3, 4"}


@pytest.mark.parametrize("word", ["#N/A", "<NA>", "#n/a"])
def test_what_excel_and_pandas_write_for_no_value_is_none(tmp_path: Path, word: str) -> None:
    picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text(f"path,who,dx\na.png,1,{word}\nb.png,2,ill\n")
    found = import_table(tmp_path / "t.csv", tmp_path, image="path", subject="who", site_name="A", label="dx")
    assert [dict(case.labels) for case in read_manifest(tmp_path / "manifest.csv")] == [{}, {"label": "ill"}]
    assert any(f"taken as missing: dx '{word}' 1 time" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{subject}{eye:\\w+}.png", "01L.png"),
        ("{eye:\\w+}{subject}.png", "L01.png"),
        ("p{subject}{visit:\\d*}.png", "p123.png"),
        ("{subject:\\w+}{eye:\\w+}.png", "01L.png"),
    ],
)
def test_pieces_that_could_part_a_name_in_two_ways_are_refused(text: str, name: str) -> None:
    with pytest.raises(ManifestError, match=rf"{name} could be .* or .*; write a width or a narrower pattern"):
        Pattern(text).match(name)


@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("{subject}{eye:[LR]}.png", "01L.png", {"subject": "01", "eye": "L"}),
        ("{subject:[0-9]{2}}{eye}.png", "01L.png", {"subject": "01", "eye": "L"}),
        ("{subject:\\d{1,3}}{eye:[LR]}.png", "012R.png", {"subject": "012", "eye": "R"}),
        ("{subject:\\d+}{eye:\\w*}.png", "01L.png", {"subject": "01", "eye": "L"}),
        ("{subject}_*.png", "p_1_2.png", {"subject": "p"}),
    ],
)
def test_pieces_that_part_a_name_in_one_way(text: str, name: str, found: dict[str, str]) -> None:
    assert Pattern(text).match(name) == found


# ---------------------------------------------------------- what a dataset declares
def nnunet_folder(folder: Path, channels: int, **described: object) -> Path:
    for case in "ab":
        for kind, ending in (("imagesTr", f"_{channels - 1:04d}"), ("imagesTr", "_0000"), ("labelsTr", "")):
            path = folder / kind / f"{case}{ending}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    (folder / "dataset.json").write_text(json.dumps({"labels": {"blob": 1}, **described}))
    return folder


@pytest.mark.parametrize(("found", "declared"), [(1, 2), (2, 1)])
def test_channels_that_are_not_those_declared_are_refused(tmp_path: Path, found: int, declared: int) -> None:
    names = {str(number): f"T{number + 1}" for number in range(declared)}
    for key in ("channel_names", "modality"):
        folder = nnunet_folder(tmp_path / key, found, **{key: names})
        with pytest.raises(ManifestError, match=rf"'{key}' has {declared} channels \(T1.*\), the images have {found}"):
            import_nnunet(folder, folder, site="x", one_image_per_subject=True)


def test_training_cases_that_are_fewer_than_counted_are_named(tmp_path: Path) -> None:
    folder = nnunet_folder(tmp_path, 2, numTraining=3, channel_names={"0": "T1", "1": "T2"})
    said = str(import_nnunet(folder, folder, site="x", one_image_per_subject=True))
    assert "numTraining 3; found 2 training cases" in said


def test_modalities_of_a_decathlon_are_the_fourth_axis(tmp_path: Path) -> None:
    for name, shape, modality in (("one", (4, 4, 4), 1), ("two", (4, 4, 4, 2), 2), ("lost", (4, 4, 4), 2)):
        folder = tmp_path / name
        folder.mkdir()
        nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), folder / "a.nii")
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), folder / "a_m.nii")
        described = {"modality": {str(number): "MR" for number in range(modality)}, "numTraining": 2}
        described |= {"training": [{"image": "a.nii", "label": "a_m.nii"}], "labels": {"1": "blob"}}
        (folder / "dataset.json").write_text(json.dumps(described))
        if name == "lost":
            with pytest.raises(ManifestError, match=r"2 channels \(MR, MR\), the images have 1"):
                import_msd(folder, folder, site="x", one_image_per_subject=True)
        else:
            said = str(import_msd(folder, folder, site="x", one_image_per_subject=True))
            assert "numTraining 2; found 1 training cases" in said


def coco_folder(folder: Path, entry: dict[str, object], *, turn: int = 1, names: tuple[str, ...] = ("cell",)) -> Path:
    (folder / "images").mkdir(parents=True)
    exif = Image.Exif()
    exif[274] = turn
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folder / "images" / "a.jpg", exif=exif)
    notes = [
        {"id": number, "image_id": 1, "category_id": number, "bbox": [2, 3, 5 + number, 6]}
        for number, _ in enumerate(names)
    ]
    held = {"images": [{"id": 1, "file_name": "a.jpg"} | entry], "annotations": notes}
    held["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
    (folder / "a.json").write_text(json.dumps(held))
    return folder


@pytest.mark.parametrize(
    ("entry", "turn", "words"),
    [
        ({"width": 30, "height": 20}, 1, ""),
        ({"width": 30, "height": 20}, 6, "30 x 20, and its EXIF tag shows it as 20 x 30"),
        *(({"width": 20, "height": 30}, across, "") for across in (5, 6, 7, 8)),
        *(({"width": 30, "height": 20}, along, "") for along in (2, 3, 4)),
        ({"width": 20, "height": 30}, 1, "has 30 x 20; expected the size"),
        ({}, 1, ""),
    ],
)
def test_boxes_are_those_of_the_image_as_it_is_shown(
    tmp_path: Path, entry: dict[str, object], turn: int, words: str
) -> None:
    folder = coco_folder(tmp_path / "x", entry, turn=turn)
    if words:
        with pytest.raises(ManifestError, match=words):
            import_coco(folder / "a.json", folder, images=folder / "images", site="x", one_image_per_subject=True)
    else:
        import_coco(folder / "a.json", folder, images=folder / "images", site="x", one_image_per_subject=True)


def test_a_box_that_leaves_an_image_of_no_stated_size_is_refused(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "x", {}, names=tuple(f"{number}" for number in range(40)))
    with pytest.raises(ManifestError, match=r"box \[2, 3, 31, 9\] leaves a\.jpg, which has 30 x 20 pixels"):
        import_coco(folder / "a.json", folder, images=folder / "images", site="x", one_image_per_subject=True)


def test_classes_that_differ_in_capitals_alone_are_refused(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "x", {}, names=("cell", "Cell"))
    with pytest.raises(ManifestError, match="category 'Cell' and 'cell' are spellings of one"):
        import_coco(folder / "a.json", folder, images=folder / "images", site="x", one_image_per_subject=True)
    (tmp_path / "t.csv").write_text("image,who,dx\nx/images/a.jpg,1,Cancer\nx/images/b.jpg,2,cancer\n")
    with pytest.raises(ManifestError, match=r"give both one name: --class cancer=Cancer$"):
        import_table(tmp_path / "t.csv", tmp_path, image="image", subject="who", site_name="a", label="dx")
    made = import_table(
        tmp_path / "t.csv", tmp_path, image="image", subject="who", site_name="a", label="dx",
        classes={"cancer": "Cancer"},
    )  # fmt: skip
    assert "classes: Cancer\n" in str(made)


def test_a_column_of_participants_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii"
    path.parent.mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)), path)
    (tmp_path / "participants.tsv").write_text("participant_id\tcentre\tcentre\nsub-1\ta\tb\n")
    with pytest.raises(ManifestError, match="column 'centre' is in the header twice"):
        import_bids(tmp_path, tmp_path, site_column="centre")
