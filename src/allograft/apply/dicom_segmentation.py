"""Masks as DICOM segmentation objects, written by highdicom (the extra ``dicom``) next to the
series that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allograft import __version__
from allograft.apply.dicom_codes import LONGEST, NamedClass, coded
from allograft.apply.dicom_series import COMMON, USE, Algorithm, Kind, save, slices_of
from allograft.apply.model import Predicted
from allograft.cohort.alignment import aligned
from allograft.cohort.readers import Grid, read_mask
from allograft.cohort.readers.dicom import TO_RAS
from allograft.errors import ImageError

ENDING = "seg.dcm"
KIND = Kind("DICOM segmentation", "--dicom-seg", "patient, study and frame of reference")


def write_segmentation(path: Path, predicted: Predicted, segments: Sequence[NamedClass], algorithm: Algorithm) -> None:
    """Write the mask of an image as a DICOM segmentation, one segment per class, and read it back.

    The object names the patient and the study of its series, without which no archive could file
    it.

    Args:
        segments: the classes; the i-th is segment i + 1.
        algorithm: the model.

    Raises:
        ImageError: an image that is no DICOM or has no place in the patient; a series that lacks
            what a segmentation must repeat; an object that does not read back as it was written.
    """
    assert predicted.answer.mask is not None
    mask, grid = predicted.answer.mask.numpy().astype(np.uint8), predicted.grid
    slices = slices_of(predicted, KIND)
    if grid.affine is None:
        raise ImageError(
            f"{predicted.name}: has no position in the patient (a photograph or a film), so a segmentation cannot say "
            "where it lies; leave --dicom-seg out: the mask is then a PNG"
        )
    if grid.voxel[1] != "mm3":
        raise ImageError(
            f"{predicted.name}: states no slice thickness, which a segmentation repeats; export the series again, or "
            "leave --dicom-seg out: the mask is then NIfTI"
        )
    save(path, lambda: _made(mask, grid, slices, _descriptions(segments, algorithm)), predicted, KIND)
    read_back = aligned(read_mask(path), grid, path, f"its image '{predicted.name}'").array[0]
    if not np.array_equal(read_back, mask):
        path.unlink()
        raise ImageError(
            f"{predicted.name}: its DICOM segmentation does not read back as it was written; leave --dicom-seg out"
        )


def _made(mask: np.ndarray, grid: Grid, slices: Sequence[Any], descriptions: Sequence[Any]) -> Any:
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
        segment_descriptions=descriptions,
        series_instance_uid=generate_uid(),
        series_number=900,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        content_label="ALLOGRAFT",
        content_description=USE,
        omit_empty_frames=mask.ndim == 3,  # of a plane each segment is the frame of its number
        **COMMON,
    )


def _descriptions(segments: Sequence[NamedClass], algorithm: Algorithm) -> list[Any]:
    """The segments. Where nobody said what kind of thing a class is, its category is the widest."""
    import highdicom
    from pydicom.sr.codedict import codes

    identification = highdicom.AlgorithmIdentificationSequence(
        algorithm.name[:LONGEST],
        codes.DCM.ArtificialIntelligence,
        algorithm.checksum,
        source=f"Allograft {__version__}",
    )
    widest = codes.SCT.SpatialAndRelationalConcept
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=segment.name[:LONGEST],
            segmented_property_category=widest if segment.category is None else coded(segment.category),
            segmented_property_type=coded(segment.code),
            algorithm_type="AUTOMATIC",
            algorithm_identification=identification,
        )
        for number, segment in enumerate(segments, 1)
    ]


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
