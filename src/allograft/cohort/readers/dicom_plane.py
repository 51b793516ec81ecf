"""The planes of one DICOM file, one for each frame, and where they lie in the patient. Of the
header nothing else is kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.readers.dicom_pixels import PIXEL_TAGS, frames_of, is_rescaled
from allograft.errors import ImageError

# Nothing else is parsed, so that no name or number of a patient is ever in memory.
_GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_KIND = ("PixelAspectRatio", "SOPClassUID", "ImageType", "SeriesInstanceUID", 0x00190010, 0x0019100A)
TAGS: Any = [*PIXEL_TAGS, *_GEOMETRY, *_GROUPS, *_KIND]
_PARTS = (
    "PixelMeasuresSequence",
    "PlaneOrientationSequence",
    "PlanePositionSequence",
    "PixelValueTransformationSequence",
)

_NO_PICTURES = {
    "RT Dose": "a dose, whose grid scaling turns its integers into gray; use the CT that it was planned on",
    "RT Structure Set": "contours; draw them as a mask first, with dcmrtstruct2nii or plastimatch for example",
    "Segmentation": "a segmentation; name it in the column mask",
    "Label Map Segmentation": "a segmentation; name it in the column mask",
    "Parametric Map": "a map of computed numbers; convert it to NIfTI, with highdicom for example",
    "VL Whole Slide Microscopy Image": "a slide of many sizes; cut tiles from it, with OpenSlide for example",
}
_NO_PLANES = {
    "MOSAIC": "a Siemens mosaic, many slices side by side in one plane; split it, dcm2niix does",
    "DOSE_INFO": "a table of doses, no picture of tissue; remove it",
    "PROT": "a protocol, no picture of tissue; remove it",
}


@dataclass(frozen=True, eq=False)
class Place:
    """Where a plane lies, in LPS.

    Args:
        directions: (2, 3), where the column index and the row index point to.
        position: (3,) mm, the first pixel's centre.
        spacing: (2,) mm between rows and between columns.
        thickness: mm across the plane, None where it is not stated.
    """

    directions: np.ndarray
    position: np.ndarray
    spacing: np.ndarray
    thickness: float | None

    @property
    def normal(self) -> np.ndarray:
        """The third axis of a right-handed system."""
        return np.cross(*self.directions)


@dataclass(frozen=True, eq=False)
class Plane:
    """One frame.

    Args:
        name: for errors.
        array: (C, rows, columns).
        place: where it lies, None for a photograph.
        series: whose it is.
        kind: how its numbers are meant to be shown, MONOCHROME1 say.
        ratio: height and width of a pixel, where no spacing is stated.
        is_rescaled: whether the file changes its stored numbers; None where it says nothing of it.
    """

    name: str
    array: np.ndarray
    place: Place | None
    series: str = ""
    kind: str = ""
    ratio: tuple[int, int] = (1, 1)
    is_rescaled: bool | None = None


def planes_of(path: Path, *, mask: bool) -> list[Plane]:
    """Every frame of a file as a plane.

    Raises:
        ImageError: no picture of tissue, damaged, or several frames without a place for each.
            Errors never quote the header.
    """
    import pydicom

    try:
        with warnings.catch_warnings():  # pydicom quotes the header in its warnings
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, specific_tags=TAGS)
            check_kind(path, dataset)
            count = int(dataset.get("NumberOfFrames") or 1)
            groups = _groups(path, dataset, count)
            places = [_place(path, dataset, group) for group in groups]
            if count > 1 and None in places:
                raise ImageError(f"{path}: {count} frames, not all with a place in the patient (a film?); {_FILM}")
            arrays = frames_of(path, dataset, groups, mask=mask)
            if count > 1 and len(arrays[0]) > 1:
                raise ImageError(f"{path}: {count} frames in colour; {_FILM}")
            names = [path.name if count == 1 else f"{path.name} frame {number}" for number in range(1, count + 1)]
            series = str(dataset.get("SeriesInstanceUID", ""))
            kind, ratio = str(dataset.PhotometricInterpretation), _ratio(dataset)
            return [
                Plane(name, array, place, series, kind, ratio, is_rescaled(dataset, group))
                for name, array, place, group in zip(names, arrays, places, groups, strict=True)
            ]
    except ImageError:
        raise
    except pydicom.errors.InvalidDicomError:
        fix = "export it again, or, where an old program wrote it, convert it with dcmtk's dcmconv"
        raise ImageError(f"{path}: does not begin as DICOM does (DICM after 128 bytes); {fix}") from None
    # a damaged file may raise anything; its words may quote the header and are left out
    except Exception as error:
        found = f"{path.stat().st_size} bytes ({type(error).__name__})"
        raise ImageError(
            f"{path}: found {found}, not a complete DICOM image that can be read; export it again"
        ) from None


_FILM = "expected the slices of one volume; store each picture alone, with dcmtk's dcm2img --frame for example"


def check_kind(path: Path, dataset: Any) -> None:
    """Refuse by name what is no picture of tissue, or no single plane.

    Raises:
        ImageError: a dose, segmentation, map, slide or report; a mosaic.
    """
    from pydicom.uid import UID

    uid = UID(str(dataset.get("SOPClassUID") or getattr(dataset, "file_meta", {}).get("MediaStorageSOPClassUID", "")))
    name = uid.name.removesuffix(" Storage") if uid.name.endswith(" Storage") else ""
    if name in _NO_PICTURES:
        raise ImageError(f"{path}: found {_NO_PICTURES[name]}")
    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        found = f"a DICOM object without pixels ({name or 'a report or contours'})"
        raise ImageError(f"{path}: {found}; expected an image; remove it, or export it again if it was cut short")
    if name and "Image" not in name:
        raise ImageError(
            f"{path}: found a DICOM object of the kind {name}, no picture of tissue; expected an image; remove it"
        )
    words = dataset.get("ImageType") or ()
    words = [words] if isinstance(words, str) else [str(word) for word in words]
    mosaic = ["MOSAIC"] if "SIEMENS" in str(dataset.get(0x00190010, "")).upper() and 0x0019100A in dataset else []
    for word in (*words, *mosaic):
        for kind, found in _NO_PLANES.items():
            if word.upper() == kind or word.upper().endswith(f" {kind}"):
                raise ImageError(f"{path}: found {found}")


def _groups(path: Path, dataset: Any, count: int) -> list[Mapping[str, Any]]:
    """Functional groups of each frame: sequence -> its item, the frame's own before those that all
    share."""
    shared = list(dataset.get("SharedFunctionalGroupsSequence") or ())[:1]
    own = list(dataset.get("PerFrameFunctionalGroupsSequence") or ())
    if own and len(own) != count:
        raise ImageError(
            f"{path}: {count} frames, but functional groups of {len(own)}; export it again from where it came"
        )
    if count > 1 and not own:
        raise ImageError(f"{path}: {count} frames without a place for each (a film?); {_FILM}")
    holders = [[*shared, *own[number : number + 1]] for number in range(count)]
    return [{key: item[key][0] for key in _PARTS for item in each if item.get(key)} for each in holders]


def _place(path: Path, dataset: Any, group: Mapping[str, Any]) -> Place | None:
    """Where the plane lies; None when the file does not say."""
    keys = {
        "ImageOrientationPatient": ("PlaneOrientationSequence", 6),
        "ImagePositionPatient": ("PlanePositionSequence", 3),
        "PixelSpacing": ("PixelMeasuresSequence", 2),
        "SliceThickness": ("PixelMeasuresSequence", 1),
    }
    numbers = [_numbers(path, group.get(part, dataset), key, count) for key, (part, count) in keys.items()]
    orientation, position, spacing, thickness = numbers
    if orientation is None or position is None or spacing is None:
        return None
    directions = orientation.reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-2) or (spacing <= 0).any():
        wrong = f"directions {orientation.round(4).tolist()} and pixel spacing {spacing.tolist()}"
        raise ImageError(
            f"{path}: {wrong}; expected two unit vectors at a right angle and mm above 0; export it again from where "
            "it came"
        )
    return Place(
        directions, position, spacing, float(thickness[0]) if thickness is not None and thickness[0] > 0 else None
    )


def _ratio(dataset: Any) -> tuple[int, int]:
    """Height and width of a pixel, as whole numbers without a unit."""
    try:
        high, wide = (int(number) for number in dataset.get("PixelAspectRatio") or (1, 1))
    except (TypeError, ValueError):
        return 1, 1
    return high, wide


def _numbers(path: Path, dataset: Any, key: str, count: int) -> np.ndarray | None:
    value = dataset.get(key)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    numbers = np.atleast_1d(np.array(value, np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ImageError(f"{path}: {key} is not {count} finite numbers; export it again from where it came")
    return numbers
