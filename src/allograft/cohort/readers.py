"""Images and masks from files, and back: NIfTI, PNG, JPEG, TIFF, BMP, GIF, PPM. Every refusal is an ``ImageError`` that says the mend."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from allograft.errors import ImageError, OutputError

NIFTI, TIFF = (".nii.gz", ".nii"), (".tif", ".tiff")
SUFFIXES = (*NIFTI, ".png", ".jpg", ".jpeg", *TIFF, ".bmp", ".gif", ".ppm", ".pgm")  # upper case too
# Named, because Pillow would otherwise try every plugin it has, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM")
_PLAIN, _ALPHA, _PALETTE = ("1", "L", "RGB", "I", "I;16", "I;16B", "F"), ("LA", "RGBA", "RGBX"), ("P", "PA")


@dataclass(frozen=True, eq=False)
class Picture:
    """One image as stored.

    ``array`` is (C, *spatial) in file order: (C, H, W) for photographs, voxels (C, i, j, k) for NIfTI. ``affine`` is (4, 4),
    voxel -> mm in RAS world coordinates, or None for photographs. A 2-D image with an affine is a plane of a volume: its first
    two columns belong to the two axes, the third to the axis of length one that was dropped.

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
    """Read one image; several files are its channels, in the order given.

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
    if not path.is_file():
        raise ImageError(f"{path}: missing{' (a folder)' if path.is_dir() else ''}; expected an image file; correct the path")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise ImageError(f"{path}: unknown suffix; can read {', '.join(SUFFIXES)}; convert the file")
    read: Callable[..., Picture] = _read_nifti if name.endswith(NIFTI) else _read_tiff if name.endswith(TIFF) else _read_photograph
    head = b""
    try:
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


def _read_photograph(path: Path, *, mask: bool) -> Picture:
    from PIL import Image, ImageOps

    with Image.open(path, formats=_FORMATS) as stored:
        frames = 1 if stored.format == "MPO" else getattr(stored, "n_frames", 1)  # a camera's MPO ends with previews
        if frames > 1:
            raise ImageError(f"{path}: {frames} frames; expected one; store each alone, or a volume as NIfTI")
        if stored.mode not in (*_PLAIN, *_ALPHA, *_PALETTE):
            raise ImageError(f"{path}: pixels of mode {stored.mode}; expected grey, RGB or palette; convert it to RGB")
        step = _grey_step(path) if stored.format == "PNG" else 1
        turned = ImageOps.exif_transpose(stored)
    if turned.mode in _PALETTE and not mask:
        turned = turned.convert("RGB")
    array = np.asarray(turned)
    array = array[..., :-1] if turned.mode in (*_ALPHA, "PA") else array // step if mask and step > 1 else array
    return Picture(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0), None)


def _grey_step(path: Path) -> int:
    """By how much Pillow multiplies the stored greys of a PNG; refuses what it would silently cut to 8 bits."""
    with path.open("rb") as file:
        depth, colour = file.read(26)[24:]
    if depth == 16 and colour != 0:
        raise ImageError(f"{path}: a PNG of 16 bits a channel in colour or with alpha, which would lose 8 bits; store it as TIFF")
    return {2: 85, 4: 17}.get(depth, 1) if colour == 0 else 1


def _read_tiff(path: Path, *, mask: bool) -> Picture:
    """Pillow reads what it keeps whole, tifffile the rest: deep, floating, many channels, and turned, which Pillow 13 scrambles."""
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if len(file.pages) != 1:
            raise ImageError(f"{path}: {len(file.pages)} pages; expected one; store each alone, or a volume as NIfTI")
        orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
        if orientation == 1 and page.bitspersample <= 8 and (page.samplesperpixel == 1 or page.photometric not in (0, 1)):
            return _read_photograph(path, mask=mask)
        if page.photometric not in (0, 1, 2) or sorted(page.axes) not in (["X", "Y"], ["S", "X", "Y"]):
            raise ImageError(f"{path}: TIFF pixels {page.photometric!r} along {page.axes}; expected grey or RGB; convert it")
        if Image.MAX_IMAGE_PIXELS and page.imagelength * page.imagewidth > 2 * Image.MAX_IMAGE_PIXELS:
            raise ImageError(f"{path}: {page.imagelength} x {page.imagewidth} pixels are too many; cut it into tiles")
        array = page.asarray()
        array = array[None] if page.axes == "YX" else np.moveaxis(array, page.axes.index("S"), 0)
        if page.photometric == 0 and array.dtype.kind in "bu":  # white is zero
            array = array ^ array.dtype.type(2**page.bitspersample - 1)
        alpha = sum(int(kind) in (1, 2) for kind in page.extrasamples)
    return Picture(_turned(array[: len(array) - alpha], orientation), None)


def _turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation to (C, H, W)."""
    array = array.swapaxes(1, 2) if orientation in (5, 6, 7, 8) else array
    return array[:, :: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def _read_nifti(path: Path, *, mask: bool) -> Picture:
    import nibabel

    image: Any = nibabel.load(path, mmap=False)
    if not isinstance(image, nibabel.Nifti1Pair):
        raise ImageError(f"{path}: a {type(image).__name__}; expected a NIfTI volume; convert it")
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
