"""DICOM segmentations out: where they lie, by readers that are not ours, and what cannot have
one."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import torch
from pydicom.uid import CTImageStorage, generate_uid
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from tests.unit.cohort.test_dicom import OBLIQUE, SECRETS, dicom, place, values

from allograft.apply import dicom_segmentation
from allograft.apply.dicom_codes import plain_classes
from allograft.apply.dicom_series import Algorithm
from allograft.apply.model import Predicted
from allograft.cohort.readers import read_image
from allograft.errors import ImageError
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.tasks import Answer

CARD: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["white", "grey"]}},
    "preprocessing": {"intensity": "zscore", "orientation": None},
    "channels": 1,
    "slices": {"axis": 2},
    "sites": ["a"],
}
SEGMENTS = plain_classes(["white", "grey"])
ALGORITHM = Algorithm("finetune@b", "abc123")
EMPTY = ("PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")


def scan(folder: Path, directions: tuple[float, ...] = (1, 0, 0, 0, 1, 0), **tags: Any) -> Path:
    """Six slices of CT whose names are not in the order of their places."""
    folder.mkdir(parents=True)
    shared = {"StudyInstanceUID": generate_uid(), "FrameOfReferenceUID": generate_uid(), "Modality": "CT"}
    for index in range(6):
        where = place(2.5 * index, directions)
        more = {**shared, **dict.fromkeys(EMPTY, ""), "SOPClassUID": CTImageStorage, "SliceThickness": 2.5}
        dicom(folder / f"{(index * 5) % 6}.dcm", values(index), **where, **{**more, **tags})
    return folder


def predicted(folder: Path) -> Predicted:
    """A mask with two classes that no symmetry leaves alone, and a class that is absent from some slices."""
    grid = read_image([folder]).grid
    mask = torch.zeros(grid.shape, dtype=torch.int64)
    mask[1:4, 0:2, 1:3] = 1
    mask[4, 3, 4] = 2
    return Predicted(folder.name, (folder,), grid, Answer({}, mask))


def world_points(path: Path, segment: int) -> set[tuple[float, ...]]:
    """Where the voxels of a segment lie in the patient, by pydicom and the standard's formula
    (PS3.3 C.7.6.2.1.1) alone, rounded to 0.01 mm."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    frames = np.atleast_3d(dataset.pixel_array) if dataset.NumberOfFrames > 1 else dataset.pixel_array[None]
    points = set()
    for pixels, group in zip(frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        own = group if "SegmentIdentificationSequence" in group else shared  # of one frame all is shared
        if int(own.SegmentIdentificationSequence[0].ReferencedSegmentNumber) != segment:
            continue
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
        down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
        own = group if "PlanePositionSequence" in group else shared
        position = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        for row, column in np.argwhere(pixels):
            where = position + orientation[:3] * across * column + orientation[3:] * down * row
            points.add(tuple(np.round(where, 2) + 0.0))
    return points


def source_points(folder: Path, mask: np.ndarray, number: int) -> set[tuple[float, ...]]:
    """Where a class lies by the source's own headers, slices in the order of their heights."""
    slices = [pydicom.dcmread(path) for path in folder.iterdir()]
    normal = np.cross(*np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3))
    slices.sort(key=lambda one: float(np.array(one.ImagePositionPatient, float) @ normal))
    points = set()
    for column, row, index in np.argwhere(mask == number):
        one = slices[index]
        orientation = np.array(one.ImageOrientationPatient, float)
        down, across = map(float, one.PixelSpacing)
        where = np.array(one.ImagePositionPatient, float) + orientation[:3] * across * column
        points.add(tuple(np.round(where + orientation[3:] * down * row, 2) + 0.0))
    return points


@pytest.mark.parametrize(
    "directions", [(1, 0, 0, 0, 1, 0), OBLIQUE, (0, 1, 0, 0, 0, -1)], ids=["axial", "oblique", "sagittal"]
)
def test_segments_lie_where_the_headers_of_the_source_say(tmp_path: Path, directions: tuple[float, ...]) -> None:
    pytest.importorskip("highdicom")
    one = predicted(scan(tmp_path / "ct", directions))
    dicom_segmentation.write_segmentation(tmp_path / "seg.dcm", one, SEGMENTS, ALGORITHM)
    assert one.answer.mask is not None
    for number in (1, 2):
        expected = source_points(tmp_path / "ct", one.answer.mask.numpy(), number)
        assert world_points(tmp_path / "seg.dcm", number) == expected
    written = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [str(each.SegmentLabel) for each in written.SegmentSequence] == ["white", "grey"]
    assert [int(each.SegmentNumber) for each in written.SegmentSequence] == [1, 2]
    assert written.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"
    algorithm = written.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("finetune@b", "abc123")
    source = pydicom.dcmread(tmp_path / "ct" / "0.dcm")
    assert written.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert (written.PatientID, written.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert written.SeriesInstanceUID != source.SeriesInstanceUID


def test_a_single_slice_has_its_own_place(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    file = scan(tmp_path / "ct", OBLIQUE) / "3.dcm"
    grid = read_image([file]).grid
    mask = torch.zeros(grid.shape, dtype=torch.int64)
    mask[1, 2:5] = 1  # a row, and of it three columns
    one = Predicted("3.dcm", (file,), grid, Answer({}, mask))
    dicom_segmentation.write_segmentation(tmp_path / "seg.dcm", one, SEGMENTS[:1], ALGORITHM)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "3.dcm").write_bytes(file.read_bytes())
    expected = source_points(tmp_path / "alone", mask.numpy().T[..., None], 1)
    assert len(expected) == 3
    assert world_points(tmp_path / "seg.dcm", 1) == expected


@pytest.mark.parametrize("thickness", ["", None], ids=["empty", "absent"])
def test_a_slice_of_unknown_thickness_is_refused(tmp_path: Path, thickness: str | None) -> None:
    file = scan(tmp_path / "ct", SliceThickness=thickness) / "3.dcm"
    grid = read_image([file]).grid
    one = Predicted("3.dcm", (file,), grid, Answer({}, torch.zeros(grid.shape, dtype=torch.int64)))
    with pytest.raises(ImageError, match=r"3\.dcm: states no slice thickness, which a segmentation repeats"):
        dicom_segmentation.write_segmentation(tmp_path / "seg.dcm", one, SEGMENTS, ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


def test_an_object_that_lies_elsewhere_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("highdicom")
    real = dicom_segmentation.to_patient

    def upside_down(mask: np.ndarray, grid: Any) -> tuple[np.ndarray, np.ndarray]:
        volume, affine = real(mask, grid)
        return volume[::-1], affine

    monkeypatch.setattr(dicom_segmentation, "to_patient", upside_down)
    one = predicted(scan(tmp_path / "ct"))
    with pytest.raises(ImageError, match="does not read back as it was written"):
        dicom_segmentation.write_segmentation(tmp_path / "seg.dcm", one, SEGMENTS, ALGORITHM)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [2, 4]}}}
    folder = tmp_path_factory.mktemp("seg") / "model"
    save_predictor(Direct(build(spec)), folder, CARD)
    return folder


def test_predict_writes_segmentations_and_names_nobody_elsewhere(
    model: Path, tmp_path: Path, allograft: Command
) -> None:
    pytest.importorskip("highdicom")
    scan(tmp_path / "scans" / "ct")
    scan(tmp_path / "scans" / "more", OBLIQUE, SeriesInstanceUID=generate_uid())
    answer = allograft("predict", model, tmp_path / "scans", "-o", tmp_path / "out", "--dicom-seg", "--device", "cpu")
    assert answer.code == 0, answer.err
    names = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert names == {"ct_seg.dcm", "more_seg.dcm", "results.csv"}
    rows = list(csv.DictReader((tmp_path / "out" / "results.csv").open()))
    assert [row["image"] for row in rows] == ["ct", "more"]
    written = [(tmp_path / "out" / "results.csv").read_bytes(), answer.out.encode(), answer.err.encode()]
    written += [path.read_bytes() for path in model.iterdir()]
    for secret in SECRETS:
        assert not any(secret.encode() in text for text in written)
    assert SECRETS[0].encode() in (tmp_path / "out" / "ct_seg.dcm").read_bytes()  # whose it is, for an archive


def test_what_has_no_place_is_refused_and_the_others_follow(model: Path, tmp_path: Path, allograft: Command) -> None:
    pytest.importorskip("highdicom")
    scans = tmp_path / "scans"
    scan(scans / "ct")
    scan(scans / "lacks", SeriesInstanceUID=generate_uid(), FrameOfReferenceUID=None)
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 4), np.int16), np.eye(4)), scans / "brain.nii.gz")
    answer = allograft("predict", model, scans, "-o", tmp_path / "out", "--dicom-seg", "--device", "cpu")
    assert answer.code == 3
    said = {row["image"]: row["warnings"] for row in csv.DictReader((tmp_path / "out" / "results.csv").open())}
    assert said["brain.nii.gz"].startswith("failed: brain.nii.gz: is not DICOM")
    assert "(it lacks FrameOfReferenceUID)" in said["lacks"]
    assert not said["ct"].startswith("failed")
    assert {path.name for path in (tmp_path / "out").glob("*.dcm")} == {"ct_seg.dcm"}
    assert not any(secret in text for secret in SECRETS for text in (*said.values(), answer.out, answer.err))


def test_an_image_without_geometry_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    film = dicom(tmp_path / "film.dcm", values(0))
    grid = read_image([film]).grid
    one = Predicted("film.dcm", (film,), grid, Answer({}, torch.zeros(grid.shape, dtype=torch.int64)))
    with pytest.raises(ImageError, match=r"film\.dcm: has no position in the patient"):
        dicom_segmentation.write_segmentation(tmp_path / "seg.dcm", one, SEGMENTS, ALGORITHM)
    assert not (tmp_path / "seg.dcm").exists()


def test_a_model_without_masks_is_refused(tmp_path: Path, allograft: Command) -> None:
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [2, 4]}}}
    save_predictor(Direct(build(spec)), tmp_path / "model", {**CARD, "task": {"synthesis": {}}})
    answer = allograft("predict", tmp_path / "model", scan(tmp_path / "ct"), "-o", tmp_path / "out", "--dicom-seg")
    assert answer.code == 2
    assert answer.err.startswith("error: --dicom-seg writes masks, and this model predicts paired"), answer.err
