"""Layouts as other tools write them today, and what an import leaves out: counted and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tests.unit.cohort.test_importers import CELL, boxes, coco, photograph, readable, table, voc, volume, write_json

from allograft.cohort.importers import (
    import_bids,
    import_coco,
    import_folder,
    import_msd,
    import_nnunet,
    import_table,
    import_voc,
)
from allograft.cohort.importers.boxes import BoxFile
from allograft.cohort.readers import read_image
from allograft.errors import ManifestError, OutputError


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


def test_each_pattern_of_a_folder_fills_its_own_column(tmp_path: Path) -> None:
    for name in ("p2_L", "p1_R", "p3_L"):
        for kind in ("c0", "c1", "c2", "mask", "pair", "region"):
            if (name, kind) not in (("p1_R", "c2"), ("p3_L", "region")):
                volume(tmp_path / kind / f"{name}.nii.gz")
    volume(tmp_path / "c1" / "p9_L.nii.gz")
    made = import_folder(
        tmp_path,
        tmp_path,
        image=[f"c{number}/{{subject}}_{{eye}}.nii.gz" for number in range(3)],
        mask="mask/{subject}_{eye}.nii.gz",
        paired="pair/{subject}_{eye}.nii.gz",
        region="region/{subject}_{eye}.nii.gz",
        site="A",
        split="train",
    )
    first, second = readable(made)
    assert [path.parent.name for path in first.image if isinstance(path, Path)] == ["c0", "c1", "c2"]
    assert first.labels == {"mask": tmp_path / "mask/p2_L.nii.gz", "paired": tmp_path / "pair/p2_L.nii.gz"}
    assert (first.region, first.attributes, first.split) == (tmp_path / "region/p2_L.nii.gz", {"eye": "L"}, "train")
    assert (second.subject, second.region) == ("p3", None)
    assert set(made.unmatched) == {
        "c0/p1_R.nii.gz: no 'c2/{subject}_{eye}.nii.gz', left out",
        "c0/p3_L.nii.gz: no region",
        "c1/p9_L.nii.gz: no image",
        *(f"{kind}/p1_R.nii.gz: no image" for kind in ("mask", "pair", "region")),
    }


def test_a_split_of_its_own_wins_and_added_rows_are_counted_alone(tmp_path: Path) -> None:
    for name in ("train/1.png", "val/2.png"):
        photograph(tmp_path / name)
    made = import_folder(tmp_path, tmp_path, image="{split}/{subject}.png", site="A", split="test")
    assert [case.split for case in readable(made)] == ["train", "val"]
    photograph(tmp_path / "more" / "3.png")
    more = import_folder(tmp_path, tmp_path, image="more/{subject}.png", site="A", append=True)
    assert (more.rows, len(readable(more)), len(more.examples)) == (1, 3, 1)
    assert more.manifest.read_text().splitlines()[0] == "image,subject,site,split"


def test_an_image_of_the_test_folder_has_the_mask_of_the_test_folder(tmp_path: Path) -> None:
    for part in ("Tr", "Ts"):
        volume(tmp_path / f"images{part}" / "p1_0000.nii.gz")
        volume(tmp_path / f"labels{part}" / "p1.nii.gz")
    write_json(tmp_path / "dataset.json", {"numTraining": 1, "channel_names": {"0": "T1"}})
    made = import_nnunet(tmp_path, tmp_path, site="A", subject="{subject}", unlabelled=True)
    assert [(case.image[0], case.labels["mask"]) for case in readable(made)] == [
        (tmp_path / f"images{part}/p1_0000.nii.gz", tmp_path / f"labels{part}/p1.nii.gz") for part in ("Tr", "Ts")
    ]
    assert made.unmatched == ()


def test_a_channel_that_only_some_cases_have_leaves_the_others_out(tmp_path: Path) -> None:
    for name in ("p1_0000", "p2_0000", "p2_0001", "p2_0002", "p3_0000", "p3_0001"):
        volume(tmp_path / "imagesTr" / f"{name}.nii.gz")
    made = import_nnunet(tmp_path, tmp_path, site="A", one_image_per_subject=True)
    assert [case.subject for case in readable(made)] == ["p2"]
    assert [line for line in made.unmatched if "lacks" in line] == [
        "p1: lacks channel 0001, left out",
        "p3: lacks channel 0002, left out",
    ]


def test_three_suffixes_of_bids_are_channels_and_the_one_that_lacks_is_named(tmp_path: Path) -> None:
    for name in ("sub-1/anat/sub-1", "sub-2/ses-b/anat/sub-2_ses-b_run-3"):
        for suffix in ("T1w", "T2w", "PD"):
            if (name[:5], suffix) != ("sub-1", "PD"):
                volume(tmp_path / f"{name}_{suffix}.nii.gz")
    volume(tmp_path / "masks" / "2_3.nii.gz")
    (tmp_path / "participants.tsv").write_text("participant_id\tcentre\nsub-1\tN/A\n2\tnorth\n")
    options: dict[str, Any] = {"suffix": ["T1w", "T2w", "PD"], "mask": "masks/{subject}_{run}.nii.gz"}
    made = import_bids(tmp_path, tmp_path, site_column="centre", **options)
    (case,) = readable(made)
    assert [path.name[-10:] for path in case.image if isinstance(path, Path)] == [
        "T1w.nii.gz",
        "T2w.nii.gz",
        "_PD.nii.gz",
    ]
    assert (case.subject, case.site, case.attributes) == ("2", "north", {"run": "3", "timepoint": "b"})
    assert case.labels == {"mask": tmp_path / "masks" / "2_3.nii.gz"}
    assert made.unmatched == ("sub-1_T1w.nii.gz: no PD next to it, left out",)
    with pytest.raises(ManifestError, match=r"sub-1_T1w\.nii\.gz has no site"):
        import_bids(tmp_path, tmp_path / "b.csv", suffix="T1w", site_column="centre")


def test_a_box_of_two_classes_is_two_boxes_and_one_beyond_its_image_is_refused(tmp_path: Path) -> None:
    some = BoxFile()
    for label in ("rbc", "wbc", "rbc "):
        some.add([1, 2, 25, 9], label, (30, 20), "a.json")
    assert (some.boxes, some.labels) == ([[1, 2, 25, 9]] * 2, ["rbc", "wbc"])
    some.check(photograph(tmp_path / "a.png"), (30, 20), "a.json")
    for corner in ([0, 0, 31, 20], [0, 0, 30, 21]):
        with pytest.raises(ManifestError, match=r"leaves a\.png, which has 30 x 20 pixels"):
            BoxFile([corner], ["rbc"]).check(tmp_path / "a.png", None, "a.json")
    BoxFile([[0, 0, 1, 1], [0, 0, 9, 9]], ["rbc"] * 2).check(tmp_path / "a.png", None, "a.json")


def test_one_image_per_subject_is_checked_by_every_format(tmp_path: Path) -> None:
    twice: dict[str, Any] = {"site": "A", "subject": "{subject}_*", "one_image_per_subject": True}
    for name in ("p_1", "p_2"):
        photograph(tmp_path / f"{name}.png")
        voc(tmp_path / f"{name}.xml", CELL)
        volume(tmp_path / "imagesTr" / f"{name}_0000.nii.gz")
    images = [{"image": f"imagesTr/p_{n}_0000.nii.gz", "label": f"imagesTr/p_{n}_0000.nii.gz"} for n in (1, 2)]
    src = coco(tmp_path, [], ("p_1.png", "p_2.png"))
    rows = table(tmp_path / "t.csv", ("path", "who"), ("p_1.png", "p"), ("p_2.png", "p"))
    own = {"image": "path", "subject": "who", "site_name": "A", "one_image_per_subject": True}
    for importer in (
        lambda: import_voc(tmp_path, tmp_path, images=tmp_path, **twice),
        lambda: import_coco(src, tmp_path, images=tmp_path, **twice),
        lambda: import_nnunet(tmp_path, tmp_path, **twice),
        lambda: write_json(tmp_path / "dataset.json", {"training": images}) and import_msd(tmp_path, tmp_path, **twice),
        lambda: import_table(rows, tmp_path, **own),
    ):
        with pytest.raises(ManifestError, match="--one-image-per-subject was given, but 'p' has 2 images"):
            importer()


def test_a_word_that_is_a_class_is_missing_elsewhere_and_lines_in_a_cell_are_kept(tmp_path: Path) -> None:
    photograph(tmp_path / "1.png"), photograph(tmp_path / "2.png")
    src = table(tmp_path / "t.csv", ("id", "dx", "eye", "report"), ("1", "none", "none", "a\nb"), ("2", "x", "L", ""))
    made = import_table(
        src,
        tmp_path,
        image="{id}.png",
        label="dx",
        attributes=["eye"],
        classes={"none": "healthy"},
        site_name="A",
        one_image_per_subject=True,
    )
    assert [(case.subject, case.labels, case.attributes) for case in readable(made)] == [
        ("1", {"label": "healthy"}, {}),
        ("2", {"label": "x"}, {"eye": "L"}),
    ]
    assert made.notes[:2] == ("classes: healthy, x", made.notes[1])
    assert "taken as missing: eye 'none' 1 time;" in made.notes[1]


def test_boxes_of_an_earlier_import_are_kept_where_they_are_the_same_and_refused_where_not(tmp_path: Path) -> None:
    photograph(tmp_path / "p_1.png")
    src = coco(tmp_path, [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [1, 2, 10, 5]}], ("p_1.png",))
    options: dict[str, Any] = {"images": tmp_path, "site": "A", "one_image_per_subject": True}
    kept = tmp_path / "boxes" / "p_1.png.json"
    made = import_coco(src, tmp_path, **options)
    made.manifest.unlink()
    assert import_coco(src, tmp_path, **options).rows == 1
    made.manifest.unlink()
    kept.write_text("other")
    with pytest.raises(OutputError, match="exists with other content"):
        import_coco(src, tmp_path, **options)
    assert (kept.read_text(), made.manifest.exists()) == ("other", False)
