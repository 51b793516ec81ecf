"""A first study: what is asked of which sites, with sizes and recipes that fit; what cannot be asked
is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.errors import AllograftError
from allograft.run.first_study import first_study
from allograft.run.study_text import study_text
from allograft.study import read_study

FINETUNE = [{"finetune": {"scope": "top"}}, {"finetune": {"scope": "full"}}]


def a_cohort(
    folder: Path,
    sites: Mapping[str, int],
    kind: str = "mask",
    *,
    size: Mapping[str, tuple[int, int]] | None = None,
    values: Sequence[int] = (1,),
    labels: Sequence[str] = ("sick", "normal"),
    unlabelled: Sequence[str] = (),
) -> Path:
    """Noise, so that no two pictures are alike, with labels of one kind."""
    rows, sizes = [], size or {}
    for site, subjects in sites.items():
        for number in range(subjects):
            rng, name = np.random.default_rng([len(rows), 5]), f"{site}{number}"
            shape = sizes.get(site, (48, 64))
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, shape).astype(np.uint8)).save(folder / f"{name}.png")
            row = {"image": f"{name}.png", kind: "", "subject": name, "site": site}
            if site not in unlabelled:
                row[kind] = _label(folder / name, kind, shape, values, labels[number % len(labels)])
            rows.append(row)
    return write_rows(folder / "manifest.csv", rows)


def _label(path: Path, kind: str, shape: tuple[int, int], values: Sequence[int], label: str) -> str:
    if kind == "label":
        return label
    if kind == "boxes":
        path.with_suffix(".json").write_text(json.dumps({"boxes": [[1, 1, 9, 9]], "labels": [label]}))
        return f"{path.name}.json"
    mask = np.zeros(shape, np.uint8)
    for row, value in enumerate(values):
        mask[2 * row + 2] = value
    Image.fromarray(mask).save(path.with_name(f"{path.name}-m.png"))
    return f"{path.name}-m.png"


def keys_of(manifest: Path, **sides: Sequence[str]) -> dict[str, Any]:
    """The keys, after the file they make was read as a study."""
    made, file = first_study(manifest, **sides), manifest.with_name("study.yaml")
    file.write_text(study_text(made, "study.yaml"))
    study = read_study(file)
    assert (list(study.source), len(study.target)) == (made.keys["source"], len(made.keys["target"]))
    assert len(study.recipes) == len(made.keys["recipes"])
    assert study.manifest.samefile(manifest)
    return dict(made.keys)


def test_the_site_with_most_labels_is_the_source(tmp_path: Path) -> None:
    keys = keys_of(a_cohort(tmp_path, {"a": 4, "b": 8, "c": 6}, unlabelled=["c"]))
    assert (keys["source"], keys["target"]) == (["b"], ["a", "c"])
    # c has no labels, so that nothing is left to the recipes that need some
    # a radius of 0.04 x 48 pixels is more than one, that of 0.01 would be the mean alone
    assert keys["recipes"] == [{"fourier": {"beta": 0.04}}, "histogram", "adabn"]
    assert "target_labels" not in keys
    keys = keys_of(tmp_path / "manifest.csv", source=["a"], target=["b"])
    assert (keys["source"], keys["target"]) == (["a"], ["b"])
    # of eight subjects four are tested, and four are left
    assert (keys["recipes"][3:], keys["target_labels"], keys["test"]) == (FINETUNE, {"subjects": 4}, {"fraction": 0.5})
    # adabn is listed
    assert keys["network"]["unet"]["norm"] == "batch"


def test_sizes_that_divide(tmp_path: Path) -> None:
    assert keys_of(a_cohort(tmp_path / "one", {"a": 4, "b": 4}))["preprocessing"] == {"intensity": "zscore"}
    keys = keys_of(a_cohort(tmp_path / "two", {"a": 4, "b": 3}, size={"a": (50, 66), "b": (50, 66)}))
    assert keys["patch"] == [48, 64]  # crops; whole images are padded where they are judged
    keys = keys_of(a_cohort(tmp_path / "three", {"a": 4, "b": 3}, size={"a": (99, 66), "b": (400, 300)}))
    assert keys["preprocessing"]["size"] == [96, 64]
    keys = keys_of(a_cohort(tmp_path / "four", {"a": 4, "b": 4}, size={"a": (900, 700), "b": (900, 700)}))
    assert keys["preprocessing"]["size"] == [384, 304]
    assert keys["patch"] == [128, 128]  # whole images would be slow


def test_mask_values_become_classes(tmp_path: Path) -> None:
    sides = {"a": 3, "b": 3}
    assert keys_of(a_cohort(tmp_path / "1", sides, values=[255]))["task"] == {
        "segmentation": {"classes": ["foreground"]}
    }
    assert keys_of(a_cohort(tmp_path / "2", sides, values=[1, 4]))["task"] == {
        "segmentation": {"classes": {"class-1": [1], "class-4": [4]}}
    }
    with pytest.raises(AllograftError, match=r"masks hold 20 values, up to 20; .* store 1 for all of them"):
        first_study(a_cohort(tmp_path / "3", sides, values=range(1, 21)))
    with pytest.raises(AllograftError, match="every mask is empty"):
        first_study(a_cohort(tmp_path / "4", sides, values=[0]))


def test_class_names_begin_with_the_healthy_one(tmp_path: Path) -> None:
    keys = keys_of(a_cohort(tmp_path / "1", {"a": 6, "b": 6}, "label", labels=("flu", "normal", "cold")))
    assert keys["task"] == {"classification": {"classes": ["normal", "cold", "flu"]}}
    assert keys["network"] == {"resnet": {"depth": 18, "small_stem": True}}
    assert keys["preprocessing"]["size"] == [64, 64]  # 48 is no multiple of 32
    keys = keys_of(a_cohort(tmp_path / "2", {"a": 6, "b": 6}, "label", labels=("flu|cold", "normal")))
    assert keys["task"] == {"multilabel": {"classes": ["normal", "cold", "flu"]}}
    keys = keys_of(a_cohort(tmp_path / "4", {"a": 6, "b": 6}, "label", labels=("benign", "malignant", "normal")))
    assert keys["task"] == {"classification": {"classes": ["normal", "benign", "malignant"]}}
    with pytest.raises(AllograftError, match="every label is 'flu'; expected two classes"):
        first_study(a_cohort(tmp_path / "3", {"a": 6, "b": 6}, "label", labels=("flu",)))


def test_a_target_of_one_class_is_said_to_have_no_auroc(tmp_path: Path) -> None:
    manifest = a_cohort(tmp_path, {"a": 4, "b": 6}, "label")
    text = "".join(line.replace("normal", "sick") if ",b" in line else line for line in manifest.open())
    manifest.write_text(text)
    made = first_study(manifest)
    # b has more subjects, a both classes
    assert (made.keys["source"], made.keys["target"]) == (["a"], ["b"])
    assert made.notes == ("b has only one class: its auroc is undefined, accuracy and recall are measured",)


def test_one_site_is_asked_within(tmp_path: Path) -> None:
    made = first_study(a_cohort(tmp_path, {"a": 6}))
    keys = keys_of(tmp_path / "manifest.csv")
    assert (keys["source"], keys["target"], keys["pool"]) == (["a"], ["a"], ["a"])
    assert keys["recipes"] == [{"supervised": {"first": "reconstruction"}}]
    assert made.notes == ("no other site can be tested: the study stays within a, from some patients to others",)


def test_boxes(tmp_path: Path) -> None:
    keys = keys_of(a_cohort(tmp_path / "1", {"a": 6, "b": 5}, "boxes", labels=("cell",)))
    assert (keys["task"], keys["network"]) == (
        {"detection": {"classes": ["cell"]}},
        {"faster_rcnn": {"backbone": "tiny"}},
    )
    keys = keys_of(a_cohort(tmp_path / "2", {"a": 6}, "boxes", labels=("cell",)))
    assert (keys["source"], keys["target"], keys["recipes"]) == (["a"], ["a"], [])


def test_pairs_of_one_site_are_retrieved_from_as_many_as_there_are(tmp_path: Path) -> None:
    keys = keys_of(a_cohort(tmp_path, {"a": 9}, "paired"))
    assert (keys["task"], keys["recipes"]) == ({"synthesis": {}}, [{"mris": {"k": 2}}])


def test_a_site_with_one_patient_is_no_target(tmp_path: Path) -> None:
    made = first_study(a_cohort(tmp_path, {"a": 6, "b": 1}))
    # a can be tested, so b is what is trained on
    assert (made.keys["source"], made.keys["target"]) == (["b"], ["a"])
    assert made.notes == ("b has one subject: a model can be trained on it, but not tested",)
    with pytest.raises(AllograftError, match="--target b: has one subject, so none is left to test"):
        first_study(tmp_path / "manifest.csv", target=["b"])


def test_pictures_that_patients_share_are_grouped(tmp_path: Path) -> None:
    manifest = a_cohort(tmp_path, {"a": 5, "b": 5})
    assert "near_duplicates" not in keys_of(manifest)
    (tmp_path / "a1.png").write_bytes((tmp_path / "b1.png").read_bytes())
    assert keys_of(manifest)["near_duplicates"] == "group"


def test_volumes_get_a_patch_and_one_spacing(tmp_path: Path) -> None:
    rows = []
    for site, mm in (("a", 1.0), ("b", 2.0)):
        for number in range(4):
            rng, name = np.random.default_rng([number, len(rows)]), f"{site}{number}"
            affine = np.diag([1.0, 1.0, mm, 1.0])
            nibabel.save(nibabel.Nifti1Image(rng.normal(size=(35, 50, 20)), affine), tmp_path / f"{name}.nii.gz")
            mask = np.ones((35, 50, 20), np.uint8)
            nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / f"{name}-m.nii.gz")
            rows.append({"image": f"{name}.nii.gz", "mask": f"{name}-m.nii.gz", "subject": name, "site": site})
    keys = keys_of(write_rows(tmp_path / "manifest.csv", rows))
    assert keys["network"]["unet"]["spatial_dims"] == 3
    assert keys["patch"] == [32, 48, 16]
    assert keys["preprocessing"] == {"intensity": "zscore", "orientation": "RAS", "spacing": [1.0, 1.0, 1.0]}


def test_what_cannot_be_asked_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AllograftError, match="no case has a label; found no mask, label, boxes, paired"):
        first_study(a_cohort(tmp_path / "1", {"a": 4, "b": 4}, unlabelled=["a", "b"]))
    with pytest.raises(AllograftError, match=r"found a \(2 subjects, 2 labelled\); expected two sites"):
        first_study(a_cohort(tmp_path / "2", {"a": 2}))
    manifest = a_cohort(tmp_path / "3", {"drive": 4, "chase": 4}, unlabelled=["chase"])
    with pytest.raises(AllograftError, match="unknown site 'driv'; did you mean 'drive'"):
        first_study(manifest, source=["driv"])
    with pytest.raises(AllograftError, match="--source chase: no case there has a 'mask'; expected one of drive"):
        first_study(manifest, source=["chase"])
    (tmp_path / "3" / "drive1.png").write_bytes(b"no picture")
    with pytest.raises(AllograftError, match=r"drive1\.png: .*; 1 of 8 cases cannot be used"):
        first_study(manifest)
