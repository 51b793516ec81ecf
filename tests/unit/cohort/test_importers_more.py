"""Layouts as other tools write them today, and what an import leaves out: counted and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tests.unit.cohort.test_importers import CELL, boxes, coco, photograph, readable, voc, volume, write_json

from allograft.cohort.importers import import_bids, import_coco, import_folder, import_msd, import_nnunet, import_voc
from allograft.cohort.readers import read_image
from allograft.errors import ManifestError


def test_runs_and_echoes_of_bids_are_columns(tmp_path: Path) -> None:
    for name in ("sub-01_run-1_T1w", "sub-01_run-2_T1w", "sub-01_echo-3_T1w"):
        volume(tmp_path / "sub-01" / "anat" / f"{name}.nii.gz")
    cases = readable(import_bids(tmp_path, tmp_path, site="A"))
    assert [dict(case.attributes) for case in cases] == [{"echo": "3"}, {"run": "1"}, {"run": "2"}]


def test_an_image_with_and_without_gzip_is_one_row(tmp_path: Path) -> None:
    for suffix in (".nii", ".nii.gz"):
        volume(tmp_path / "sub-01" / "anat" / f"sub-01_T1w{suffix}")
    made = import_bids(tmp_path, tmp_path, site="A")
    assert [case.name for case in readable(made)] == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert made.unmatched == ("sub-01/anat/sub-01_T1w.nii: the same image as sub-01_T1w.nii.gz, left out",)


@pytest.mark.parametrize(
    ("note", "words"),
    [
        ({"bbox": [3, 3, 0, 5]}, "boxes without area left out: 1"),
        ({"bbox": [3, 3, 5, 0]}, "boxes without area left out: 1"),
        ({"bbox": [40, 0, 5, 5]}, "boxes without area left out: 1"),
        ({}, "annotations without a box left out: 1"),
        ({"bbox": None}, "annotations without a box left out: 1"),
        ({"bbox": []}, "annotations without a box left out: 1"),
    ],
)
def test_one_annotation_of_coco_is_lost_and_not_all(tmp_path: Path, note: dict[str, Any], words: str) -> None:
    photograph(tmp_path / "a.png")
    good = {"id": 1, "image_id": 0, "category_id": 3, "bbox": [1, 2, 10, 5]}
    src = coco(tmp_path, [good, {"id": 7, "image_id": 0, "category_id": 3} | note], ("a.png",))
    made = import_coco(src, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert words in made.notes
    assert boxes(readable(made)[0])["boxes"] == [[1, 2, 11, 7]]


@pytest.mark.parametrize(
    "before", ["/home/jane.doe/data/", "C:\\Users\\jane.doe\\", "\\\\server\\jane.doe\\", "{here}/"]
)
def test_the_path_of_another_machine_never_enters_a_subject(tmp_path: Path, before: str) -> None:
    photograph(tmp_path / "x" / "a.png")
    src = coco(tmp_path, [], (before.format(here=tmp_path / "x") + "a.png",))
    made = import_coco(src, tmp_path, images=tmp_path / "x", site="A", one_image_per_subject=True)
    assert [(case.name, case.subject) for case in readable(made)] == [("x/a.png", "a")]
    assert "jane" not in made.manifest.read_text()


def test_a_box_of_voc_without_area_is_lost_and_not_all(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", CELL + CELL.replace("30", "0"))
    made = import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert any(text.startswith("a.xml, object 2: box [0.0, 2.0, 0.0, 9.0] has no area") for text in made.unmatched)
    assert len(boxes(readable(made)[0])["boxes"]) == 1


def test_the_list_of_nnunet_2_counts(tmp_path: Path) -> None:
    for name in ("scans/x_t1", "scans/x_t2", "masks/x", "scans/y_t1", "scans/y_t2"):
        volume(tmp_path / f"{name}.nii.gz")
    listed = {
        "x": {"images": ["scans/x_t1.nii.gz", "scans/x_t2.nii.gz"], "label": "masks/x.nii.gz"},
        "y": {"images": ["scans/y_t1.nii.gz", "scans/y_t2.nii.gz"], "label": "masks/y.nii.gz"},
        "z": {"images": ["scans/z_t1.nii.gz", "scans/z_t2.nii.gz"], "label": "masks/z.nii.gz"},
    }
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "tumour": 1}, "dataset": listed})
    made = import_nnunet(tmp_path, tmp_path, site="A", one_image_per_subject=True)
    cases = readable(made)
    assert [(case.name, case.subject, bool(case.labels)) for case in cases] == [
        ("scans/x_t1.nii.gz;scans/x_t2.nii.gz", "x", True),
        ("scans/y_t1.nii.gz;scans/y_t2.nii.gz", "y", False),
    ]
    assert sorted(text.split(":")[0] for text in made.unmatched) == ["y", "z"]
    for held in ([], {"x": 3}, {"x": {"images": "a"}}, {"x": {"images": [3]}}):
        write_json(tmp_path / "dataset.json", {"dataset": held})
        with pytest.raises(ManifestError, match=r"dataset\.json"):
            import_nnunet(tmp_path, tmp_path / "b.csv", site="A", one_image_per_subject=True)


def test_a_file_is_no_folder_to_import(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("image\n")
    with pytest.raises(ManifestError, match=r"list\.csv: no such folder"):
        import_folder(tmp_path / "list.csv", tmp_path, image="{subject}.png", site="A")


def test_lists_of_channels_as_monai_writes_them(tmp_path: Path) -> None:
    for name in ("a_t1", "a_t2", "a_m", "b_t1"):
        volume(tmp_path / f"{name}.nii.gz")
    entries = [
        {"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "a_m.nii.gz", "fold": 0},
        {"image": ["b_t1.nii.gz", "b_t2.nii.gz"], "label": "b_m.nii.gz"},
    ]
    write_json(tmp_path / "dataset.json", {"training": entries, "test": [{"image": ["c_t1.nii.gz"]}]})
    made = import_msd(tmp_path, tmp_path, site="A", one_image_per_subject=True)
    assert [case.name for case in readable(made)] == ["a_t1.nii.gz;a_t2.nii.gz"]
    assert made.unmatched[1] == "b_t2.nii.gz: in dataset.json but not in the folder"


def test_the_first_channel_names_a_case_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    for name in ("p1_a", "x1_b", "y1_c", "p2_a", "x2_b", "y2_c", "m", "p3_a"):
        volume(tmp_path / f"{name}.nii.gz")
    training = [
        {"image": [f"{site}{number}_{kind}.nii.gz" for site, kind in ("pa", "xb", "yc")], "label": mask}
        for number, mask in ((1, "m.nii.gz"), (2, "gone.nii.gz"), (3, "m.nii.gz"))
    ]
    write_json(tmp_path / "dataset.json", {"training": training, "modality": {"0": "T1", "1": "T2", "2": "PD"}})
    made = import_msd(tmp_path, tmp_path, site="A", subject="{subject}_*")
    cases = readable(made)
    assert [(case.name.split(";"), case.subject) for case in cases] == [
        (["p1_a.nii.gz", "x1_b.nii.gz", "y1_c.nii.gz"], "p1"),
        (["p2_a.nii.gz", "x2_b.nii.gz", "y2_c.nii.gz"], "p2"),
    ]
    assert made.unmatched == (
        "p2_a.nii.gz: its mask gone.nii.gz is missing; imported without",
        "x3_b.nii.gz: in dataset.json but not in the folder",
    )


@pytest.mark.parametrize("names", [["T1", "T2"], ["T1", "T2", "PD", "FLAIR"]])
def test_the_fourth_axis_of_a_file_is_its_channels_in_their_order(names: list[str], tmp_path: Path) -> None:
    values = np.arange(2 * 4 * 5 * len(names), dtype=np.int16).reshape(2, 4, 5, len(names))
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "p1.nii.gz")
    write_json(tmp_path / "dataset.json", {"training": [], "test": ["p1.nii.gz"], "modality": names})
    made = import_msd(tmp_path, tmp_path, site="A", one_image_per_subject=True, unlabelled=True)
    (case,) = readable(made)
    assert np.array_equal(read_image(case.image).array, np.moveaxis(values, 3, 0))
    write_json(tmp_path / "dataset.json", {"training": [], "test": ["p1.nii.gz"], "modality": names[:1]})
    with pytest.raises(ManifestError, match=f"'modality' has 1 channels \\(T1\\), the images have {len(names)}"):
        import_msd(tmp_path, tmp_path / "b.csv", site="A", one_image_per_subject=True, unlabelled=True)


def test_images_of_another_suffix_are_named(tmp_path: Path) -> None:
    for name in ("p1.nii.gz", "p2.nii.gz"):
        volume(tmp_path / "x" / name)
    for name in ("p3.mha", "p4.mha", "p5.jp2", "notes.txt", ".p6.mha"):
        (tmp_path / "x" / name).write_bytes(b"x")
    made = import_folder(tmp_path, tmp_path, image="x/{subject}.nii.gz", site="A")
    assert made.notes == ("x: 1 files ending in .jp2 not taken", "x: 2 files ending in .mha not taken")


def test_a_pair_of_files_is_one_row(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(np.zeros((3, 4, 5), np.int16), np.eye(4)), tmp_path / "p1.img")
    made = import_folder(tmp_path, tmp_path, image="{subject}.*", site="A")
    assert [case.name for case in readable(made)] == ["p1.img"]
