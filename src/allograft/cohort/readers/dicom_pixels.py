"""The pixels of a DICOM object as its header declares them: kind, frames, samples, bits, palette
and rescaling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.picture import check_pixels
from allograft.cohort.readers.photographs import check_jpeg
from allograft.errors import ImageError

GREY, COLOUR = ("MONOCHROME1", "MONOCHROME2"), ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_OVERLAYS = tuple(0x60000102 + 0x20000 * number for number in range(16))
PIXEL_TAGS = (
    *(
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "NumberOfFrames",
        "BitsAllocated",
    ),
    *("BitsStored", "HighBit", "PixelRepresentation", "PixelData", "FloatPixelData", "DoubleFloatPixelData"),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
    *_OVERLAYS,
)


def frames_of(path: Path, dataset: Any, groups: Sequence[Any], *, mask: bool) -> list[np.ndarray]:
    """(C, rows, columns) of each frame: grey rescaled as the frame's own ``groups`` say, colour as
    RGB."""
    from pydicom.pixels import apply_color_lut

    kind = str(dataset.PhotometricInterpretation)
    if kind not in (*GREY, *COLOUR, "PALETTE COLOR"):
        raise ImageError(f"{path}: pixels of kind {kind!r}; expected grey, palette, RGB or YBR; convert it to RGB")
    shape = (int(dataset.get("SamplesPerPixel") or 1), int(dataset.Rows), int(dataset.Columns))
    check_pixels(path, (len(groups), *shape))
    array = _decoded(path, dataset)
    wanted = (*((len(groups),) if len(groups) > 1 else ()), *shape[1:], *(shape[:1] if shape[0] > 1 else ()))
    if array.shape != wanted:
        raise ImageError(
            f"{path}: decoded to {array.shape}, its header declares {wanted}; export it again from where it came"
        )
    frames = list(array) if len(groups) > 1 else [array]
    if kind == "PALETTE COLOR":
        frames = frames if mask else [apply_color_lut(frame, dataset) for frame in frames]
    elif kind in GREY:
        frames = [
            _scaled(path, frame, dataset, group, inverted=kind == "MONOCHROME1" and not _has_unit(dataset))
            for frame, group in zip(frames, groups, strict=True)
        ]
    return [frame[None] if frame.ndim == 2 else np.moveaxis(frame, -1, 0) for frame in frames]


def _decoded(path: Path, dataset: Any) -> np.ndarray:
    from pydicom.encaps import generate_frames
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEGTransferSyntaxes

    from allograft.cohort.readers import dicom_codecs

    dicom_codecs.register()
    syntax = dataset.file_meta.TransferSyntaxUID
    fix = "decompress it, with gdcmconv --raw or dcmdjpeg for example, or pip install 'pylibjpeg[all]'"
    try:
        can_decode = get_decoder(syntax).is_available
    except NotImplementedError:
        can_decode = False
    if not can_decode:
        raise ImageError(
            f"{path}: compressed as {syntax.name}, expected a transfer syntax that can be decoded here; {fix}"
        )
    if syntax in JPEGTransferSyntaxes:  # other codecs see by themselves that they were cut short
        for number, frame in enumerate(generate_frames(dataset.PixelData, number_of_frames=_frame_count(dataset))):
            if frame.startswith(b"\xff\xd8"):  # of what is none the decoders say so
                check_jpeg(f"{path}, frame {number + 1}", frame)
    try:
        array = pixel_array(dataset)
    except RuntimeError:  # every decoder failed
        raise ImageError(
            f"{path}: compressed as {syntax.name}, and cannot be decoded; export it again, or {fix}"
        ) from None
    _check_bits(path, dataset, array)
    return np.asarray(array)


def _frame_count(dataset: Any) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _check_bits(path: Path, dataset: Any, array: np.ndarray) -> None:
    """Refuse pixels with more bits than are declared, which pydicom cuts off; an overlay may lie
    there."""
    from pydicom.pixels import pixel_array

    stored, allocated = int(dataset.get("BitsStored") or 0), int(dataset.get("BitsAllocated") or 0)
    if array.dtype.kind not in "ui" or "PixelData" not in dataset:
        return
    if int(dataset.get("HighBit", stored - 1)) != stored - 1:
        found = f"{stored} bits stored below bit {int(dataset.HighBit)}"
        raise ImageError(
            f"{path}: {found}; expected the highest at {stored - 1}; export it again, dcmconv or gdcmconv do"
        )
    signed = bool(dataset.PixelRepresentation)
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    if array.size and not low <= int(array.min()) <= int(array.max()) <= high:
        found = f"pixels from {array.min()} to {array.max()}, but its header declares {stored} bits ({low} to {high})"
        raise ImageError(f"{path}: {found}; export it again from where it came")
    overlay = any(int(dataset[tag].value or 0) >= stored for tag in _OVERLAYS if tag in dataset)
    if signed or stored >= allocated or overlay or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    whole = pixel_array(dataset, raw=True, correct_unused_bits=False)
    if int(whole.max(initial=0)) > high:
        found = f"pixels up to {whole.max()}, but its header declares {stored} bits (up to {high})"
        raise ImageError(f"{path}: {found}; export it again from where it came")


def _has_unit(dataset: Any) -> bool:
    """Whether the rescaled numbers are those of a unit, Hounsfield or becquerels say, however they
    are to be shown."""
    from pydicom.uid import UID

    name = UID(str(dataset.get("SOPClassUID") or "")).name
    return "CT Image" in name or "PET Image" in name or "Positron Emission" in name


def _rescaling(dataset: Any, group: Any) -> tuple[float, float] | None:
    """Slope and intercept of a frame; None where neither is stated."""
    source = group.get("PixelValueTransformationSequence", dataset)
    slope, intercept = (source.get(key) for key in ("RescaleSlope", "RescaleIntercept"))
    if slope is None and intercept is None:
        return None
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def is_rescaled(dataset: Any, group: Any) -> bool | None:
    """Whether stored numbers become others; None where the file says nothing of it.

    Args:
        group: the frame's own rescaling, of an enhanced object.
    """
    if dataset.get("ModalityLUTSequence"):
        return True
    rescaling = _rescaling(dataset, group)
    return None if rescaling is None else rescaling != (1.0, 0.0)


def _scaled(path: Path, array: np.ndarray, dataset: Any, group: Any, *, inverted: bool) -> np.ndarray:
    """The modality's numbers, Hounsfield units say; ``group`` holds the rescaling of an enhanced
    object's frame."""
    if dataset.get("ModalityLUTSequence"):  # of stored numbers; what it makes of them is what is shown inverted
        from pydicom.pixels import apply_modality_lut

        table = np.asarray(apply_modality_lut(array, dataset))
        top = 2 ** int(dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1
        return (top - table.astype(np.int64)).astype(table.dtype) if inverted else table
    if inverted and array.dtype.kind == "f":
        array = -array
    elif inverted:  # within the stored bits, so that the slices of a series stay comparable
        top = -1 if dataset.PixelRepresentation else 2 ** int(dataset.BitsStored) - 1
        array = (top - array.astype(np.int64)).astype(array.dtype)
    slope, intercept = _rescaling(dataset, group) or (1.0, 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept) and slope != 0):
        raise ImageError(
            f"{path}: rescale slope {slope:g}, intercept {intercept:g}; expected finite numbers and a slope that is "
            "not 0"
        )
    if (slope, intercept) == (1.0, 0.0):
        return array
    values = array.astype(np.float64) * slope + intercept
    whole = (
        array.dtype.kind in "ui"
        and slope.is_integer()
        and intercept.is_integer()
        and np.abs(values).max(initial=0) < 2**31
    )
    return values.astype(np.int32 if whole else np.float32)
