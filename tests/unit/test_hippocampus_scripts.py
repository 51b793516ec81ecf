"""The scripts that make cohorts of the hippocampus: no test subject has a say in a class, and no
subject is in two data sets."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(folder: Path, sizes: dict[str, int]) -> Path:
    """Volumes whose masks have so many voxels, of both labels."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    rows = ["image,mask,subject,site"]
    for subject, size in sizes.items():
        mask = np.zeros((4, 4, 4), np.uint8)
        mask.ravel()[:size] = np.arange(size) % 2 + 1
        for part, values in (("images", mask.astype(np.float32)), ("masks", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / part / f"{subject}.nii.gz")  # type: ignore[attr-defined]
        rows.append(f"images/{subject}.nii.gz,masks/{subject}.nii.gz,{subject},any")
    (folder / "manifest.csv").write_text("\n".join(rows) + "\n")
    return folder / "manifest.csv"


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tertiles_are_of_the_training_subjects_alone(tmp_path: Path) -> None:
    classes = script("hippocampus_classes")
    sizes = {f"s{number:02}": 4 + number for number in range(20)}
    tested = classes.drawn(list(sizes))
    assert len(tested) == 2
    made = []
    for name, change in (("as they are", 0), ("larger", 36)):
        manifest = write(tmp_path / name, {s: size + change * (s in tested) for s, size in sizes.items()})
        classes.main(manifest, tmp_path / name / "out")
        made.append(read(tmp_path / name / "out" / "manifest.csv"))
    labels = [{row["subject"]: row["label"] for row in rows} for rows in made]
    assert {row["subject"] for row in made[0] if row["split"] == "test"} == tested
    assert all(labels[0][subject] == labels[1][subject] for subject in set(sizes) - tested)
    assert {labels[1][subject] for subject in tested} == {"large"}
    counts = [sum(labels[0][s] == name for s in set(sizes) - tested) for name in classes.CLASSES]
    assert counts == [6, 6, 6]


def test_each_part_has_subjects_and_labels_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("hippocampus_parts").main(write(tmp_path / "both", {f"s{n}": 10 for n in range(6)}), tmp_path / "out")
    rows = {name: read(tmp_path / "out" / f"{name}.csv") for name in ("anterior", "posterior", "whole")}
    subjects = [row["subject"] for each in rows.values() for row in each]
    assert len(subjects) == len(set(subjects)) == 6
    for name, values in {"anterior": {0, 1}, "posterior": {0, 2}, "whole": {0, 1, 2}}.items():
        for row in rows[name]:
            mask = np.asarray(nibabel.load(tmp_path / "out" / row["mask"]).dataobj)  # type: ignore[attr-defined]
            assert set(np.unique(mask)) == values
    assert "whole: 2 images of 2 subjects" in capsys.readouterr().out
