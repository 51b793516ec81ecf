"""Volumes, units and shapes of predictions, by hand."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.cohort.test_dicom import dicom, place

from allograft.apply.model import Model
from allograft.apply.prediction_files import written_hidden
from allograft.batch import Batch
from allograft.cohort.picture import Grid
from allograft.cohort.readers import read_image
from allograft.errors import ImageError

PLANE = np.zeros((4, 6), np.uint8)
PLANE[1:3, 1:6] = 1  # ten pixels


@dataclass(frozen=True)
class Bright:
    """What is above 0 is the class."""

    network: Any = None

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"mask": torch.cat([torch.zeros_like(batch.image[:, :1]), batch.image[:, :1] * 2 - 1], 1)}


CARD = {
    "task": {"segmentation": {"classes": ["blob"]}},
    "preprocessing": {"intensity": "none"},
    "channels": 1,
    "sites": [],
}


def predicted(path: Path, out: Path) -> tuple[float, str, tuple[int, ...]]:
    """Volume, its unit, and the shape of the mask's file."""
    (one,) = Model(Bright(), CARD, torch.device("cpu")).predict([path])
    for hidden, named in written_hidden(one, out / "x", overlay=True, probabilities=True).items():
        hidden.rename(named)
    (file,) = out.glob("x_mask.*")
    stored = nibabel.load(file).get_fdata() if file.suffix == ".gz" else np.asarray(Image.open(file))
    shown = nibabel.load(path).get_fdata() if path.name.endswith(("nii", "nii.gz")) else None
    if shown is not None:
        np.testing.assert_array_equal(stored, shown)
        np.testing.assert_allclose(nibabel.load(file).affine, nibabel.load(path).affine, atol=1e-6)
        assert nibabel.load(next(out.glob("x_blob.*"))).shape == shown.shape
    value = one.answer.values["blob"]
    assert isinstance(value, float)
    return value, str(one.answer.unit), stored.shape


@pytest.mark.parametrize("axis", range(3))
def test_one_slice_of_a_volume_has_a_volume_and_its_own_shape(tmp_path: Path, axis: int) -> None:
    sides = [0.5, 0.5]
    sides.insert(axis, 5.0)
    volume = np.expand_dims(PLANE, axis)
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume, turn @ np.diag([*sides, 1])), tmp_path / "a.nii.gz")
    # 10 * 0.5 * 0.5 * 5
    assert predicted(tmp_path / "a.nii.gz", tmp_path / "out") == (12.5, "mm3", volume.shape)


def test_a_file_of_two_axes_has_an_area(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(PLANE, np.diag([0.5, 0.7, 1, 1])), tmp_path / "a.nii")
    assert predicted(tmp_path / "a.nii", tmp_path / "out") == (3.5, "mm2", (4, 6))


def test_a_slice_whose_thickness_is_0_has_an_area(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(PLANE[..., None], np.diag([0.5, 0.7, 3, 1]))
    image.set_sform(None, 0)
    image.set_qform(np.diag([0.5, 0.7, 3, 1]), 1)
    raw = bytearray(image.to_bytes())
    struct.pack_into("<f", raw, 88, 0.0)  # pixdim[3], where nibabel puts 1
    (tmp_path / "a.nii").write_bytes(raw)
    grid = read_image([tmp_path / "a.nii"]).grid
    assert (grid.voxel, grid.dropped) == ((0.35, "mm2"), 2)
    struct.pack_into("<f", raw, 84, 0.0)
    (tmp_path / "b.nii").write_bytes(raw)
    with pytest.raises(ImageError, match="voxel size of 0 along axis 1"):
        read_image([tmp_path / "b.nii"])


@pytest.mark.parametrize(("tags", "wanted"), [({"SliceThickness": 5}, (18.75, "mm3")), ({}, (3.75, "mm2"))])
def test_a_plane_of_dicom(tmp_path: Path, tags: dict[str, object], wanted: tuple[float, str]) -> None:
    dicom(tmp_path / "a.dcm", PLANE, **place(0), **tags)  # 0.5 x 0.75 mm
    assert predicted(tmp_path / "a.dcm", tmp_path / "out") == (*wanted, (4, 6, 1))


def test_a_photograph_has_pixels(tmp_path: Path) -> None:
    Image.fromarray(PLANE).save(tmp_path / "a.png")
    assert predicted(tmp_path / "a.png", tmp_path / "out") == (10.0, "pixels", (4, 6))


def test_a_volume_is_counted_by_the_determinant(tmp_path: Path) -> None:
    turn = np.array([[0.8, -0.6, 0, 1], [0.6, 0.8, 0, 2], [0, 0, 1, 3], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.stack([PLANE] * 3, -1), turn @ np.diag([0.7, 0.7, 3, 1])), tmp_path / "a.nii")
    assert predicted(tmp_path / "a.nii", tmp_path / "out") == (
        pytest.approx(44.1),
        "mm3",
        (4, 6, 3),
    )  # 30 * 0.7 * 0.7 * 3


@pytest.mark.parametrize("units", ["mm", "micron", "meter"])
def test_units_of_length(tmp_path: Path, units: str) -> None:
    factor = {"mm": 1.0, "micron": 1e3, "meter": 1e-3}[units]
    image = nibabel.Nifti1Image(PLANE[..., None], np.diag([0.5 * factor, 0.5 * factor, 5 * factor, 1]))
    image.header.set_xyzt_units(units)
    nibabel.save(image, tmp_path / "a.nii")
    assert read_image([tmp_path / "a.nii"]).grid.voxel == (pytest.approx(1.25), "mm3")


def test_the_determinant_of_axes_that_are_nearly_straight() -> None:
    affine = np.diag([1.0, 2, 3, 1])
    affine[0, 1] = 0.01
    assert Grid((2, 2, 2), affine).voxel == (6.0, "mm3")  # the product of the lengths is 6.000075


def test_every_slice_of_a_series_is_in_the_table(tmp_path: Path) -> None:
    from tests.unit.cohort.test_listing import write_series

    for subject, ending in (("p1", ""), ("p2", ".dcm")):
        write_series(tmp_path / "studies" / subject, f"1.2.{subject[1]}", name="IM{}" + ending)
    model = Model(Bright(), CARD, torch.device("cpu"))
    assert [one.name for one in model.predict(tmp_path / "studies")] == ["p1", "p2"]
    assert [one.name for one in model.predict(tmp_path / "studies" / "p1")] == ["p1"]
    planes = Model(Bright(), {**CARD, "preprocessing": {"size": [4, 6], "intensity": "none"}}, torch.device("cpu"))
    names = [one.name for one in planes.predict(tmp_path / "studies")]
    assert names == ["p1/IM0", "p1/IM1", "p1/IM2", "p2/IM0.dcm", "p2/IM1.dcm", "p2/IM2.dcm"]
