"""What a header leaves open is a finding of doctor's: NaN, two places, no orientation."""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest

from allograft.cohort import Cohort, Preprocessing
from allograft.cohort.copies import find_duplicates
from allograft.cohort.doctor import examine
from allograft.cohort.findings import Finding
from allograft.cohort.manifest import read_manifest
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.readers import read_image
from allograft.errors import ImageError, SpecError


def manifest(folder: Path, *names: str) -> Path:
    rows = "".join(f"{name},{number},a\n" for number, name in enumerate(names))
    (folder / "manifest.csv").write_text(f"image,subject,site\n{rows}")
    return folder / "manifest.csv"


def found(path: Path, topic: str, preprocessing: Preprocessing | None = None) -> Finding:
    (one,) = [finding for finding in examine(path, preprocessing=preprocessing).findings if finding.topic == topic]
    return one


@pytest.fixture
def holes(tmp_path: Path) -> Path:
    """A volume whose background is NaN, and one without."""
    array = np.random.default_rng(0).random((6, 7, 8)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "whole.nii.gz")
    array[:2] = np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "holes.nii.gz")
    return manifest(tmp_path, "holes.nii.gz", "whole.nii.gz")


def test_nan_is_refused_with_the_setting_that_takes_it(holes: Path) -> None:
    with pytest.raises(ImageError, match=r"112 of 336 pixels are NaN .*preprocessing: \{nan: 0\}"):
        Cohort.read(holes).case(0)


def test_nan_becomes_what_the_preprocessing_says(holes: Path) -> None:
    kept = Cohort.read(holes, preprocessing=Preprocessing(intensity="none", nan=-5)).case(0).image
    assert (kept[0, 0, :2] == -5).all()
    assert (kept[0, 0, 2:] >= 0).all()
    array = read_image([holes.parent / "holes.nii.gz"], nan=0.0).array
    assert (array[0, :2] == 0).all()


def test_nan_is_a_finding_that_stops_and_with_the_setting_a_note(holes: Path) -> None:
    stop = found(holes, "nan")
    assert (stop.severity, [one.row for one in stop.cases]) == ("stop", [2])
    assert "preprocessing: {nan: 0}" in stop.text
    assert found(holes, "nan", Preprocessing(nan=0)).severity == "note"
    assert not find_duplicates(read_manifest(holes)).copies


def test_infinite_pixels_stay_refused(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[0, 0, :2] = np.inf, np.nan
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(ImageError, match="1 of 120 pixels"):
        read_image([tmp_path / "a.nii"], nan=0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_the_value_of_nan_is_a_number(value: float) -> None:
    with pytest.raises(SpecError, match="finite"):
        Preprocessing(nan=value)


def test_the_setting_at_its_default_changes_no_key(holes: Path) -> None:
    case = read_manifest(holes)[1]
    coding = Cohort.read(holes).prepared.coding
    one, other = (PreparedImages(Preprocessing(nan=nan), coding) for nan in (None, 0.0))
    assert "nan" not in one._settings
    assert one.fingerprint(case) != other.fingerprint(case)


def test_sform_and_qform_that_disagree_are_a_finding(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.diag([1.0, 1, 2, 1]))
    image.set_qform(np.diag([1.0, 1, 2, 1]), 1)
    nibabel.save(image, tmp_path / "same.nii")
    moved = np.diag([1.0, 1, 2, 1])
    moved[0, 3] = 30
    image.set_qform(moved, 1)
    nibabel.save(image, tmp_path / "two.nii.gz")
    one = found(manifest(tmp_path, "same.nii", "two.nii.gz"), "sform")
    assert (one.severity, [each.row for each in one.cases]) == ("warning", [3])
    assert "disagree, by 30 mm" in one.cases[0].detail


def test_no_orientation_is_a_finding(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    nibabel.save(image, tmp_path / "a.nii")
    raw = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<hh", raw, 252, 0, 0)
    (tmp_path / "a.nii").write_bytes(raw)
    assert found(manifest(tmp_path, "a.nii"), "orientation").severity == "note"
