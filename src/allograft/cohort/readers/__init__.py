"""Images and masks from files. Every refusal is an ``ImageError`` that says what was found, what
was expected, and the fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from allograft.cohort.alignment import aligned
from allograft.cohort.picture import Grid, Picture, check_pixels
from allograft.cohort.readers import arrays, dicom, metaimage, nrrd, photographs, tiff, volumes
from allograft.cohort.readers.files import (
    ARRAYS,
    METAIMAGE,
    NIBABEL,
    NOT_FETCHED,
    NRRD,
    PHOTOGRAPHS,
    SUFFIXES,
    TIFF,
    VOLUMES,
    Series,
    is_broken_link,
    refusal,
)
from allograft.errors import AllograftError, ImageError

__all__ = ["SUFFIXES", "VOLUMES", "Grid", "Picture", "Series", "check_pixels", "read_image", "read_mask"]

Reader = Callable[..., Picture]
READERS: Mapping[tuple[str, ...], Reader] = {
    NIBABEL: volumes.read_volume,
    NRRD: nrrd.read_nrrd,
    METAIMAGE: metaimage.read_metaimage,
    (".dcm",): dicom.read_dicom,
    PHOTOGRAPHS: photographs.read_photograph,
    TIFF: tiff.read_tiff,
    ARRAYS: arrays.read_array,
}
"""Suffixes -> what reads them; each takes a path and ``mask``."""


def read_image(paths: Sequence[Path | Series], *, nan: float | None = None) -> Picture:
    """Read one image; several files are its channels, in the order given. A folder is a DICOM
    series, see ``read_dicom``.

    Integers keep the type they are stored in, floating numbers and scaled values become float32.
    EXIF rotation is applied, a palette becomes RGB, an alpha channel that is the same everywhere is
    dropped. Volumes lose axes of length one, their fourth axis is channels, their affine is brought
    to mm and RAS. Channels are brought onto the axes of the first.

    Args:
        nan: the value that NaN pixels get; None = they are refused.

    Raises:
        ImageError: files that are missing, damaged, empty, complex, sheared, of several pages, with
            NaN or infinite pixels, that hold more than would be read, or that do not lie on each
            other.

    >>> import tempfile
    >>> from allograft.cohort.writers import write_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder, "mask.png"), np.eye(3, dtype=int), None)
    ...     read_image([Path(folder, "mask.png")] * 2).array.shape
    (2, 3, 3)
    """
    if not paths:
        raise ImageError("an image of no files; expected at least one path")
    first, *others = [_read(path, mask=False, nan=nan) for path in paths]
    if not others:
        return first
    others = [
        aligned(other, first.grid, str(path), str(paths[0])) for path, other in zip(paths[1:], others, strict=True)
    ]
    return replace(first, array=np.concatenate([picture.array for picture in (first, *others)]))


def read_mask(path: Path | Series) -> Picture:
    """Read one mask: integers, (1, *spatial), values as stored.

    Palette images give their indices, 1-bit images 0 and 1, 2- and 4-bit greys their stored steps.
    Colour files are accepted when their channels are equal, floating numbers when they are whole
    (within 0.0001, which a NIfTI slope needs) and become int32. A DICOM segmentation gives its
    segments' numbers.

    Raises:
        ImageError: as ``read_image``, and for channels that differ, numbers that are not whole, a
            mask drawn in alpha.

    >>> import tempfile
    >>> from allograft.cohort.writers import write_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "mask.png", np.array([[0, 7]]), None)
    ...     read_mask(Path(folder) / "mask.png").array.tolist()
    [[[0, 7]]]
    """
    picture = _read(path, mask=True)
    array = picture.array
    if len(array) > 1 and (array != array[:1]).any():
        raise ImageError(
            f"{path}: a mask of {len(array)} channels that differ; expected one number per pixel; number the colours"
        )
    array = array[:1]
    if array.dtype.kind == "f":
        whole = np.rint(array)
        # a mask stored with a NIfTI slope comes back as 0.99999
        wrong = int((np.abs(array - whole) > 1e-4).sum())
        if wrong or np.abs(whole).max() >= 2**31:
            found = (
                f"{wrong} of {array.size} mask values are not whole numbers, range {array.min():g} to {array.max():g}"
            )
            raise ImageError(
                f"{path}: {found}; expected class numbers; threshold it, or resample it with nearest neighbour"
            )
        array = whole.astype(np.int32)
    return replace(picture, array=np.ascontiguousarray(array))


def _read(path: Path | Series, *, mask: bool, nan: float | None = None) -> Picture:
    read = _reader(path)
    try:
        picture = read(path, mask=mask)
    except AllograftError:
        raise
    except Exception as error:  # a damaged file may raise anything inside a parser
        raise ImageError(f"{path}: {_found(path, error)}") from error
    return _checked(path, picture, nan, mask=mask)


def _found(path: Path | Series, error: Exception) -> str:
    size, head = 0, b""
    if isinstance(path, Path) and path.is_file():
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(24)
    if head.startswith(b"version https://git-lfs"):
        return f"found {size} bytes, a pointer of Git LFS in the place of the image; fetch it: git lfs pull"
    head = head[:8]
    found = f"found {size} bytes that begin with {head!r} ({type(error).__name__}: {error})"
    fix = "cut it into tiles" if "DecompressionBomb" in found else "export it again from where it came"
    return f"{found}, not a complete image that can be read; {fix}"


def _reader(path: Path | Series) -> Reader:
    """By the suffix; DICOM, which often has none, by its content too."""
    if isinstance(path, Series):
        return dicom.read_dicom
    if not path.is_file():
        if path.is_dir() and any(path.iterdir()):
            return dicom.read_dicom
        what = "missing (a folder)" if path.is_dir() else NOT_FETCHED if is_broken_link(path) else "missing"
        raise ImageError(f"{path}: {what}; expected an image file; correct the path")
    name = path.name.lower()
    for suffixes, read in READERS.items():
        if name.endswith(suffixes):
            return read
    if dicom.is_dicom(path):
        return dicom.read_dicom
    raise ImageError(f"{path}: {refusal(path)}")


def _checked(path: Path | Series, picture: Picture, nan: float | None, *, mask: bool) -> Picture:
    """Contiguous, in native byte order: booleans as uint8, floating numbers as float32, integers as
    they are."""
    array, notes = picture.array, dict(picture.notes)
    if not array.size:
        raise ImageError(f"{path}: an empty image of shape {array.shape}; remove the row, or export the image again")
    if array.dtype.kind not in "buif":
        raise ImageError(
            f"{path}: pixels of type {array.dtype}; expected plain numbers; store those, the magnitude of complex ones"
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if nan is not None and (count := int(np.isnan(array).sum())):
            notes["nan"] = f"{count} of {array.size} pixels are NaN"
            array = np.nan_to_num(array, copy=False, nan=nan, posinf=np.inf, neginf=-np.inf)
        if wrong := array.size - int(np.isfinite(array).sum()):
            fix = "where NaN is the background, store 0 in its place"
            fix += ", else export it again" if mask else ", or train with preprocessing: {nan: 0}, else export it again"
            raise ImageError(f"{path}: {wrong} of {array.size} pixels are NaN or infinite; {fix}")
    kind = np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("=")
    return replace(picture, array=np.ascontiguousarray(array, kind), notes=notes)
