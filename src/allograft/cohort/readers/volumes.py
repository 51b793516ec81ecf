"""Volumes that nibabel reads: NIfTI, Analyze, MGH, MINC and PAR/REC, on one set of rules for axes,
millimetres and damage."""

from __future__ import annotations

import gzip
import math
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
            f"{path}: {PAIRED[path.suffix.lower()][0]} beside it is missing; expected both files of the pair; copy it "
            "there"
        )
    image: Any = nibabel.load(path, mmap=False)
    if not isinstance(image, nibabel.spatialimages.SpatialImage):
        fix = "convert it, CIFTI with wb_command -cifti-separate"
        raise ImageError(f"{path}: a {type(image).__name__}; expected a volume of voxels; {fix}")
    _check_size(path, image)
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
        return np.asarray(image.dataobj)
    with gzip.open(path) as stream:
        array = np.asarray(type(image).from_stream(stream).dataobj)
        left = 0
        while part := stream.read(2**16):  # the checksum is at the end and is compared there
            left += len(part)
            if left > _LEFT_OVER:
                raise ImageError(
                    f"{path}: holds more than the {array.nbytes} bytes of pixels that its header declares; export it "
                    "again"
                )
    return array


def _affine(path: Path, image: Any) -> tuple[np.ndarray, dict[str, str]]:
    """In mm, and what is worth knowing of it."""
    import nibabel

    header, affine = image.header, np.array(image.affine, np.float64)
    if not isinstance(image, nibabel.Nifti1Pair):
        sides = {
            "orientation": "Analyze files do not say which side is left; nibabel takes it as stored from right to left"
        }
        return affine, sides if isinstance(image, nibabel.AnalyzeImage) else {}
    scale = np.diag([_millimetres(image)] * 3 + [1.0])
    codes = int(header["sform_code"]), int(header["qform_code"])
    notes = {}
    if codes == (0, 0):
        notes["orientation"] = "sform_code and qform_code are 0: which way the axes point is not stated"
    elif min(codes) > 0:
        corner = np.array([*(length - 1 for length in (*image.shape, 1, 1)[:3]), 1.0])
        forms = np.array(header.get_sform()), np.array(header.get_qform())
        apart = max(
            float(np.linalg.norm((forms[0] - forms[1])[:3] @ place)) for place in (corner, np.array([0.0, 0, 0, 1]))
        )
        if not apart < 0.1 * float(np.abs(header["pixdim"][1:4]).min()):
            notes["sform"] = f"sform and qform disagree, by {apart:.3g} mm; the sform is used"
    if codes[0] == 0:
        _check_stated(path, image)
    return scale @ affine, notes


def _stated(path: Path) -> np.ndarray:
    """The voxel sizes (3,) as a NIfTI header stores them: nibabel puts 1 where they are 0."""
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
    return np.asarray(kind(raw[: kind.template_dtype.itemsize], check=False)["pixdim"][1:4], np.float64)


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
