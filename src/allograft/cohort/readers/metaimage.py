"""MetaImage (.mha, .mhd) by SimpleITK, the extra ``metaimage``."""

from __future__ import annotations

import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.alignment import check_right_angles
from allograft.cohort.picture import Picture, check_pixels
from allograft.cohort.readers.files import detached
from allograft.errors import ImageError, require_extra

_PACKED = re.compile(rb"^CompressedData\s*=\s*True", re.MULTILINE | re.IGNORECASE)
_LOCAL = re.compile(rb"^ElementDataFile\s*=\s*LOCAL[^\n]*\n", re.MULTILINE | re.IGNORECASE)


def read_metaimage(path: Path, *, mask: bool = False) -> Picture:
    """(C, *spatial) with its affine in mm and RAS; components or a fourth axis are channels.

    Raises:
        ImageError: pixels in several files or out of the header's folder, a header that asks for
            more than the file holds, a sheared grid.
        MissingExtraError: SimpleITK is not installed.
    """
    require_extra("SimpleITK", "metaimage")
    import SimpleITK as sitk

    pixels = detached(path) or path
    reader = sitk.ImageFileReader()
    reader.SetImageIO("MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, components = tuple(reader.GetSize()), int(reader.GetNumberOfComponents())
    check_pixels(path, (components, *size))
    # zlib packs a thousand to one at most
    if components * math.prod(size) > pixels.stat().st_size * 1100:
        raise ImageError(
            f"{path}: its header asks for an image {size}, the file has {pixels.stat().st_size} bytes; export it again"
        )
    _check_packed(path, pixels)
    array = sitk.GetArrayFromImage(reader.Execute())  # (..., k, j, i[, components])
    _check_length(path, pixels, array)
    array = np.moveaxis(array, -1, 0) if components > 1 else array[None]
    array = array.transpose(0, *range(array.ndim - 1, 0, -1))
    affine = _affine(reader, len(size))
    if len(size) == 4:
        if components > 1:
            raise ImageError(
                f"{path}: shape {size} of {components} components; expected one axis of channels; split the file"
            )
        array = np.moveaxis(array[0], -1, 0)
    spatial = array.shape[1:]
    kept = [axis for axis, length in enumerate(spatial) if length != 1]
    if len(kept) < 2:
        raise ImageError(f"{path}: shape {size}; expected 2 or 3 axes that are longer than one; split the file")
    order = [*kept, *(axis for axis in range(3) if axis not in kept)]
    affine = affine[:, [*order, 3]]
    dropped = order[2] if len(kept) == 2 and len(size) > 2 else None
    thickness = None if dropped is None else float(np.linalg.norm(affine[:3, 2]))
    array = array.reshape(len(array), *(spatial[axis] for axis in kept))
    check_right_angles(path, affine, array.shape[1:])
    return Picture(array, affine, dropped, thickness)


def _check_packed(path: Path, pixels: Path) -> None:
    """Raise ``zlib.error`` for compressed pixels whose checksum is wrong, which ITK does not look
    at."""
    with path.open("rb") as file:
        head = file.read(2**16)
    if not _PACKED.search(head):
        return
    local = _LOCAL.search(head)
    unpacked = zlib.decompressobj()
    with pixels.open("rb") as file:
        file.seek(local.end() if local else 0)
        while not unpacked.eof and (part := unpacked.unconsumed_tail or file.read(2**16)):
            unpacked.decompress(part, 2**20)
    if not unpacked.eof:
        raise zlib.error("the compressed pixels end before their checksum")


def _check_length(path: Path, pixels: Path, array: np.ndarray) -> None:
    """Refuse plain pixels that are followed by a slice or more, which ITK leaves out."""
    with path.open("rb") as file:
        head = file.read(2**16)
    start = _LOCAL.search(head)
    if _PACKED.search(head) or (pixels != path and re.search(rb"^HeaderSize", head, re.MULTILINE | re.IGNORECASE)):
        return
    left = pixels.stat().st_size - (start.end() if start else 0) - array.nbytes
    # a few bytes that fill up a block are none of the image, a slice is
    if left > max(512, array.nbytes // max(len(array), 1)):
        raise ImageError(
            f"{path}: holds {left} bytes more than the {array.nbytes} of pixels that its header declares, which would "
            "be left out; export it again"
        )


def _affine(reader: Any, dimensions: int) -> np.ndarray:
    """ITK's world is LPS; of four axes the first three, a plane is completed by its normal."""
    spatial = min(dimensions, 3)
    direction = np.array(reader.GetDirection()).reshape(dimensions, dimensions)[:spatial, :spatial]
    affine = np.eye(4)
    affine[:spatial, :spatial] = direction * np.array(reader.GetSpacing())[:spatial]
    affine[:spatial, 3] = np.array(reader.GetOrigin())[:spatial]
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
