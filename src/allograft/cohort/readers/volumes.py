"""Volumes that nibabel reads: NIfTI, Analyze, MGH, MINC and PAR/REC, on one set of rules for axes,
millimetres and damage."""

from __future__ import annotations

import gzip
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.alignment import check_right_angles
from allograft.cohort.picture import Picture, check_pixels
from allograft.cohort.readers.files import PAIRED, companions
from allograft.errors import ImageError, require_extra

_LEFT_OVER = 2**20
"""Bytes that may follow the pixels of a compressed file."""


def read_volume(path: Path, *, mask: bool = False) -> Picture:
    """(C, *spatial) of a volume or plane, its affine in mm and RAS. Used by ``read_image``.

    Axes of length one are dropped, a fourth axis is channels. A compressed file is read to its end,
    where its checksum is. Raises ``ImageError`` for a file of another kind, an affine that is not
    finite, singular or sheared by a voxel or more.
    """
    import nibabel

    if _is_hdf5(path):  # MINC 2
        require_extra("h5py", "minc")
    if path.suffix.lower() in PAIRED and not companions(path):
        raise ImageError(
            f"{path}: {PAIRED[path.suffix.lower()][0]} next to it is missing; expected both files of the pair; copy it "
            "there"
        )
    image: Any = nibabel.load(path, mmap=False)
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        fix = "convert it, CIFTI with wb_command -cifti-separate"
        raise ImageError(f"{path}: a {type(image).__name__}; expected a volume of voxels; {fix}")
    _check_size(path, image)
    _check_header(path, image)
    affine, notes = _affine(path, image)
    array = _pixels(path, image)
    if isinstance(image, nibabel.Minc1Image) and array.ndim > 3:
        raise ImageError(
            f"{path}: a MINC file of shape {array.shape}; expected one volume; split it, with mincreshape for example"
        )
    shape: tuple[int, ...] = (*array.shape, *(1,) * (3 - array.ndim))
    channels = [length for length in shape[3:] if length != 1] or [1]
    spatial = [axis for axis in range(3) if shape[axis] != 1]
    if len(channels) > 1 or len(spatial) < 2:
        raise ImageError(
            f"{path}: shape {array.shape}; expected 2 or 3 spatial axes and at most one of channels; split the file"
        )
    order = [*spatial, *(axis for axis in range(3) if axis not in spatial)]
    affine = affine[:, [*order, 3]]  # columns follow their axes, so that a dropped axis comes last
    plane = len(spatial) == 2
    thickness = _thickness(path, image, order[2]) if plane else None
    if plane and not np.linalg.norm(affine[:3, 2]):
        affine[:3, 2] = _unit(np.cross(affine[:3, 0], affine[:3, 1]))
    _check_affine(path, affine)
    array = array.reshape(*shape[:3], *channels).transpose(3, *order)
    array = array.reshape(array.shape[: 1 + len(spatial)])
    check_right_angles(path, affine, array.shape[1:])
    return Picture(array, affine, order[2] if plane and len(image.shape) > 2 else None, thickness, notes=notes)


def _unit(vector: np.ndarray) -> np.ndarray:
    return np.asarray(vector / (np.linalg.norm(vector) or 1.0))


def _is_hdf5(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"


def _check_size(path: Path, image: Any) -> None:
    """Compare what the header asks for with the file before anything is allocated."""
    check_pixels(path, image.shape)
    pixels = Path(image.file_map["image"].filename or path)
    stored = np.dtype(image.get_data_dtype()).itemsize * math.prod(image.shape)
    packed = pixels.name.lower().endswith(("gz", ".bz2", ".zst")) or _is_hdf5(pixels)
    # gzip packs a thousand to one at most
    if stored > pixels.stat().st_size * (1100 if packed else 1):
        found = f"its header asks for {stored} bytes of pixels, the file has {pixels.stat().st_size} bytes"
        raise ImageError(f"{path}: {found}; export it again from where it came")


def _pixels(path: Path, image: Any) -> np.ndarray:
    if not path.name.lower().endswith("gz"):
        array, left = np.asarray(image.dataobj), _following(image)
    else:
        with gzip.open(path) as stream:
            array = np.asarray(type(image).from_stream(stream).dataobj)
            left = 0
            while left <= _LEFT_OVER and (part := stream.read(2**16)):  # the checksum is at the end
                left += len(part)
    stored = np.dtype(image.get_data_dtype()).itemsize * math.prod(image.shape)
    # a few bytes that fill up a block are none of the image, a slice is
    if left > _LEFT_OVER or left > max(512, stored // max(image.shape[-1], 1)):
        raise ImageError(
            f"{path}: holds more than the {stored} bytes of pixels that its header declares, which would be left out; "
            "export it again from where it came"
        )
    return _colours(path, array) if array.dtype.names else array


def _following(image: Any) -> int:
    """Bytes behind the pixels of a NIfTI file that is not compressed."""
    import nibabel

    if not isinstance(image, nibabel.Nifti1Pair):
        return 0
    stored = np.dtype(image.get_data_dtype()).itemsize * math.prod(image.shape)
    pixels = Path(str(image.file_map["image"].filename))
    if pixels.name.lower().endswith((".bz2", ".zst")):
        return 0
    proxy: Any = image.dataobj  # the header's own offset is not that of the file any more
    return pixels.stat().st_size - int(proxy.offset) - stored


def _colours(path: Path, array: np.ndarray) -> np.ndarray:
    """RGB24 voxels as a fourth axis."""
    if array.dtype.names != ("R", "G", "B") or array.ndim > 3:
        fix = "store the colours as a fourth axis of numbers"
        raise ImageError(f"{path}: voxels of {', '.join(array.dtype.names or ())}; expected numbers or RGB; {fix}")
    return np.stack([array[name] for name in array.dtype.names], -1)


def _affine(path: Path, image: Any) -> tuple[np.ndarray, dict[str, str]]:
    """In mm, and what is worth knowing of it."""
    import nibabel

    header, affine = image.header, np.array(image.affine, np.float64)
    if not isinstance(image, nibabel.Nifti1Pair):
        lengths = {
            "orientation": "Analyze files do not say which side is left; nibabel takes it as stored from right to left"
        }
        return affine, lengths if isinstance(image, nibabel.AnalyzeImage) else {}
    scale = np.diag([_millimetres(image)] * 3 + [1.0])
    codes = int(header["sform_code"]), int(header["qform_code"])
    notes = {}
    if codes == (0, 0):
        notes["orientation"] = "sform_code and qform_code are 0: which way the axes point is not stated"
    elif min(codes) > 0:
        corners = product(*((0, length - 1) for length in (*image.shape, 1, 1)[:3]), (1,))
        between = np.array(header.get_sform()) - np.array(header.get_qform())
        apart = max(float(np.linalg.norm(between[:3] @ corner)) for corner in corners)
        if not apart < 0.1 * float(np.abs(header["pixdim"][1:4]).min()):
            notes["sform"] = f"sform and qform disagree, by {apart:.3g} mm; the sform is used"
    stated, lengths = np.abs(header["pixdim"][1:4]), np.linalg.norm(affine[:3, :3], axis=0)
    if codes[0] and "sform" not in notes and not np.allclose(stated, lengths, rtol=0.01):
        mine, other = (" x ".join(f"{mm:.4g}" for mm in lengths_mm) for lengths_mm in (lengths, stated))
        notes["sform"] = f"voxels of {mine} mm by the sform, of {other} mm by pixdim; the sform is used"
    if codes[0] == 0:
        _check_stated(path, image)
    return scale @ affine, notes


def _stated(path: Path) -> np.ndarray:
    """The voxel sizes (3,) as a NIfTI header stores them: nibabel puts 1 where they are 0."""
    return np.asarray(_header(path)["pixdim"][1:4], np.float64)


def _check_header(path: Path, image: Any) -> None:
    """Refuse a NIfTI header that says two things of its pixels, of which nibabel takes one."""
    import nibabel

    if not isinstance(image, nibabel.Nifti1Pair) or path.name.lower().endswith((".bz2", ".zst")):
        return
    header = _header(path)
    bits = 8 * np.dtype(image.get_data_dtype()).itemsize
    if int(header["bitpix"]) not in (0, bits):
        found = f"its header declares numbers of {bits} bits (datatype {int(header['datatype'])})"
        raise ImageError(f"{path}: {found} and of {int(header['bitpix'])} (bitpix); export it again from where it came")
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if math.isinf(slope) or (slope and math.isfinite(slope) and not math.isfinite(intercept)):
        raise ImageError(
            f"{path}: a scale of {slope:g} and {intercept:g}; expected finite numbers; export it again from where it "
            "came"
        )


def _header(path: Path) -> Any:
    """A NIfTI header as stored."""
    import nibabel

    header = path.with_suffix(".hdr")
    path = header if path.suffix.lower() == ".img" and header.exists() else path
    with gzip.open(path) if path.name.lower().endswith("gz") else path.open("rb") as file:
        raw = file.read(540)
    kind = (
        nibabel.Nifti2Header
        if 540 in (int.from_bytes(raw[:4], "little"), int.from_bytes(raw[:4], "big"))
        else nibabel.Nifti1Header
    )
    return kind(raw[: kind.template_dtype.itemsize], check=False)


def _check_stated(path: Path, image: Any) -> None:
    """Refuse voxel sizes of 0 along an axis that is longer than one."""
    for axis, size in enumerate(_stated(path)):
        if size == 0 and axis < len(image.shape) and image.shape[axis] > 1:
            raise ImageError(
                f"{path}: a voxel size of 0 along axis {axis}; expected mm above 0; store the image with its voxel size"
            )


def _thickness(path: Path, image: Any, dropped: int) -> float | None:
    """Millimetres across a plane; None where the file does not state them."""
    import nibabel

    if dropped >= len(image.shape):
        return None
    if isinstance(image, nibabel.Nifti1Pair) and image.header["sform_code"] == 0 and _stated(path)[dropped] == 0:
        return None
    size = _millimetres(image) * float(np.linalg.norm(np.asarray(image.affine)[:3, dropped]))
    return size if size > 0 else None


def _millimetres(image: Any) -> float:
    """What one unit of the affine is."""
    units = getattr(image.header, "get_xyzt_units", lambda: ("mm", "sec"))()
    return {"meter": 1e3, "micron": 1e-3}.get(units[0], 1.0)


def _check_affine(path: Path, affine: np.ndarray) -> None:
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) <= 1e-6 * math.prod(sizes):
        raise ImageError(
            f"{path}: its affine is not finite or has a zero voxel size:\n{affine}\nstore the image with its voxel size"
        )
