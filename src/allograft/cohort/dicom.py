"""DICOM: one file, or a folder that is a series. Of the header nothing is kept but geometry and intensity scaling."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.readers import Picture, check_pixels
from allograft.errors import ImageError

# Nothing else is parsed, so that no name or number of a patient is ever in memory.
_PIXELS = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "BitsAllocated")
_MORE_PIXELS = ("BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData", "DoubleFloatPixelData")
_OFFSETS = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_SCALING = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence")
_COLOURS = tuple(f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data"))
_GEOMETRY = ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing", "SliceThickness", "SeriesInstanceUID")
_TAGS = (*_PIXELS, *_MORE_PIXELS, *_OFFSETS, *_SCALING, *_COLOURS, *_GEOMETRY)

_GREY, _COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's patient axes are LPS


@dataclass(frozen=True, eq=False)
class _Plane:
    """One file: (C, rows, columns), and where it lies in the patient, or None for a photograph."""

    path: Path
    array: np.ndarray
    place: _Place | None
    series: str


@dataclass(frozen=True, eq=False)
class _Place:
    """In LPS: where the column index and the row index point to (2, 3), the first pixel's centre (3,), mm between rows and columns."""

    directions: np.ndarray
    position: np.ndarray
    spacing: np.ndarray
    thickness: float

    @property
    def normal(self) -> np.ndarray:
        """The third axis of a right-handed system."""
        return np.cross(*self.directions)


def is_dicom(path: Path) -> bool:
    """Whether a file says of itself that it is DICOM, whatever its name.

    >>> is_dicom(Path(__file__))
    False
    """
    with contextlib.suppress(OSError), path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"
    return False


def read_dicom(path: Path, *, mask: bool = False) -> Picture:
    """Read one file, or a folder whose DICOM files are the slices of one series.

    A series: (C, columns, rows, slices) as NIfTI converters write it, slices sorted by their position along the normal, affine in RAS.
    One file with a position: the plane (C, rows, columns) with its affine. One file without (radiograph, ultrasound, dermoscopy), or
    in colour: a photograph, affine None. MONOCHROME1 is inverted within its stored bits, then the modality's rescaling is applied:
    int32 if slope and intercept are whole numbers, else float32; unscaled pixels keep their type. A palette becomes RGB, or stays
    indices with ``mask``. Raises ``ImageError`` for what is damaged, compressed in a way that cannot be decoded, of several frames or
    several series, and for slices that are missing, doubled, tilted or unlike.

    Errors name files and never quote the header.
    """
    if not path.is_dir():
        return _picture(_plane(path, mask=mask))
    found = sorted(one for one in path.iterdir() if one.is_file() and one.name != "DICOMDIR" and not one.name.startswith("."))
    files = [one for one in found if one.name.lower().endswith(".dcm") or is_dicom(one)]
    if not files:
        raise ImageError(f"{path}: a folder of {len(found)} files, none of them DICOM; expected the slices of one series; correct the path")
    planes = [_plane(file, mask=mask) for file in files]
    return _picture(planes[0]) if len(planes) == 1 else _volume(path, planes)


def _plane(path: Path, *, mask: bool) -> _Plane:
    import pydicom

    try:
        with warnings.catch_warnings():  # pydicom quotes the header in its warnings
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, specific_tags=list(_TAGS))
            array = _pixels(path, dataset, mask=mask)
            return _Plane(path, array, _place(path, dataset), str(dataset.get("SeriesInstanceUID", "")))
    except ImageError:
        raise
    except Exception as error:  # a damaged file may raise anything; its words may quote the header and are left out
        found = f"{path.stat().st_size} bytes ({type(error).__name__})"
        raise ImageError(f"{path}: found {found}, not a whole DICOM image that can be read; export it again from where it came") from None


def _pixels(path: Path, dataset: Any, *, mask: bool) -> np.ndarray:
    """(C, rows, columns): grey scaled, colour as RGB."""
    from pydicom.pixels import apply_color_lut, get_decoder, pixel_array

    if not any(key in dataset for key in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        found = "a DICOM object without pixels, such as a report or contours"
        raise ImageError(f"{path}: {found}; expected an image; remove it, or export it again if it was cut short")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise ImageError(f"{path}: {frames} frames in one file; expected one slice a file; convert it to NIfTI, with dcm2niix for example")
    check_pixels(path, (int(dataset.get("SamplesPerPixel") or 1), int(dataset.Rows), int(dataset.Columns)))
    kind = str(dataset.PhotometricInterpretation)
    if kind not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        raise ImageError(f"{path}: pixels of kind {kind!r}; expected grey, palette, RGB or YBR; convert it to RGB")
    syntax = dataset.file_meta.TransferSyntaxUID
    mend = "decompress it, with gdcmconv --raw or dcmdjpeg for example, or pip install 'pylibjpeg[all]'"
    try:
        can_decode = get_decoder(syntax).is_available
    except NotImplementedError:
        can_decode = False
    if not can_decode:
        raise ImageError(f"{path}: compressed as {syntax.name}, expected a transfer syntax that can be decoded here; {mend}")
    try:
        array = pixel_array(dataset)
    except RuntimeError:  # every decoder failed
        raise ImageError(f"{path}: compressed as {syntax.name}, and cannot be decoded; export it again, or {mend}") from None
    if kind == "PALETTE COLOR":
        array = array if mask else apply_color_lut(array, dataset)
    elif kind in _GREY:
        array = _scaled(path, array, dataset, inverted=kind == "MONOCHROME1")
    return array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)


def _scaled(path: Path, array: np.ndarray, dataset: Any, *, inverted: bool) -> np.ndarray:
    if inverted and array.dtype.kind == "f":
        array = -array
    elif inverted:  # within the stored bits, so that the slices of a series stay comparable
        top = -1 if dataset.PixelRepresentation else 2 ** int(dataset.BitsStored) - 1
        array = (top - array.astype(np.int64)).astype(array.dtype)
    if dataset.get("ModalityLUTSequence"):
        from pydicom.pixels import apply_modality_lut

        return np.asarray(apply_modality_lut(array, dataset))
    scaling = {"RescaleSlope": 1.0, "RescaleIntercept": 0.0}
    slope, intercept = (default if dataset.get(key) is None else float(dataset[key].value) for key, default in scaling.items())
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise ImageError(f"{path}: rescale slope {slope:g}, intercept {intercept:g}; expected finite numbers and a slope that is not 0")
    if (slope, intercept) == (1.0, 0.0):
        return array
    values = array.astype(np.float64) * slope + intercept
    whole = array.dtype.kind in "ui" and slope.is_integer() and intercept.is_integer() and np.abs(values).max(initial=0) < 2**31
    return values.astype(np.int32 if whole else np.float32)


def _place(path: Path, dataset: Any) -> _Place | None:
    """Where the plane lies; None when the file does not say."""
    keys = {"ImageOrientationPatient": 6, "ImagePositionPatient": 3, "PixelSpacing": 2}
    orientation, position, spacing = (_numbers(path, dataset, key, count) for key, count in keys.items())
    if orientation is None or position is None or spacing is None:
        return None
    directions = orientation.reshape(2, 3)
    if not np.allclose(directions @ directions.T, np.eye(2), atol=1e-2) or (spacing <= 0).any():
        found = f"directions {orientation.round(4).tolist()} and pixel spacing {spacing.tolist()}"
        raise ImageError(f"{path}: {found}; expected two unit vectors at a right angle and mm above 0; export it again from where it came")
    thickness = _numbers(path, dataset, "SliceThickness", 1)
    return _Place(directions, position, spacing, float(thickness[0]) if thickness is not None and thickness[0] > 0 else 1.0)


def _numbers(path: Path, dataset: Any, key: str, count: int) -> np.ndarray | None:
    value = dataset.get(key)
    if value is None or (hasattr(value, "__len__") and len(value) == 0):
        return None
    numbers = np.atleast_1d(np.array(value, np.float64))
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ImageError(f"{path}: {key} is not {count} finite numbers; export it again from where it came")
    return numbers


def _picture(plane: _Plane) -> Picture:
    place = plane.place
    if place is None or len(plane.array) > 1:
        return Picture(plane.array, None)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = place.directions[1] * place.spacing[0], place.directions[0] * place.spacing[1]
    affine[:3, 2], affine[:3, 3] = place.normal * place.thickness, place.position
    return Picture(plane.array, _TO_RAS @ affine)


def _volume(folder: Path, planes: Sequence[_Plane]) -> Picture:
    """Planes of one series, in any order -> (C, columns, rows, slices)."""
    first = planes[0]
    if (several := len({plane.series for plane in planes})) > 1:
        odd = next(plane.path.name for plane in planes if plane.series != first.series)
        found = f"{several} series ({first.path.name} and {odd} are of two)"
        raise ImageError(f"{folder}: holds {found}; expected one; give each series a folder of its own")
    places = [_same_grid(plane, first) for plane in planes]
    normal = places[0].normal
    heights = np.array([place.position @ normal for place in places])
    order = np.argsort(heights, kind="stable")
    _check_steps(folder, [planes[i] for i in order], heights[order])
    low, high = places[order[0]], places[order[-1]]
    step = (high.position - low.position) / (len(planes) - 1)
    drift = float(np.linalg.norm(high.position - low.position - (heights[order[-1]] - heights[order[0]]) * normal))
    if drift > low.spacing.min():
        found = f"slices that shift sideways by {drift:.3g} mm from first to last (a tilted gantry)"
        raise ImageError(f"{folder}: {found}; expected a stack along its normal; straighten it, dcm2niix does")
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = low.directions[0] * low.spacing[1], low.directions[1] * low.spacing[0]
    affine[:3, 2], affine[:3, 3] = step, low.position
    return Picture(np.stack([planes[i].array.swapaxes(1, 2) for i in order], -1), _TO_RAS @ affine)


def _same_grid(plane: _Plane, first: _Plane) -> _Place:
    """The place of a plane that has the shape, directions and spacing of the first."""
    if plane.place is None or first.place is None:
        where = plane.path if plane.place is None else first.path
        mend = "name the file itself if it is no part of a volume"
        raise ImageError(f"{where}: a slice without position, orientation or pixel spacing; expected all three in a folder; {mend}")
    for what, one, other, tolerance in (
        ("shape", plane.array.shape, first.array.shape, 0.0),
        ("orientation", plane.place.directions.ravel(), first.place.directions.ravel(), 1e-3),
        ("pixel spacing", plane.place.spacing, first.place.spacing, 1e-3),
    ):
        if len(one) != len(other) or not np.allclose(one, other, rtol=0, atol=tolerance):
            found, expected = (", ".join(f"{number:.4g}" for number in numbers) for numbers in (one, other))
            mend = "move it to a folder of its own if it is a scout, or export the series again"
            raise ImageError(f"{plane.path}: {what} ({found}); expected that of {first.path.name}, ({expected}); {mend}")
    return plane.place


def _check_steps(folder: Path, planes: Sequence[_Plane], heights: np.ndarray) -> None:
    """Sorted slices must be equally far apart. Rounded positions pass: no slice may be off the even grid by over a tenth of a step."""
    gaps = np.diff(heights)
    step = float(np.median(gaps))
    closest = int(gaps.argmin())
    if gaps[closest] < 0.1 * step or gaps[closest] < 1e-4:
        names = f"{planes[closest].path.name} and {planes[closest + 1].path.name}"
        found = f"{names} lie at one place ({gaps[closest]:.3g} mm apart; the usual step is {step:.3g})"
        raise ImageError(f"{folder}: {found}; expected one file a slice; remove the copy, or give each time point or echo its own folder")
    off = np.abs(heights - np.linspace(heights[0], heights[-1], len(heights)))
    if off.max() > 0.1 * step:
        worst = int(np.abs(gaps - step).argmax())
        names = f"{planes[worst].path.name} and {planes[worst + 1].path.name}"
        what = "a slice is missing" if gaps[worst] > 1.5 * step else "slices are unequally far apart"
        found = f"{gaps[worst]:.4g} mm between {names}, {len(planes)} slices in all"
        raise ImageError(f"{folder}: {what}: found {found}; expected {step:.4g} mm; copy the whole series, or resample it to equal steps")
