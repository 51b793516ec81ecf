"""From other people's layouts to a manifest that reads back, and everything that is refused on the
way."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from allograft.cohort import Case, read_manifest
from allograft.cohort.importers import (
    Imported,
    import_bids,
    import_coco,
    import_folder,
    import_medmnist,
    import_msd,
    import_nnunet,
    import_table,
    import_voc,
)
from allograft.cohort.importers.patterns import Pattern
from allograft.cohort.importers.rows import relative, write_manifest
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import AllograftError, ImageError, ManifestError, OutputError


def volume(path: Path, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.full((3, 4, 5), value, np.int16), np.eye(4)), path)
    return path


def photograph(path: Path, value: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30), value, np.uint8)).save(path)
    return path


def readable(made: Imported) -> list[Case]:
    """The cases, after each of their files was read."""
    cases = list(read_manifest(made.manifest))
    for case in cases:
        shape = read_image(case.image).spatial
        if "mask" in case.labels:
            assert read_mask(Path(case.labels["mask"])).spatial == shape
    assert made.rows <= len(cases)
    assert str(made.manifest) in str(made)
    return cases


def boxes(case: Case) -> dict[str, Any]:
    return json.loads(Path(case.labels["boxes"]).read_text())


def write_json(path: Path, held: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(held))
    return path


# ---------------------------------------------------------- folder
@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """Two patients with masks, one without, a mask without image, a file that is no image."""
    for subject in ("p1", "p2", "p3"):
        volume(tmp_path / "A" / f"{subject}_0000.nii.gz")
        volume(tmp_path / "A" / f"{subject}_0001.nii.gz")
    for subject in ("p1", "p2", "p9"):
        volume(tmp_path / "A" / "labels" / f"{subject}.nii.gz")
    (tmp_path / "A" / "notes_0000.txt").write_text("no image")
    return tmp_path


def test_a_folder_by_patterns(hospital: Path) -> None:
    made = import_folder(hospital, hospital, image="A/{subject}_0000.*", mask="A/labels/{subject}.nii.gz", site="A")
    cases = readable(made)
    assert [(case.name, case.subject, case.site) for case in cases] == [
        (f"A/p{i}_0000.nii.gz", f"p{i}", "A") for i in (1, 2, 3)
    ]
    assert [bool(case.labels) for case in cases] == [True, True, False]
    assert sorted(made.unmatched) == [
        "A/labels/p9.nii.gz: no image",
        "A/notes_0000.txt: no image that can be read",
        "A/p3_0000.nii.gz: no mask",
    ]
    assert "A/p1_0000.nii.gz <- mask A/labels/p1.nii.gz, subject p1, site A" in str(made)


def test_channels_are_patterns_in_order_and_all_must_be_there(hospital: Path) -> None:
    (hospital / "A" / "p2_0001.nii.gz").unlink()
    made = import_folder(hospital, hospital, image=["A/{subject}_0001.nii.gz", "A/{subject}_0000.nii.gz"], site="A")
    assert [case.name for case in readable(made)] == [f"A/p{i}_0001.nii.gz;A/p{i}_0000.nii.gz" for i in (1, 3)]
    assert made.unmatched == ("A/p2_0000.nii.gz: no image",)
    made = import_folder(
        hospital, hospital / "b.csv", image=["A/{subject}_0000.nii.gz", "A/{subject}_0001.nii.gz"], site="A"
    )
    assert made.unmatched == ("A/p2_0000.nii.gz: no 'A/{subject}_0001.nii.gz', left out",)


def test_names_in_braces_become_columns(tmp_path: Path) -> None:
    for one in ("north/test/cat/7_left_a.png", "south/train/dog/8_right_b.png"):
        photograph(tmp_path / one)
    made = import_folder(tmp_path, tmp_path, image="{site}/{split}/{label}/{subject}_{eye}_{name}.png")
    cases = readable(made)
    assert [(case.site, case.split, case.labels["label"], case.subject) for case in cases] == [
        ("north", "test", "cat", "7"),
        ("south", "train", "dog", "8"),
    ]
    assert [dict(case.attributes) for case in cases] == [{"eye": "left"}, {"eye": "right"}]


def test_append_joins_sites_and_keeps_what_was_there(tmp_path: Path) -> None:
    for one in ("A/1.png", "B/1.png", "B/2.png"):
        photograph(tmp_path / one)
    (tmp_path / "manifest.csv").write_text("image,subject,site,age\nA/1.png,1,A,40\n")
    with pytest.raises(OutputError, match="--append"):
        import_folder(tmp_path, tmp_path, image="B/{subject}.png", site="B")
    with pytest.raises(ManifestError, match=r"subject '1' is at two sites, 'A' and 'B'.*--subject-prefix"):
        import_folder(tmp_path, tmp_path, image="B/{subject}.png", site="B", append=True)
    shared = import_folder(tmp_path, tmp_path / "same.csv", image="{site}/{subject}.png", shared_subjects=True)
    assert [case.subject for case in readable(shared)] == ["1", "1", "2"]
    made = import_folder(
        tmp_path, tmp_path, image="B/{subject}.png", site="B", append=True, subject_prefix="B-", split="test"
    )
    cases = readable(made)
    assert (made.rows, [case.subject for case in cases], [case.split for case in cases]) == (
        2,
        ["1", "B-1", "B-2"],
        [None, "test", "test"],
    )
    assert cases[0].attributes == {"age": "40"}
    before = made.manifest.read_bytes()
    with pytest.raises(ManifestError, match="is in an earlier row too"):
        import_folder(tmp_path, tmp_path, image="B/{subject}.png", site="B", append=True, subject_prefix="B-")
    assert made.manifest.read_bytes() == before


def test_a_file_name_is_no_patient_unless_that_is_said(tmp_path: Path) -> None:
    photograph(tmp_path / "x" / "a.png"), photograph(tmp_path / "x" / "b.png")
    with pytest.raises(ManifestError, match="--one-image-per-subject"):
        import_folder(tmp_path, tmp_path, image="x/*.png", site="A")
    made = import_folder(tmp_path, tmp_path, image="x/*.png", site="A", one_image_per_subject=True)
    assert [case.subject for case in readable(made)] == ["x/a", "x/b"]
    photograph(tmp_path / "y" / "a.png")
    with pytest.raises(ManifestError, match="'a' has 2"):
        import_folder(tmp_path, tmp_path / "c.csv", image="*/{subject}.png", site="A", one_image_per_subject=True)
    for site in (None, " "):
        with pytest.raises(ManifestError, match="--site"):
            import_folder(tmp_path, tmp_path / "c.csv", image="x/{subject}.png", site=site)
    assert not (tmp_path / "c.csv").exists()


def test_pattern_mistakes(hospital: Path) -> None:
    def refused(match: str, **patterns: Any) -> None:
        with pytest.raises(ManifestError, match=match):
            import_folder(hospital, hospital, **({"image": "A/{subject}_0000.nii.gz", "site": "A"} | patterns))

    refused("nothing to import", image="Z/{subject}.png")
    refused("below SRC", image="../{subject}.png")
    refused("below SRC", image="/etc/{subject}")
    refused("is no name", image="{subject.__class__}.png")
    for image in ("{subject}{eye}.png", "{subject}*.png", "*{subject}.png", "{eye:[LR]}{subject}{visit}.png"):
        refused("next to each other.*write a width or a pattern", image=image)
    for image in ("{subject:[}.png", "{subject:0}.png", "{subject:}.png", "{subject:(?P<x>.)}.png"):
        refused("no regular expression|no plain regular expression", image=image)
    refused(r"\{patient\} is not in the image's pattern", mask="A/labels/{patient}.nii.gz")
    refused("narrow that pattern", mask="A/{subject}_*.nii.gz")
    volume(hospital / "A" / "labels" / "p1.b.nii")
    refused(r"p1\.b\.nii and p1\.nii\.gz both fit", mask="A/labels/{subject}.*")
    volume(hospital / "A" / "labels" / "p1.nii", 2)
    refused(r"p1\.nii: differs from p1\.nii\.gz", mask="A/labels/{subject}.nii*")
    refused(r"\{mask\} is a column of files", image="A/{subject}_{mask}.nii.gz")
    refused("give one of them", image="{site}/{subject}_0000.nii.gz")
    refused("did you mean|known", split="training")
    with pytest.raises(ManifestError, match="no such folder"):
        import_folder(hospital / "none", hospital, image="{subject}.png", site="A")


def test_fields_side_by_side_need_a_width_or_a_pattern(tmp_path: Path) -> None:
    """Sixteen eyes of eight patients: never one patient '0' of sixteen images."""
    for number in range(1, 9):
        photograph(tmp_path / f"{number:02d}L.png"), photograph(tmp_path / f"{number:02d}R.png")
    expected = [(f"{number:02d}", eye) for number in range(1, 9) for eye in "LR"]
    for place, image in enumerate(
        ("{subject:2}{eye}.png", "{subject}{eye:[LR]}.png", "{subject:2}{eye:1}.png", "{subject:[0-9]+}{eye}.png")
    ):
        made = import_folder(tmp_path, tmp_path / f"{place}.csv", image=image, site="A")
        assert [(case.subject, case.attributes["eye"]) for case in readable(made)] == expected
    # no piece crosses a folder
    assert Pattern("{site:.+}/{subject:2}.png").match("a/b/01.png") is None
    assert Pattern("{subject:2}/{subject}{eye}.png").match("01/01L.png") == {"subject": "01", "eye": "L"}


def test_patterns_repeat_a_name_and_cross_folders() -> None:
    same = Pattern("**/{subject}/{subject}_*.png")
    assert same.match("a/b/7/7_x.png") == same.match("7/7_x.png") == {"subject": "7"}
    assert same.match("a/7/8_x.png") is None
    assert Pattern("a[1]+{subject}.png").match("a[1]+z.png") == {"subject": "z"}


def test_a_folder_of_dicom_files_is_one_image(tmp_path: Path) -> None:
    for subject in ("p1", "p2"):
        folder = tmp_path / subject / "CT"
        folder.mkdir(parents=True)
        (folder / "IM1").write_bytes(b"\0" * 128 + b"DICM")
    (tmp_path / "p3" / "CT").mkdir(parents=True)
    made = import_folder(tmp_path, tmp_path, image="{subject}/CT", site="A")
    assert [case.name for case in read_manifest(made.manifest)] == ["p1/CT", "p2/CT"]


# ---------------------------------------------------------- hostile names
@pytest.mark.parametrize("name", ["a;b", "a\nb", "a\x1b[31m", "a\udcff", "line\u2028end"])
def test_a_name_that_a_manifest_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    try:
        photograph(tmp_path / "x" / f"{name}.png")
    except (OSError, UnicodeError):
        pytest.skip("this file system does not take the name")
    with pytest.raises(ManifestError) as caught:
        import_folder(tmp_path, tmp_path, image="x/*.png", site="A", one_image_per_subject=True)
    assert "rename it" in str(caught.value)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "manifest.csv").exists()


@pytest.mark.parametrize(
    "name",
    ["a,b", 'a"b', "=1+1", "Zoë", "<script>alert(1)</script>".replace("/", "_"), "{subject}", "a b", "-rf", "$(ls)"],
)
def test_odd_names_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    photograph(tmp_path / "x" / f"{name}.png"), photograph(tmp_path / "m" / f"{name}.png")
    made = import_folder(tmp_path, tmp_path, image="x/{subject}.png", mask="m/{subject}.png", site=name)
    (case,) = readable(made)
    assert (case.name, case.subject, case.site) == (f"x/{name}.png", name, name)
    assert case.labels == {"mask": tmp_path / "m" / f"{name}.png"}


def test_files_outside_the_manifest_s_folder_are_refused(tmp_path: Path) -> None:
    photograph(tmp_path / "data" / "a.png")
    with pytest.raises(ManifestError, match=r"lies outside the manifest's folder .*elsewhere.*\(OUT\)"):
        import_folder(tmp_path / "data", tmp_path / "elsewhere", image="{subject}.png", site="A")
    photograph(tmp_path / "secret.png")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ManifestError, match=r"link\.png lies outside"):
        import_folder(tmp_path / "data", tmp_path / "data", image="{subject}.png", site="A")
    assert not (tmp_path / "elsewhere").exists()
    (tmp_path / "way").symlink_to(tmp_path / "data")
    assert relative(tmp_path / "way" / "a.png", tmp_path / "data") == "a.png"


def test_out_is_a_folder_or_a_csv(tmp_path: Path) -> None:
    photograph(tmp_path / "data" / "a.png")
    made = import_folder(tmp_path / "data", tmp_path / "all.csv", image="{subject}.png", site="A")
    assert [case.name for case in readable(made)] == ["data/a.png"]
    with pytest.raises(OutputError, match="CSV"):
        import_folder(tmp_path / "data", tmp_path / "all.parquet", image="{subject}.png", site="A")


def test_the_printed_list_is_short_and_the_examples_spread(tmp_path: Path) -> None:
    for i in range(41):
        photograph(tmp_path / f"{i:02d}.png")
    made = import_folder(tmp_path, tmp_path, image="{subject}.png", mask="m/{subject}.png", site="A")
    assert [one.split(".")[0] for one in made.examples] == ["00", "10", "20", "30", "40"]
    assert len(made.unmatched) == 41
    assert "and 21 more" in str(made)


def test_what_was_written_goes_when_the_manifest_is_refused(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), photograph(tmp_path / "b.png")
    rows = [
        {"image": [tmp_path / f"{one}.png"], "subject": "1", "site": "A", "split": split}
        for one, split in (("a", "train"), ("b", "test"))
    ]
    with pytest.raises(ManifestError, match="two sides"):
        write_manifest(tmp_path, rows, files=[(tmp_path / "boxes" / "a.json", b"{}")])
    assert not (tmp_path / "manifest.csv").exists()
    assert not (tmp_path / "boxes" / "a.json").exists()
    (tmp_path / "kept.json").write_text("mine")
    with pytest.raises(OutputError, match="other content"):
        write_manifest(tmp_path, rows[:1], files=[(tmp_path / "kept.json", b"{}")])
    assert (tmp_path / "kept.json").read_text() == "mine"


# ---------------------------------------------------------- medmnist
def medmnist(path: Path, **arrays: np.ndarray) -> Path:
    rng = np.random.default_rng(0)
    held = {
        "train_images": rng.integers(0, 256, (5, 8, 8), np.uint8),
        "train_labels": np.array([[0], [1], [1], [0], [1]], np.uint8),
    }
    held |= {"test_images": rng.integers(0, 256, (2, 8, 8), np.uint8), "test_labels": np.array([[1], [0]], np.uint8)}
    np.savez(path, **(held | arrays))
    return path


def test_medmnist_becomes_pngs_with_splits_and_names(tmp_path: Path) -> None:
    src = medmnist(tmp_path / "a.npz")
    with pytest.raises(ManifestError, match="--one-image-per-subject"):
        import_medmnist(src, tmp_path / "out", site="A")
    made = import_medmnist(src, tmp_path / "out", site="A", classes={"0": "normal"}, one_image_per_subject=True)
    cases = readable(made)
    assert [case.split for case in cases] == ["train"] * 5 + ["test"] * 2
    assert [case.labels["label"] for case in cases] == ["normal", "1", "1", "normal", "1", "1", "normal"]
    assert len({case.subject for case in cases}) == 7
    with np.load(src) as held:
        for case, image in zip(cases, [*held["train_images"], *held["test_images"]], strict=True):
            np.testing.assert_array_equal(read_image(case.image).array[0], image)
    again = import_medmnist(src, tmp_path / "out", site="../B x", one_image_per_subject=True, append=True)
    assert {case.site for case in readable(again)} == {"A", "../B x"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["A", "B-x", "manifest.csv"]


def test_medmnist_without_test_images_names_the_part_to_be_tested(tmp_path: Path) -> None:
    zeros = np.zeros((2, 8, 8), np.uint8)
    src = tmp_path / "a.npz"
    np.savez(src, train_images=zeros, train_labels=np.zeros((2, 1)), val_images=zeros, val_labels=np.ones((2, 1)))
    made = import_medmnist(src, tmp_path / "out", site="A", one_image_per_subject=True, test="val")
    assert [case.split for case in readable(made)] == ["train"] * 2 + ["test"] * 2
    with pytest.raises(ManifestError, match="--test valid"):
        import_medmnist(src, tmp_path / "other", site="A", one_image_per_subject=True, test="valid")
    with pytest.raises(ManifestError, match="holds train, test"):
        import_medmnist(
            medmnist(tmp_path / "b.npz"), tmp_path / "other", site="A", one_image_per_subject=True, test="train"
        )


def test_medmnist_colour_volumes_and_several_labels(tmp_path: Path) -> None:
    colour = medmnist(tmp_path / "a.npz", train_images=np.full((5, 8, 8, 3), 7, np.uint8))
    made = import_medmnist(colour, tmp_path / "a", site="A", one_image_per_subject=True)
    assert read_image(readable(made)[0].image).array.shape == (3, 8, 8)
    solid = medmnist(tmp_path / "b.npz", train_images=np.full((5, 8, 9, 10), 7, np.uint8))
    made = import_medmnist(solid, tmp_path / "b", site="A", one_image_per_subject=True)
    assert read_image(readable(made)[0].image).array.shape == (1, 8, 9, 10)
    labels = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0]])
    several = medmnist(tmp_path / "c.npz", train_labels=labels, test_labels=labels[:2])
    made = import_medmnist(several, tmp_path / "c", site="A", classes={"1": "fluid"}, one_image_per_subject=True)
    assert [case.labels["label"] for case in readable(made)][:5] == ["none", "0", "fluid", "0|fluid", "none"]


def test_medmnist_refusals(tmp_path: Path) -> None:
    def refused(src: Path, kind: type[AllograftError], match: str, **more: Any) -> None:
        with pytest.raises(kind, match=match):
            import_medmnist(src, tmp_path / "out", **({"site": "A", "one_image_per_subject": True} | more))

    src = medmnist(tmp_path / "a.npz")
    refused(src, ManifestError, "unknown class '9'", classes={"9": "x"})
    refused(src, ManifestError, "class name 'a|b'", classes={"0": "a|b"})
    refused(src, ManifestError, "leave split out", split="train")
    refused(src, ManifestError, "needs a site", site="")
    refused(tmp_path / "none.npz", ManifestError, "no such file")
    (tmp_path / "text.npz").write_text("hello")
    refused(tmp_path / "text.npz", ImageError, "cannot be read")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    refused(tmp_path / "other.npz", ManifestError, "holds x; expected train_images")
    refused(medmnist(tmp_path / "b.npz", train_labels=np.zeros((4, 1))), ManifestError, "as many labels")
    np.savez(tmp_path / "pickle.npz", train_images=np.array([{}]), train_labels=np.zeros(1))
    refused(tmp_path / "pickle.npz", ImageError, "allow_pickle")
    assert not (tmp_path / "out").exists()


def test_the_real_pneumonia_mnist(tmp_path: Path, data_root: Path) -> None:
    with np.load(next((data_root / "pneumonia_mnist").glob("*.npz"))) as held:
        first = {key: held[key][:50] for key in held.files}
        everything = {key: len(held[key]) for key in held.files}
    assert everything["train_images"] == 4708
    np.savez(tmp_path / "first.npz", **first)
    names = {"0": "normal", "1": "pneumonia"}
    made = import_medmnist(
        tmp_path / "first.npz", tmp_path / "out", site="guangzhou", classes=names, one_image_per_subject=True
    )
    cases = readable(made)
    assert len(cases) == 100
    assert {case.labels["label"] for case in cases} == {"normal", "pneumonia"}
    assert {case.split for case in cases} == {"train", "val"}
    np.testing.assert_array_equal(read_image(cases[60].image).array[0], first["val_images"][10])


# ---------------------------------------------------------- msd, nnU-Net, BIDS
def decathlon(folder: Path) -> Path:
    for name in ("imagesTr/h_1", "imagesTr/h_2", "labelsTr/h_1", "imagesTs/h_3"):
        volume(folder / f"{name}.nii.gz")
    pairs = [{"image": f"./imagesTr/h_{i}.nii.gz", "label": f"./labelsTr/h_{i}.nii.gz"} for i in (1, 2, 4)]
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    write_json(folder / "dataset.json", {"training": pairs, "test": ["./imagesTs/h_3.nii.gz"], "labels": labels})
    return folder


def test_msd(tmp_path: Path) -> None:
    src = decathlon(tmp_path / "Task04")
    with pytest.raises(ManifestError, match="--one-image-per-subject"):
        import_msd(src, tmp_path, site="A")
    made = import_msd(src, tmp_path, site="A", one_image_per_subject=True)
    cases = readable(made)
    assert [(case.name, case.subject, bool(case.labels)) for case in cases] == [
        ("Task04/imagesTr/h_1.nii.gz", "h_1", True),
        ("Task04/imagesTr/h_2.nii.gz", "h_2", False),
    ]
    assert len(made.unmatched) == 3
    assert 'task: {segmentation: {classes: {"Anterior": [1], "Posterior": [2]}}}' in str(made)
    made = import_msd(src, src, site="A", subject="h_{subject}", unlabelled=True)
    assert [case.subject for case in readable(made)] == ["1", "2", "3"]
    with pytest.raises(ManifestError, match="does not fit the subject pattern"):
        import_msd(src, tmp_path / "b.csv", site="A", subject="x_{subject}")


@pytest.mark.parametrize(
    "held",
    [
        [],
        {"training": 5},
        {"training": [3]},
        {"training": [{"image": "", "label": ""}]},
        {"training": [], "labels": {"a": {}}},
        "no JSON",
    ],
)
def test_msd_refusals(tmp_path: Path, held: object) -> None:
    (tmp_path / "dataset.json").write_text(held if isinstance(held, str) else json.dumps(held))
    with pytest.raises(ManifestError):
        import_msd(tmp_path, tmp_path, site="A", one_image_per_subject=True)
    assert sorted(os.listdir(tmp_path)) == ["dataset.json"]


def test_a_hostile_path_in_a_json_does_not_leave_the_folder(tmp_path: Path) -> None:
    volume(tmp_path / "secret.nii.gz")
    for image in ("../secret.nii.gz", str(tmp_path / "secret.nii.gz")):
        write_json(tmp_path / "data" / "dataset.json", {"training": [{"image": image, "label": image}]})
        with pytest.raises(ManifestError, match="lies outside"):
            import_msd(tmp_path / "data", tmp_path / "data", site="A", one_image_per_subject=True)
    for image in ("a\0b", "x" * 5000):
        write_json(tmp_path / "data" / "dataset.json", {"training": [{"image": image, "label": image}]})
        with pytest.raises(ManifestError, match="nothing to import"):
            import_msd(tmp_path / "data", tmp_path / "data", site="A", one_image_per_subject=True)


def test_nnunet(tmp_path: Path) -> None:
    for name in (
        "imagesTr/p1_a_0000",
        "imagesTr/p1_a_0001",
        "imagesTr/p2_a_0000",
        "imagesTs/p3_a_0000",
        "imagesTs/p3_a_0001",
    ):
        volume(tmp_path / f"{name}.nii.gz")
    for name in ("labelsTr/p1_a", "labelsTr/p2_a", "labelsTr/p7_a"):
        volume(tmp_path / f"{name}.nii.gz")
    photograph(tmp_path / "imagesTr" / "stray.png")
    write_json(tmp_path / "dataset.json", {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}})
    made = import_nnunet(tmp_path, tmp_path, site="A", subject="{subject}_*")
    (case,) = readable(made)
    assert (case.name, case.subject) == ("imagesTr/p1_a_0000.nii.gz;imagesTr/p1_a_0001.nii.gz", "p1")
    assert read_image(case.image).array.shape == (2, 3, 4, 5)
    assert case.labels == {"mask": tmp_path / "labelsTr" / "p1_a.nii.gz"}
    assert 'segmentation: {classes: {"whole only": [1], "whole and core": [2]}}' in str(made)
    lacks = {one.split(":")[0] for one in made.unmatched}
    assert lacks == {"imagesTr/stray.png", "p2_a", "labelsTr/p2_a.nii.gz", "labelsTr/p7_a.nii.gz", "imagesTs/p3_a"}
    made = import_nnunet(tmp_path, tmp_path / "b.csv", site="A", one_image_per_subject=True, unlabelled=True)
    assert [(case.subject, bool(case.labels)) for case in readable(made)] == [("p1_a", True), ("p3_a", False)]
    with pytest.raises(ManifestError, match="expected a dataset folder of nnU-Net"):
        import_nnunet(tmp_path / "labelsTr", tmp_path / "c.csv", site="A", one_image_per_subject=True)
    photograph(tmp_path / "imagesTr" / "p1_a_0000.png")
    with pytest.raises(ManifestError, match="same channel"):
        import_nnunet(tmp_path, tmp_path / "c.csv", site="A", one_image_per_subject=True)


def test_bids(tmp_path: Path) -> None:
    for name in (
        "sub-01/anat/sub-01_T1w",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w",
        "sub-02/ses-b/anat/sub-02_ses-b_run-1_T1w",
    ):
        volume(tmp_path / f"{name}.nii.gz")
    volume(tmp_path / "sub-01" / "anat" / "sub-01_T2w.nii.gz")
    volume(tmp_path / "sub-01" / "anat" / "sub-09_T1w.nii.gz")
    volume(tmp_path / "derivatives" / "manual" / "sub-02_ses-b_run-1_mask.nii.gz")
    volume(tmp_path / "derivatives" / "manual" / "sub-05_mask.nii.gz")
    made = import_bids(tmp_path, tmp_path, mask="derivatives/manual/{name}_mask.nii.gz", site="A")
    cases = readable(made)
    assert [(case.subject, case.attributes.get("timepoint"), "mask" in case.labels) for case in cases] == [
        ("01", None, False),
        ("02", "a", False),
        ("02", "b", True),
    ]
    assert len(made.unmatched) == 4
    (tmp_path / "participants.tsv").write_text("participant_id\tcentre\nsub-01\tnorth\nsub-02\tsouth\n")
    made = import_bids(
        tmp_path,
        tmp_path / "b.csv",
        site_column="centre",
        mask="derivatives/manual/sub-{subject}_ses-{session}_*.nii.gz",
    )
    assert [case.site for case in readable(made)] == ["north", "south", "south"]
    made = import_bids(tmp_path, tmp_path / "c.csv", suffix=["T1w", "T2w"], site="A")
    assert [case.name for case in readable(made)] == ["sub-01/anat/sub-01_T1w.nii.gz;sub-01/anat/sub-01_T2w.nii.gz"]
    for match, more in (
        ("found T1w, T2w", {"suffix": "FLAIR", "site": "A"}),
        ("unknown column 'center'; did you mean 'centre'", {"site_column": "center"}),
        ("--site", {}),
    ):
        with pytest.raises(ManifestError, match=match):
            import_bids(tmp_path, tmp_path / "d.csv", **more)
    (tmp_path / "participants.tsv").write_text("participant_id\tcentre\nsub-01\tnorth\n")
    with pytest.raises(ManifestError, match=r"sub-02_ses-a_T1w\.nii\.gz has no site"):
        import_bids(tmp_path, tmp_path / "d.csv", site_column="centre")


# ---------------------------------------------------------- boxes
def coco(folder: Path, annotations: list[dict[str, Any]], files: tuple[str, ...] = ("a.png", "deep/b.png")) -> Path:
    images = [{"id": i, "file_name": name, "width": 30, "height": 20} for i, name in enumerate(files)]
    return write_json(
        folder / "coco.json", {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "rbc"}]}
    )


def test_coco(tmp_path: Path) -> None:
    (
        photograph(tmp_path / "x" / "a.png"),
        photograph(tmp_path / "x" / "deep" / "b.png"),
        photograph(tmp_path / "x" / "stray.png"),
    )
    notes = [
        {"id": 1, "image_id": 0, "category_id": 3, "bbox": [1, 2, 10, 5.5]},
        {"id": 2, "image_id": 0, "category_id": 3, "bbox": [25, 0, 9, 9]},
    ]
    notes.append({"id": 3, "image_id": 0, "category_id": 3, "bbox": [0, 0, 30, 20], "iscrowd": 1})
    src = coco(tmp_path, notes, ("a.png", "deep/b.png", "gone.png"))
    with pytest.raises(ManifestError, match="--one-image-per-subject"):
        import_coco(src, tmp_path, images=tmp_path / "x", site="A")
    made = import_coco(src, tmp_path, images=tmp_path / "x", site="A", one_image_per_subject=True, split="train")
    one, two = readable(made)
    assert boxes(one) == {"boxes": [[1, 2, 11, 7.5], [25, 0, 30, 9]], "labels": ["rbc", "rbc"]}
    assert boxes(two) == {"boxes": [], "labels": []}
    assert (two.name, two.subject, two.split) == ("x/deep/b.png", "deep/b", "train")
    assert [text.split(":")[0] for text in made.unmatched] == ["gone.png", "stray.png"]
    assert "crowds left out: 1" in made.notes


def test_coco_boxes_listed_twice_count_once(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    one = {"image_id": 0, "category_id": 3, "bbox": [1, 2, 10, 5.5]}
    other = {"image_id": 0, "category_id": 3, "bbox": [2, 2, 10, 5.5]}
    src = coco(tmp_path, [{"id": 1} | one, {"id": 2} | other, {"id": 3} | one], ("a.png",))
    made = import_coco(src, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert boxes(readable(made)[0])["boxes"] == [[1, 2, 11, 7.5], [2, 2, 12, 7.5]]
    assert "boxes listed twice left out: 1" in made.notes
    assert any("annotation 3" in line and "listed twice" in line for line in made.unmatched)


@pytest.mark.parametrize(
    "note",
    [
        {"image_id": 9, "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 0, "category_id": 9, "bbox": [0, 0, 1, 1]},
        {"image_id": [0], "category_id": 3, "bbox": [0, 0, 1, 1]},
        {"image_id": 0, "category_id": 3, "bbox": [0, 0, 1]},
        {"image_id": 0, "category_id": 3, "bbox": [0, 0, "1", 1]},
        {"image_id": 0, "category_id": 3, "bbox": [0, 0, float("inf"), float("nan")]},
    ],
)
def test_coco_annotations_that_make_no_sense(tmp_path: Path, note: dict[str, Any]) -> None:
    photograph(tmp_path / "a.png")
    with pytest.raises(ManifestError, match="annotation 7"):
        import_coco(coco(tmp_path, [{"id": 7} | note]), tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert not (tmp_path / "boxes").exists()


def test_hostile_names_in_coco(tmp_path: Path) -> None:
    photograph(tmp_path / "secret.png"), photograph(tmp_path / "data" / "a.png")
    src = coco(tmp_path / "data", [], ("../secret.png",))
    with pytest.raises(ManifestError, match="lies outside"):
        import_coco(src, tmp_path / "data", images=tmp_path / "data", site="A", one_image_per_subject=True)
    for name in ("a\0.png", "x" * 5000, "a.png/b", str(tmp_path / "secret.png")):
        src = coco(tmp_path / "data", [], (name,))
        with pytest.raises(ManifestError, match="nothing to import"):
            import_coco(src, tmp_path / "data", images=tmp_path / "data", site="A", one_image_per_subject=True)


def voc(path: Path, body: str, head: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{head}<annotation><size><width>30</width><height>20</height></size>{body}</annotation>")
    return path


CELL = "<object><name>wbc</name><bndbox><xmin>1</xmin><ymin>3</ymin><xmax>30</xmax><ymax>9</ymax></bndbox></object>"


@pytest.mark.parametrize("width", ["-30", "0", "inf", "1e9", "many", ""])
def test_a_size_that_is_none_cuts_no_box(width: str, tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    written = voc(tmp_path / "a.xml", CELL)
    written.write_text(written.read_text().replace("<width>30<", f"<width>{width}<"))
    made = import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert boxes(readable(made)[0])["boxes"] == [[0, 2, 30, 9]]


def test_voc(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        photograph(tmp_path / "images" / f"{name}.png")
    (
        voc(tmp_path / "xml" / "a.xml", CELL),
        voc(tmp_path / "xml" / "other.xml", "<filename>../../b.png</filename>"),
        voc(tmp_path / "xml" / "z.xml", CELL),
    )
    made = import_voc(tmp_path / "xml", tmp_path, images=tmp_path / "images", site="A", one_image_per_subject=True)
    one, two = readable(made)
    assert boxes(one) == {"boxes": [[0, 2, 30, 9]], "labels": ["wbc"]}
    assert (two.subject, boxes(two)["boxes"]) == ("b", [])
    assert [text.split(":")[0] for text in made.unmatched] == ["z.xml", "c.png"]


def test_a_voc_box_of_no_area_is_left_out_and_named(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", CELL.replace("30", "0") + CELL)
    made = import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert boxes(readable(made)[0]) == {"boxes": [[0, 2, 30, 9]], "labels": ["wbc"]}
    assert [one.partition(": box")[0] for one in made.unmatched] == ["a.xml, object 1"]


def test_difficult_boxes_of_voc_are_kept_and_counted(tmp_path: Path) -> None:
    difficult = CELL.replace("</object>", "<difficult>1</difficult></object>")
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", difficult + CELL.replace("30", "20"))
    made = import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert len(boxes(readable(made)[0])["boxes"]) == 2
    assert "boxes marked difficult, kept like all others: 1" in made.notes


def test_voc_counted_from_zero(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", CELL)
    made = import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True, zero_based=True)
    assert boxes(readable(made)[0])["boxes"] == [[1, 3, 30, 9]]


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (CELL.replace("<xmax>30</xmax>", ""), ""),
        (CELL.replace("30", "many"), ""),
        (CELL.replace("wbc", ""), ""),
        ("<object>", ""),
        (CELL, '<!DOCTYPE a [<!ENTITY x "y">]>'),
        (CELL, '<?xml version="1.0" encoding="nonsense"?>'),
    ],
)
def test_voc_refusals(tmp_path: Path, body: str, head: str) -> None:
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", body, head)
    with pytest.raises(ManifestError, match=r"a\.xml"):
        import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)
    assert not (tmp_path / "manifest.csv").exists()


def test_voc_in_utf_16_is_refused_since_words_could_hide_in_it(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), voc(tmp_path / "a.xml", CELL)
    text = (tmp_path / "a.xml").read_text(encoding="utf-8")
    (tmp_path / "a.xml").write_bytes(f"<?xml version='1.0' encoding='utf-16'?>{text}".encode("utf-16"))
    with pytest.raises(ManifestError, match="UTF-16"):
        import_voc(tmp_path, tmp_path, images=tmp_path, site="A", one_image_per_subject=True)


# ---------------------------------------------------------- table
def table(path: Path, *rows: tuple[str, ...], mark: str = ",") -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=mark).writerows(rows)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_table(tmp_path: Path, mark: str) -> None:
    photograph(tmp_path / "x" / "1.png"), photograph(tmp_path / "x" / "2.png"), photograph(tmp_path / "m" / "1.png")
    head = ("id", "patient_id", "hospital", "dx", "age", "name")
    rows = [
        ("1", "p1", "north", "0", "40", "Doe"),
        ("2", "p2", "south", "NA", "", "Roe"),
        ("3", "p3", "south", "1", "9", "Poe"),
    ]
    src = table(tmp_path / "labels.csv", head, *rows, mark=mark)
    columns: dict[str, Any] = {"subject": "patient_id", "site": "hospital", "label": "dx", "attributes": ["age"]}
    made = import_table(src, tmp_path, image="x/{id}.png", mask="m/{id}.png", classes={"0": "normal"}, **columns)
    one, two = readable(made)
    assert one == Case(
        "x/1.png",
        "p1",
        "north",
        (tmp_path / "x/1.png",),
        {"mask": tmp_path / "m/1.png", "label": "normal"},
        attributes={"age": "40"},
    )
    assert (two.labels, two.attributes) == ({}, {})
    assert made.unmatched == ("row 3: no mask m/2.png; imported without", "row 4: no image x/3.png")
    assert "Doe" not in made.manifest.read_text()


def test_table_by_columns_of_paths(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png"), photograph(tmp_path / "b.png")
    src = table(tmp_path / "t.csv", ("path", "second", "part"), ("a.png", "b.png", "val"))
    made = import_table(
        src, tmp_path, image=["path", "second"], site_name="A", split_column="part", one_image_per_subject=True
    )
    (case,) = readable(made)
    assert (case.name, case.subject, case.site, case.split) == ("a.png;b.png", "a", "A", "val")
    for match, more in (
        ("unknown column 'paht'; did you mean 'path'", {"image": "paht"}),
        ("unknown column 'dx'", {"label": "dx"}),
        ("--one-image-per-subject", {"one_image_per_subject": False}),
        ("--site", {"site_name": None}),
        ("unknown column 'x.__class__'", {"image": "{x.__class__}.png"}),
    ):
        with pytest.raises(ManifestError, match=match):
            import_table(
                src, tmp_path / "b.csv", **({"image": "path", "site_name": "A", "one_image_per_subject": True} | more)
            )
    (tmp_path / "empty.csv").write_text("path\n")
    with pytest.raises(ManifestError, match="no rows"):
        import_table(tmp_path / "empty.csv", tmp_path, image="path", site_name="A", one_image_per_subject=True)
    (tmp_path / "wide.csv").write_bytes("path\nä.png".encode("utf-16"))
    with pytest.raises(ManifestError, match="UTF-8"):
        import_table(tmp_path / "wide.csv", tmp_path, image="path", site_name="A", one_image_per_subject=True)
    hostile = table(tmp_path / "h.csv", ("path",), ("../../../etc/passwd",))
    with pytest.raises(ManifestError, match=r"lies outside|nothing to import"):
        import_table(hostile, tmp_path, image="path", site_name="A", one_image_per_subject=True)


def test_real_cases_are_referenced_where_they_lie_or_refused(tmp_path: Path, data_root: Path) -> None:
    with pytest.raises(ManifestError, match="files are not copied"):
        import_folder(
            data_root / "hippocampus",
            tmp_path,
            image="images/{subject}.nii.gz",
            mask="masks/{subject}.nii.gz",
            site="A",
        )
    with pytest.raises(ManifestError, match="files are not copied"):
        import_table(
            data_root / "skin" / "manifest.csv", tmp_path, image="image", subject="subject", site="site", label="label"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_name_with_a_line_break_is_printed_on_one_line(tmp_path: Path) -> None:
    photograph(tmp_path / "a.png")
    row = {"image": [tmp_path / "a.png"], "subject": "1", "site": "A"}
    made = write_manifest(tmp_path, [row], ["bad\nname\x1b[2J: no image"])
    assert len(str(made).splitlines()) == 4
    assert "\x1b" not in str(made)
