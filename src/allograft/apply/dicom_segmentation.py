"""Masks as DICOM segmentation objects, written by highdicom (the extra ``dicom``) next to the
series that they belong to."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allograft import __version__
from allograft.apply.model import Predicted
from allograft.cohort.alignment import aligned
from allograft.cohort.readers import Grid, Series, read_mask
from allograft.cohort.readers.dicom import TO_RAS, is_dicom
from allograft.errors import ImageError, ModelError, require_extra
from allograft.tasks import Task

ENDING = "seg.dcm"
USE = "Research use only, not a medical device"


def check_segments(task: Task) -> None:
    """Raise for a task without masks, and where highdicom is missing."""
    if "mask" not in task.outputs:
        raise ModelError(
            f"--dicom-seg writes masks, and this model predicts {', '.join(task.outputs)}; leave --dicom-seg out"
        )
    require_extra("highdicom", "dicom")


def segments_of(task: Any) -> tuple[str, ...]:
    """The classes of a task's masks, in the order of their numbers."""
    return tuple(getattr(task, "segmentation", task).names)


def write_segmentation(path: Path, predicted: Predicted, names: Sequence[str]) -> None:
    """Write the mask of an image as a DICOM segmentation, one segment per class, and read it back.

    The object names the patient and the study of its series, without which no archive could file
    it.

    Args:
        names: the classes; the i-th is segment i + 1.

    Raises:
        ImageError: an image that is no DICOM or has no place in the patient; a series that lacks
            what a segmentation must repeat; an object that does not read back as it was written.
    """
    assert predicted.answer.mask is not None
    mask, grid = predicted.answer.mask.numpy().astype(np.uint8), predicted.grid
    slices = _slices(predicted)
    if grid.affine is None:
        raise ImageError(
            f"{predicted.name}: has no place in the patient (a photograph or a film), so a segmentation cannot say "
            "where it lies; leave --dicom-seg out: the mask is then a PNG"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _made(mask, grid, slices, names).save_as(path)
    # highdicom's words may quote the header; the name of a tag is all that is passed on
    except Exception as error:
        path.unlink(missing_ok=True)
        lacks = f" (it lacks {error.name})" if isinstance(error, AttributeError) and error.name else ""
        raise ImageError(
            f"{predicted.name}: a DICOM segmentation cannot be made of this series{lacks}; "
            "expected one with patient, study and frame of reference; export the series again, or leave --dicom-seg out"
        ) from None
    found = aligned(read_mask(path), grid, path, f"its image '{predicted.name}'").array[0]
    if not np.array_equal(found, mask):
        path.unlink()
        raise ImageError(
            f"{predicted.name}: its DICOM segmentation does not read back as it was written; leave --dicom-seg out"
        )


def _slices(predicted: Predicted) -> list[Any]:
    """The series' files, without their pixels."""
    import pydicom

    first = predicted.files[0]
    if isinstance(first, Series):
        files = list(first.files)
    else:
        files = sorted(one for one in first.iterdir() if one.is_file()) if first.is_dir() else [first]
    files = [file for file in files if is_dicom(file)]
    if not files:
        raise ImageError(
            f"{predicted.name}: is no DICOM, and a DICOM segmentation belongs to a DICOM series; give the folder of "
            "the series, or leave --dicom-seg out"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [pydicom.dcmread(file, stop_before_pixels=True) for file in files]


def _made(mask: np.ndarray, grid: Grid, slices: Sequence[Any], names: Sequence[str]) -> Any:
    import highdicom
    from pydicom.uid import generate_uid

    volume, affine = to_patient(mask, grid)
    placed = highdicom.Volume(
        volume, affine, coordinate_system="PATIENT", frame_of_reference_uid=slices[0].FrameOfReferenceUID
    )
    return highdicom.seg.Segmentation(
        source_images=list(slices),
        pixel_array=placed,
        segmentation_type="BINARY",
        segment_descriptions=[_described(number, name) for number, name in enumerate(names, 1)],
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="Allograft",
        manufacturer_model_name="Allograft",
        software_versions=__version__,
        device_serial_number="0",
        content_label="ALLOGRAFT",
        content_description=USE,
    )


def _described(number: int, name: str) -> Any:
    """A segment; what a class of the user's is in SNOMED nobody said, so its type is a code of our
    own with the name as its meaning."""
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence("Allograft", codes.DCM.ArtificialIntelligence, __version__)
    return highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=name[:64],
        segmented_property_category=highdicom.sr.CodedConcept("309825002", "SCT", "Spatial and Relational Concept"),
        segmented_property_type=highdicom.sr.CodedConcept(f"CLASS{number}", "99ALLOGRAFT", name[:64]),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )


def to_patient(mask: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """A mask (*shape) on its grid as (slices, rows, columns), with the affine of these axes in
    DICOM's patient coordinates, which are LPS.

    >>> grid = Grid((3, 2, 4), np.diag([-0.5, -0.75, 2.0, 1.0]))
    >>> volume, affine = to_patient(np.zeros((3, 2, 4)), grid)
    >>> volume.shape, affine[:3, :3].tolist()
    ((4, 2, 3), [[0.0, 0.0, 0.5], [0.0, 0.75, 0.0], [2.0, 0.0, 0.0]])
    """
    assert grid.affine is not None
    lps = np.linalg.inv(TO_RAS) @ np.asarray(grid.affine, np.float64)
    if mask.ndim == 3:
        return mask.transpose(2, 1, 0), lps[:, [2, 1, 0, 3]]
    return mask[None], lps[:, [2, 0, 1, 3]]  # a plane of DICOM has rows first
