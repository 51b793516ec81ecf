"""Images and masks from files, and back: NIfTI, DICOM, photographs and arrays. Every refusal is an ``ImageError`` that says the mend."""

from __future__ import annotations

import contextlib
import gzip
import io
import math
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allograft.errors import ImageError, OutputError

NIFTI, TIFF, ARRAYS = (".nii.gz", ".nii"), (".tif", ".tiff"), (".npz", ".npy")
MOST_PIXELS = 2**30
"""Numbers in one image, channels counted: four gigabytes once they are float32. A few bytes of a header can ask for more."""
SUFFIXES = (*NIFTI, ".dcm", ".png", ".jpg", ".jpeg", *TIFF, ".bmp", ".gif", ".ppm", ".pgm", *ARRAYS)  # upper case too


@dataclass(frozen=True, eq=False)
class Picture:
    """One image as stored.

    ``array`` is (C, *spatial) in file order: (C, H, W) for photographs, voxels (C, i, j, k) for NIfTI and DICOM series. ``affine`` is
    (4, 4), voxel -> mm in RAS world coordinates, or None for photographs and arrays. A 2-D image with an affine is a plane of a
    volume: its first two columns belong to the two axes, the third to the axis of length one that was dropped.

    >>> picture = Picture(np.zeros((1, 4, 5)), np.diag([2.0, 3.0, 1.0, 1.0]))
    >>> picture.spatial, picture.spacing
    ((4, 5), (2.0, 3.0))
    """

    array: np.ndarray
    affine: np.ndarray | None

    @property
    def spatial(self) -> tuple[int, ...]:
        """Lengths of the spatial axes, in voxels."""
        return tuple(self.array.shape[1:])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size in mm along each spatial axis; ones for photographs."""
        if self.affine is None:
            return (1.0,) * len(self.spatial)
        # Affines are stored in single precision: 0.7 comes back as 0.69999998.
        return tuple(round(float(norm), 6) for norm in np.linalg.norm(self.affine[:3, : len(self.spatial)], axis=0))


def read_image(paths: Sequence[Path]) -> Picture:
    """Read one image; several files are its channels, in the order given. A folder is a DICOM series, see ``read_dicom``.

    Integers keep the type they are stored in, floating numbers and scaled NIfTI become float32. EXIF rotation is applied, alpha
    is dropped whatever it holds, a palette becomes RGB. NIfTI axes of length one are dropped, its fourth axis is channels, its
    affine is brought to mm. Raises ``ImageError`` for files that are missing, damaged, empty, complex, of several pages, with NaN or
    infinite pixels, or that do not fit together.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder, "mask.png"), np.eye(3, dtype=int), None)
    ...     read_image([Path(folder, "mask.png")] * 2).array.shape
    (2, 3, 3)
    """
    if not paths:
        raise ImageError("an image of no files; expected at least one path")
    first, *_ = pictures = [_read(Path(path), mask=False) for path in paths]
    for path, picture in zip(paths[1:], pictures[1:], strict=True):
        one, other = (np.zeros(1) if each.affine is None else each.affine for each in (first, picture))
        if picture.spatial != first.spatial or one.shape != other.shape or not np.allclose(one, other, rtol=1e-4, atol=1e-3):
            found = f"shape {picture.spatial}, affine {picture.affine}; expected those of {paths[0]}: {first.spatial}, {first.affine}"
            raise ImageError(f"{path}: {found}; resample the channels to one grid")
    return Picture(np.concatenate([picture.array for picture in pictures]), first.affine)


def read_mask(path: Path) -> Picture:
    """Read one mask: integers, (1, *spatial), values as stored.

    Palette images give their indices, 1-bit images 0 and 1, 2- and 4-bit greys their stored steps. Colour files are accepted when
    their channels are equal, floating numbers when they are whole (within 0.0001, which a NIfTI slope needs) and become int32.
    Raises ``ImageError`` as ``read_image`` does, and for channels that differ and for numbers that are not whole.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "mask.png", np.array([[0, 7]]), None)
    ...     read_mask(Path(folder) / "mask.png").array.tolist()
    [[[0, 7]]]
    """
    picture = _read(Path(path), mask=True)
    array = picture.array
    if len(array) > 1 and (array != array[:1]).any():
        raise ImageError(f"{path}: a mask of {len(array)} channels that differ; expected one number per pixel; number the colours")
    array = array[:1]
    if array.dtype.kind == "f":
        whole = np.rint(array)
        wrong = int((np.abs(array - whole) > 1e-4).sum())  # a mask stored with a NIfTI slope comes back as 0.99999
        if wrong or np.abs(whole).max() >= 2**31:
            found = f"{wrong} of {array.size} mask values not whole, range {array.min():g} to {array.max():g}"
            raise ImageError(f"{path}: {found}; expected class numbers; threshold it, or resample it with nearest neighbour")
        array = whole.astype(np.int32)
    return Picture(np.ascontiguousarray(array), picture.affine)


def write_mask(path: Path, labels: np.ndarray, affine: np.ndarray | None) -> None:
    """Write class numbers (*spatial): NIfTI (``.nii.gz``, ``.nii``) with an affine, an 8-bit PNG without.

    A plane with an affine is stored as (H, W, 1). The file appears whole or not at all, and its bytes depend on the arguments alone.
    Raises ``ImageError`` for labels that the format cannot hold, ``OutputError`` when the place cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "mask.nii.gz", np.ones((2, 3, 4), int), np.eye(4))
    ...     read_mask(Path(folder) / "mask.nii.gz").spatial
    (2, 3, 4)
    """
    labels = np.asarray(labels)
    if labels.dtype.kind not in "bui":
        raise ImageError(f"{path}: labels of type {labels.dtype}; expected integers; take the argmax of probabilities first")
    low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
    fits = next((kind for kind in (np.uint8, np.int16, np.int32) if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max), None)
    if fits is None or (affine is None and fits is not np.uint8):
        limit = "0 to 255 in a PNG" if affine is None else "32 bits"
        raise ImageError(f"{path}: labels from {low} to {high}; expected {limit}; renumber the classes")
    _write(Path(path), labels.astype(fits), affine)


def write_image(path: Path, values: np.ndarray, affine: np.ndarray | None) -> None:
    """Write one map of probabilities (*spatial): float32 NIfTI with an affine; without, a 16-bit PNG that holds round(65535 p).

    One file a class. As ``write_mask`` otherwise; raises ``ImageError`` for values that are not finite, or outside [0, 1] for a PNG.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_image(Path(folder) / "vessel.png", np.array([[0.0, 1.0]]), None)
    ...     read_image([Path(folder) / "vessel.png"]).array.tolist()
    [[[0, 65535]]]
    """
    values = np.asarray(values, np.float32)
    good = np.isfinite(values) if affine is not None else (values >= 0) & (values <= 1)
    if not good.all():
        wanted = "finite numbers" if affine is not None else "probabilities from 0 to 1 for a PNG"
        raise ImageError(f"{path}: {int((~good).sum())} of {values.size} values are not {wanted}; apply softmax or sigmoid")
    if affine is None:
        values = np.rint(values.astype(np.float64) * 65535).astype(np.uint16)
    _write(Path(path), values, affine)


def _read(path: Path, *, mask: bool) -> Picture:
    read = _reader(path)
    head = b""
    try:
        if not path.is_dir():
            with path.open("rb") as file:
                head = file.read(8)
        picture = read(path, mask=mask)
    except ImageError:
        raise
    except Exception as error:  # a damaged file may raise anything inside a parser
        found = f"{path.stat().st_size} bytes that begin with {head!r} ({type(error).__name__}: {error})"
        mend = "cut it into tiles" if "DecompressionBomb" in found else "export it again from where it came"
        raise ImageError(f"{path}: found {found}, not a whole image that can be read; {mend}") from error
    return Picture(_checked(path, picture.array), picture.affine)


def _reader(path: Path) -> Callable[..., Picture]:
    """By the suffix; DICOM, which often has none, by its content too."""
    from allograft.cohort import arrays, dicom, photographs  # here, because they need Picture

    if not path.is_file():
        if path.is_dir() and any(path.iterdir()):
            return dicom.read_dicom
        raise ImageError(f"{path}: missing{' (a folder)' if path.is_dir() else ''}; expected an image file; correct the path")
    name = path.name.lower()
    if name.endswith(NIFTI):
        return _read_nifti
    if name.endswith(".dcm") or (not name.endswith(SUFFIXES) and dicom.is_dicom(path)):
        return dicom.read_dicom
    if not name.endswith(SUFFIXES):
        raise ImageError(f"{path}: unknown suffix; can read {', '.join(SUFFIXES)}; convert the file")
    return arrays.read_array if name.endswith(ARRAYS) else photographs.read_tiff if name.endswith(TIFF) else photographs.read_photograph


def check_pixels(name: Path | str, shape: Sequence[int], mend: str = "cut it into tiles, or export it again") -> None:
    """Raise ``ImageError``, before anything is allocated, for a shape of more than ``MOST_PIXELS``.

    >>> check_pixels("a.png", (3, 64, 64))
    """
    if math.prod(map(int, shape)) > MOST_PIXELS:
        raise ImageError(f"{name}: an image of shape {tuple(shape)} has more than {MOST_PIXELS} pixels; {mend}")


def _checked(path: Path, array: np.ndarray) -> np.ndarray:
    """Contiguous, in native byte order: booleans as uint8, floating numbers as float32, integers as they are."""
    if not array.size:
        raise ImageError(f"{path}: an empty image of shape {array.shape}; remove the row, or export the image again")
    if array.dtype.kind not in "buif":
        raise ImageError(f"{path}: pixels of type {array.dtype}; expected plain numbers; store those, the magnitude of complex ones")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if wrong := array.size - int(np.isfinite(array).sum()):
            raise ImageError(f"{path}: {wrong} of {array.size} pixels are NaN or infinite; replace them, by the background's value say")
    return np.ascontiguousarray(array, np.uint8 if array.dtype.kind == "b" else array.dtype.newbyteorder("="))


def _read_nifti(path: Path, *, mask: bool) -> Picture:
    import nibabel

    image: Any = nibabel.load(path, mmap=False)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise ImageError(f"{path}: a {type(image).__name__}; expected a NIfTI volume; convert it")
    check_pixels(path, image.shape)
    stored = image.header.get_data_dtype().itemsize * math.prod(image.shape)
    if stored > path.stat().st_size * (1100 if path.name.lower().endswith(".gz") else 1):  # gzip packs a thousand to one at most
        found = f"its header tells of {stored} bytes of pixels, the file is of {path.stat().st_size} bytes"
        raise ImageError(f"{path}: {found}; export it again from where it came")
    millimetres = {"meter": 1e3, "micron": 1e-3}.get(image.header.get_xyzt_units()[0], 1.0)
    affine = np.diag([millimetres] * 3 + [1.0]) @ np.array(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise ImageError(f"{path}: its affine is not finite or has a zero voxel size:\n{affine}\nstore the image with its voxel size")
    array = np.asarray(image.dataobj)
    shape: tuple[int, ...] = (*array.shape, *(1,) * (3 - array.ndim))
    channels = [length for length in shape[3:] if length != 1]
    spatial = [axis for axis in range(3) if shape[axis] != 1]
    if len(channels) > 1 or len(spatial) < 2:
        raise ImageError(f"{path}: shape {array.shape}; expected 2 or 3 spatial axes and at most one of channels; split the file")
    order = [*spatial, *(axis for axis in range(3) if axis not in spatial)]
    array = array.reshape(*shape[:3], *(channels or [1])).transpose(3, *order)
    # Columns follow their axes, so that a dropped axis comes last.
    return Picture(array.reshape(array.shape[: 1 + len(spatial)]), affine[:, [*order, 3]])


def _write(path: Path, array: np.ndarray, affine: np.ndarray | None) -> None:
    suffixes, dimensions = ((".png",), (2,)) if affine is None else (NIFTI, (2, 3))
    if not path.name.lower().endswith(suffixes) or array.ndim not in dimensions or not array.size:
        wanted = f"{' or '.join(suffixes)} of {' or '.join(map(str, dimensions))} axes {'without' if affine is None else 'with'} an affine"
        raise ImageError(f"{path}: cannot hold an array of shape {array.shape}; expected {wanted}; rename the file or pass its affine")
    content = _encoded(array, affine, compressed=path.name.lower().endswith(".gz"))
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise OutputError(f"{path}: cannot be written ({error}); choose another folder, or free space") from error


def _encoded(array: np.ndarray, affine: np.ndarray | None, *, compressed: bool) -> bytes:
    if affine is None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        return buffer.getvalue()
    import nibabel

    image: Any = nibabel.Nifti1Image(array if array.ndim == 3 else array[..., None], np.asarray(affine, np.float64))
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), 6, mtime=0) if compressed else bytes(image.to_bytes())  # no time: same mask, same bytes
