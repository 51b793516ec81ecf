"""TIFF by tifffile: every sample and bit that the tags declare."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.picture import Picture, check_pixels
from allograft.cohort.readers.photographs import check_mask_palette, without_alpha
from allograft.errors import ImageError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = (6, 7)


def read_tiff(path: Path, *, mask: bool) -> Picture:
    """(C, H, W): all samples but alpha; a palette as RGB, or its indices with ``mask``; turned as
    the orientation tag says.

    Greys of less than 8 bits fill 8 bits in images, and are steps in masks.

    Raises:
        ImageError: several pages or planes, colours that are neither grey, RGB, palette nor JPEG's
            YCbCr, an alpha channel that says more than the colours.
    """
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        planes = max(
            [
                len(file.pages),
                *(int(np.prod(series.shape)) // max(1, int(np.prod(page.shape))) for series in file.series),
            ]
        )
        if planes != 1:
            raise ImageError(f"{path}: {planes} pages; expected one; store each alone, or a volume as NIfTI")
        colour = int(page.photometric)
        kinds = (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE) + ((_YCBCR,) if int(page.compression) in _JPEG else ())
        if colour not in kinds or sorted(page.axes) not in (["X", "Y"], ["S", "X", "Y"]):
            raise ImageError(
                f"{path}: TIFF pixels {page.photometric!r} along {page.axes}; expected grey, RGB or palette; convert it"
            )
        check_pixels(path, page.shape)
        if Image.MAX_IMAGE_PIXELS and page.imagelength * page.imagewidth > 2 * Image.MAX_IMAGE_PIXELS:
            raise ImageError(f"{path}: {page.imagelength} x {page.imagewidth} pixels are too many; cut it into tiles")
        if lost := page.databytecounts.count(0):
            found = f"{lost} of its {len(page.databytecounts)} strips or tiles hold nothing, and would be read as 0"
            raise ImageError(f"{path}: {found}; expected every pixel; export it again")
        array = page.asarray()
        array = array[None] if page.axes == "YX" else np.moveaxis(array, page.axes.index("S"), 0)
        if len(array) != page.samplesperpixel:
            raise ImageError(
                f"{path}: {len(array)} samples read, its tags declare {page.samplesperpixel}; export it again"
            )
        array = _coloured(path, page, array, mask=mask)
        if any(int(kind) in (1, 2) for kind in page.extrasamples):
            array = _opaque(path, page, array, mask=mask)
        turn = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
    return Picture(turned(array, turn), None, turn=turn if turn in range(1, 9) else 1)


def _coloured(path: Path, page: Any, array: np.ndarray, *, mask: bool) -> np.ndarray:
    """Stored numbers -> greys with black as 0, or colours."""
    bits = int(page.bitspersample)
    if int(page.photometric) == _PALETTE:
        table = np.asarray(page.colormap)
        table = (table >> 8 if table.max() > 255 else table).astype(np.uint8)
        if mask:
            check_mask_palette(path, array[0], table.T)
            return array
        return np.asarray(table[:, array[0]])
    if int(page.photometric) == _WHITE_IS_ZERO:
        if array.dtype.kind not in "bu":
            raise ImageError(
                f"{path}: TIFF pixels of type {array.dtype} with white as zero; expected whole numbers from 0; "
                "convert it"
            )
        if mask and bits > 1:
            raise ImageError(
                f"{path}: a mask with white as zero, of {bits} bits; expected black as zero, since viewers show other "
                "numbers than the file stores; save it with black as zero"
            )
        array = array ^ array.dtype.type(2**bits - 1)
    if not mask and bits in (2, 4) and array.dtype == np.uint8:
        array = array * np.uint8(255 // (2**bits - 1))
    return array


def _opaque(path: Path, page: Any, array: np.ndarray, *, mask: bool) -> np.ndarray:
    """Without the alpha channels that the tags declare, wherever they are among the samples."""
    first = len(array) - len(page.extrasamples)
    alphas = [first + number for number, kind in enumerate(page.extrasamples) if int(kind) in (1, 2)]
    colours = np.delete(array, alphas, 0)
    for alpha in alphas:
        without_alpha(path, np.concatenate([colours, array[alpha : alpha + 1]]), mask=mask)
    return colours


def turned(array: np.ndarray, orientation: int) -> np.ndarray:
    """Apply the EXIF orientation to (C, H, W).

    >>> turned(np.array([[[1, 2], [3, 4]]]), 6)[0].tolist()
    [[3, 1], [4, 2]]
    """
    array = array.swapaxes(1, 2) if orientation in (5, 6, 7, 8) else array
    return array[:, :: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]
