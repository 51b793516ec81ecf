"""What an import prints can be pasted into a study, and what it cannot use it names and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from allograft.cohort import read_manifest
from allograft.cohort.importers import (
    Imported,
    import_bids,
    import_coco,
    import_folder,
    import_msd,
    import_nnunet,
    import_table,
    import_voc,
)
from allograft.cohort.importers.labels import mask_notes
from allograft.errors import ManifestError
from allograft.study.reading import read_study

REST = "cohort: manifest.csv\nsource: [a]\ntarget: [b]\nrecipes: [supervised]\n"


def pasted(line: str, folder: Path) -> Any:
    """The task of a study that begins with the line of an import."""
    (folder / "study.yaml").write_text(line.removeprefix("for the study: ") + "\n" + REST, encoding="utf-8")
    return read_study(folder / "study.yaml").made_task


@pytest.mark.parametrize(
    ("labels", "mask"),
    [
        ({"0": "background", "1": "Anterior", "2": "Posterior"}, {"Anterior": (1,), "Posterior": (2,)}),
        ({"background": 0, "edema": 1, "core": [2, 3]}, {"edema": (1,), "core": (2, 3)}),
        ({"background": 0, "no": 1, 'Pr\u00fcfung: "x"': 4}, {"no": (1,), 'Pr\u00fcfung: "x"': (4,)}),
        (
            {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
            {"whole only": (1,), "whole and core": (2,), "whole and core and enhancing": (3,)},
        ),
    ],
)
def test_the_printed_line_of_labels_is_a_task_of_a_study(
    tmp_path: Path, labels: Any, mask: dict[str, tuple[int, ...]]
) -> None:
    line, *more = mask_notes(labels, tmp_path)
    assert pasted(line, tmp_path).coding.mask == mask
    assert [one.partition(":")[0] for one in more] == (["regions overlap"] if "whole" in labels else [])


def test_labels_without_a_class_print_no_line(tmp_path: Path) -> None:
    assert mask_notes({"background": 0}, tmp_path) == mask_notes(None, tmp_path) == []


def test_a_value_to_ignore_is_no_class_and_named(tmp_path: Path) -> None:
    line, ignored = mask_notes({"background": 0, "a": 1, "ignore": 5}, tmp_path)
    assert pasted(line, tmp_path).names == ("a",)
    assert ignored.startswith("mask value 5 means ignore")


# the head of what macOS writes beside a file
LEFT = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)


def volume(path: Path, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), value, np.int16), np.eye(4)), path)
    return path


def photograph(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(path)
    return path


def shadowed(*paths: Path) -> None:
    for path in paths:
        path.with_name(f"._{path.name}").write_bytes(LEFT)


def subjects(made: Imported) -> list[str]:
    return [case.subject for case in read_manifest(made.manifest)]


def test_files_that_macos_leaves_are_no_images(tmp_path: Path) -> None:
    once: Any = {"site": "A", "one_image_per_subject": True}
    shadowed(volume(tmp_path / "imagesTr" / "c1_0000.nii.gz"), volume(tmp_path / "labelsTr" / "c1.nii.gz"))
    shadowed(volume(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz"), photograph(tmp_path / "voc" / "a.png"))
    (tmp_path / "voc" / "a.xml").write_text("<annotation/>")
    shadowed(tmp_path / "voc" / "a.xml")
    listed = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [], "categories": []}
    (tmp_path / "coco.json").write_text(json.dumps(listed))
    for number, made in enumerate(
        (
            import_nnunet(tmp_path, tmp_path / "1.csv", **once),
            import_bids(tmp_path, tmp_path / "2.csv", site="A"),
            import_voc(tmp_path / "voc", tmp_path / "3.csv", images=tmp_path / "voc", **once),
            import_coco(tmp_path / "coco.json", tmp_path / "4.csv", images=tmp_path / "voc", **once),
            import_folder(tmp_path, tmp_path / "5.csv", image="imagesTr/{subject}_0000.nii.gz", site="A"),
        )
    ):
        assert (len(subjects(made)), [one for one in made.unmatched if "._" in one]) == (1, []), number


def test_one_image_stored_twice_is_one_row(tmp_path: Path) -> None:
    for name in ("sub-01/anat/sub-01_T1w", "imagesTr/p1_0000", "labelsTr/p1", "f/p1"):
        volume(tmp_path / f"{name}.nii"), volume(tmp_path / f"{name}.nii.gz")
    for made in (
        import_bids(tmp_path, tmp_path / "1.csv", site="A"),
        import_nnunet(tmp_path, tmp_path / "2.csv", site="A", one_image_per_subject=True),
        import_folder(tmp_path, tmp_path / "3.csv", image="f/{subject}.nii*", mask="labelsTr/{subject}.nii*", site="A"),
    ):
        (case,) = read_manifest(made.manifest)
        assert case.name.endswith(".nii.gz")
        assert any("left out" in one for one in made.unmatched)
    volume(tmp_path / "f" / "p1.nii", 2)
    with pytest.raises(ManifestError, match=r"p1\.nii: differs from p1\.nii\.gz"):
        import_folder(tmp_path, tmp_path / "4.csv", image="f/{subject}.nii*", site="A")
    assert subjects(import_folder(tmp_path, tmp_path / "5.csv", image="f/{subject}.nii", site="A")) == [
        "p1"
    ]  # the one that was asked for


def test_bids_entities_become_columns(tmp_path: Path) -> None:
    for run in (1, 2):
        for echo in (1, 2):
            volume(tmp_path / f"sub-01/anat/sub-01_acq-hi_run-{run}_echo-{echo}_T1w.nii.gz", run * 3 + echo)
    volume(tmp_path / "sub-02" / "anat" / "sub-02_T1w.nii.gz", 40)
    cases = read_manifest(import_bids(tmp_path, tmp_path, site="A").manifest)
    assert [case.attributes for case in cases] == [
        *({"acq": "hi", "run": str(run), "echo": str(echo)} for run in (1, 2) for echo in (1, 2)),
        {},
    ]


def test_files_of_another_suffix_are_counted(tmp_path: Path) -> None:
    for name in (
        "imagesTr/c1_0000.xyz",
        "imagesTr/c2_0000.xyz",
        "imagesTr/c3_0000.nii.gz",
        "sub-01/anat/sub-01_T1w.xyz",
        "x/a.xyz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        volume(tmp_path / name) if name.endswith(".gz") else (tmp_path / name).write_text("?")
    made = import_nnunet(tmp_path, tmp_path, site="A", one_image_per_subject=True)
    assert made.unmatched == (
        "imagesTr: 2 files of .xyz, which is not read as an image",
        "c3: no mask; imported without",
    )
    (tmp_path / "imagesTr" / "c3_0000.nii.gz").unlink()
    with pytest.raises(ManifestError, match=r"imagesTr: 2 files of \.xyz"):
        import_nnunet(tmp_path, tmp_path / "b.csv", site="A", one_image_per_subject=True)
    with pytest.raises(ManifestError, match=r"1 file of \.xyz"):
        import_bids(tmp_path, tmp_path / "b.csv", site="A")
    (tmp_path / "a.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(ManifestError, match=r"1 file of \.xyz"):
        import_coco(
            tmp_path / "a.json", tmp_path / "b.csv", images=tmp_path / "x", site="A", one_image_per_subject=True
        )
    with pytest.raises(ManifestError, match=r"1 file of \.xyz"):
        import_voc(tmp_path, tmp_path / "b.csv", images=tmp_path / "x", site="A", one_image_per_subject=True)


def test_a_file_that_is_there_under_another_suffix_is_named(tmp_path: Path) -> None:
    volume(tmp_path / "a.nii"), volume(tmp_path / "b.nii.gz"), volume(tmp_path / "m.nii.gz")
    photograph(tmp_path / "c.png")
    training = [{"image": f"{name}.nii.gz", "label": "m.nii.gz"} for name in "ab"]
    (tmp_path / "dataset.json").write_text(json.dumps({"training": training}))
    made = import_msd(tmp_path, tmp_path / "1.csv", site="A", one_image_per_subject=True)
    assert made.unmatched == ("a.nii.gz: in dataset.json but not in the folder, but a.nii is there",)
    (tmp_path / "t.csv").write_text("path\nc.jpg\nb.nii.gz\n")
    made = import_table(tmp_path / "t.csv", tmp_path / "2.csv", image="path", site_name="A", one_image_per_subject=True)
    assert made.unmatched == ("row 2: no image c.jpg, but c.png is there",)
    with pytest.raises(ManifestError, match=r"2 files of \.nii\.gz below SRC, and none fits '\{subject\}\.mha'"):
        import_folder(tmp_path, tmp_path / "3.csv", image="{subject}.mha", site="A")


def coco(folder: Path, name: str, *boxes: object) -> Path:
    notes = [
        {"id": i, "image_id": 1, "category_id": 3} | ({} if box is None else {"bbox": box})
        for i, box in enumerate(boxes)
    ]
    held = {"images": [{"id": 1, "file_name": name, "width": 30, "height": 20}], "annotations": notes}
    (folder / "coco.json").write_text(json.dumps(held | {"categories": [{"id": 3, "name": "cell"}]}))
    return folder / "coco.json"


@pytest.mark.parametrize("wrong", [[3, 3, 0, 5], [3, 3, 5, 0], None, [], [40, 3, 5, 5]], ids=repr)
def test_a_coco_annotation_without_a_box_is_lost_and_no_other(tmp_path: Path, wrong: object) -> None:
    photograph(tmp_path / "x" / "a.png")
    src = coco(tmp_path, "a.png", [1, 2, 10, 5], wrong, [4, 4, 2, 2])
    made = import_coco(src, tmp_path, images=tmp_path / "x", site="A", one_image_per_subject=True)
    (case,) = read_manifest(made.manifest)
    assert json.loads(Path(case.labels["boxes"]).read_text())["boxes"] == [[1, 2, 11, 7], [4, 4, 6, 6]]
    assert made.notes[1:] == (f"{'boxes without area' if wrong else 'annotations without a box'} left out: 1",)
    assert made.unmatched[0].startswith("annotation 1")


def test_an_absolute_path_never_enters_a_subject(tmp_path: Path) -> None:
    photograph(tmp_path / "x" / "p1" / "a.png")
    src = coco(tmp_path, str(tmp_path / "x" / "p1" / "a.png"), [1, 2, 10, 5])
    assert subjects(import_coco(src, tmp_path, images=tmp_path / "x", site="A", one_image_per_subject=True)) == ["p1/a"]
    assert subjects(import_coco(src, tmp_path / "b.csv", images=tmp_path / "x", site="A", subject="{subject}/*")) == [
        "p1"
    ]
    (tmp_path / "t.csv").write_text(f"path\n{tmp_path / 'x' / 'p1' / 'a.png'}\n")
    made = import_table(tmp_path / "t.csv", tmp_path / "d.csv", image="path", site_name="A", one_image_per_subject=True)
    assert subjects(made) == ["x/p1/a"]


def test_nnunet_version_2_lists_its_files(tmp_path: Path) -> None:
    for name in ("far/one_T1", "far/one_T2", "far/one_seg", "far/two_T1", "imagesTr/ignored_0000"):
        volume(tmp_path / f"{name}.nii.gz")
    held = {"images": ["far/one_T1.nii.gz", "far/one_T2.nii.gz"], "label": "far/one_seg.nii.gz"}
    other = {"images": ["far/two_T1.nii.gz", "far/gone.nii.gz"], "label": "far/two_seg.nii.gz"}
    described = {"labels": {"background": 0, "a": 1}, "dataset": {"p1_x": held, "p2_x": other}}
    (tmp_path / "dataset.json").write_text(json.dumps(described))
    made = import_nnunet(tmp_path, tmp_path, site="A", subject="{subject}_*")
    (case,) = read_manifest(made.manifest)
    assert (case.name, case.subject) == ("far/one_T1.nii.gz;far/one_T2.nii.gz", "p1")
    assert case.labels == {"mask": tmp_path / "far" / "one_seg.nii.gz"}
    assert made.unmatched == ("p2_x: no image far/gone.nii.gz, left out",)
    for wrong in ([], {"p": 3}, {"p": {"images": []}}, {"p": {"images": ["a"], "label": 3}}):
        (tmp_path / "dataset.json").write_text(json.dumps(described | {"dataset": wrong}))
        with pytest.raises(ManifestError, match="'images'"):
            import_nnunet(tmp_path, tmp_path / "b.csv", site="A", one_image_per_subject=True)


def test_lists_of_images_as_monai_writes_them_are_channels(tmp_path: Path) -> None:
    for name in ("p1_t1", "p1_t2", "p1_seg", "p2_t1", "p3_t1", "p3_t2"):
        volume(tmp_path / f"{name}.nii.gz")
    training = [{"image": [f"p{i}_t1.nii.gz", f"p{i}_t2.nii.gz"], "label": f"p{i}_seg.nii.gz"} for i in (1, 2)]
    (tmp_path / "dataset.json").write_text(
        json.dumps({"training": training, "test": [{"image": ["p3_t1.nii.gz", "p3_t2.nii.gz"]}]})
    )
    made = import_msd(tmp_path, tmp_path, site="A", subject="{subject}_*", unlabelled=True)
    assert [(case.name, case.subject) for case in read_manifest(made.manifest)] == [
        ("p1_t1.nii.gz;p1_t2.nii.gz", "p1"),
        ("p3_t1.nii.gz;p3_t2.nii.gz", "p3"),
    ]
    assert made.unmatched == ("p2_t2.nii.gz: in dataset.json but not in the folder",)


# ---------------------------------------------------------- words for no value
@pytest.fixture
def labels(tmp_path: Path) -> Path:
    """Two rows whose class is none, one NA, one mild."""
    for name in "abcd":
        photograph(tmp_path / f"{name}.png")
    rows = [
        ("a.png", "p1", "A", "none", "NA"),
        ("b.png", "p2", "A", "mild", "3"),
        ("c.png", "p3", "B", "none", "4"),
        ("d.png", "p4", "B", "NA", "5"),
    ]
    (tmp_path / "t.csv").write_text("\n".join(map(",".join, [("path", "pid", "hospital", "dx", "age"), *rows])) + "\n")
    return tmp_path / "t.csv"


COLUMNS: Any = {"image": "path", "subject": "pid", "site": "hospital", "label": "dx", "attributes": ["age"]}


def test_words_taken_as_missing_are_named_and_counted(labels: Path) -> None:
    made = import_table(labels, labels.parent, **COLUMNS)
    assert [case.labels.get("label") for case in read_manifest(made.manifest)] == [None, "mild", None, None]
    assert "taken as missing: age 'NA' 1 time, dx 'NA' 1 time, dx 'none' 2 times;" in str(made)


def test_a_named_class_and_a_list_of_words_override_them(labels: Path) -> None:
    made = import_table(labels, labels.parent / "1.csv", classes={"none": "no finding"}, **COLUMNS)
    assert [case.labels.get("label") for case in read_manifest(made.manifest)] == [
        "no finding",
        "mild",
        "no finding",
        None,
    ]
    assert "dx 'NA' 1 time" in str(made)
    made = import_table(labels, labels.parent / "2.csv", missing=[""], **COLUMNS)
    assert [case.labels.get("label") for case in read_manifest(made.manifest)] == ["none", "mild", "none", "NA"]
    assert "missing" not in str(made)
    made = import_table(labels, labels.parent / "3.csv", missing=["mild"], **COLUMNS)
    assert [case.labels.get("label") for case in read_manifest(made.manifest)] == ["none", None, "none", "NA"]
    assert "dx 'mild' 1 time;" in str(made)


@pytest.mark.parametrize(("column", "word"), [("site", "NA"), ("subject", "None")])
def test_a_site_or_subject_taken_as_missing_says_how_to_keep_it(labels: Path, column: str, word: str) -> None:
    text = labels.read_text().replace("b.png,p2,A", "b.png,p2,NA" if column == "site" else "b.png,None,A")
    labels.write_text(text)
    with pytest.raises(
        ManifestError, match=f"'{word}' in the column of the {column} was taken as missing.*--missing ''"
    ):
        import_table(labels, labels.parent, **COLUMNS)
    cases = read_manifest(import_table(labels, labels.parent, missing=[""], **COLUMNS).manifest)
    assert getattr(cases[1], column) == word


def test_a_word_for_no_value_in_a_path_is_left_as_it_is(tmp_path: Path) -> None:
    photograph(tmp_path / "NA.png"), photograph(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text("id,site\nNA,A\nb,A\n")
    made = import_table(
        tmp_path / "t.csv", tmp_path, image="{id}.png", site="site", one_image_per_subject=True, attributes=["id"]
    )
    assert [(case.name, case.attributes) for case in read_manifest(made.manifest)] == [
        ("NA.png", {}),
        ("b.png", {"id": "b"}),
    ]
