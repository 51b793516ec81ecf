"""Photographs: PNG, JPEG, BMP, GIF and PPM by Pillow, TIFF by tifffile where Pillow would lose something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.readers import Picture, check_pixels
from allograft.errors import ImageError

# Named, because Pillow would otherwise try every plugin it has, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM")
_PLAIN, _ALPHA, _PALETTE = ("1", "L", "RGB", "I", "I;16", "I;16B", "F"), ("LA", "RGBA", "RGBX"), ("P", "PA")


def read_photograph(path: Path, *, mask: bool) -> Picture:
    """(C, H, W) of what Pillow keeps whole; with ``mask`` a palette's indices and a PNG's stored steps. Used by ``read_image``."""
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


def read_tiff(path: Path, *, mask: bool) -> Picture:
    """Pillow reads what it keeps whole, tifffile the rest: deep, floating, many channels, and turned, which Pillow 13 scrambles."""
    import tifffile
    from PIL import Image

    with tifffile.TiffFile(path) as file:
        page: Any = file.pages[0]
        if len(file.pages) != 1:
            raise ImageError(f"{path}: {len(file.pages)} pages; expected one; store each alone, or a volume as NIfTI")
        orientation = int(page.tags["Orientation"].value) if "Orientation" in page.tags else 1
        if orientation == 1 and page.bitspersample <= 8 and (page.samplesperpixel == 1 or page.photometric not in (0, 1)):
            return read_photograph(path, mask=mask)
        if page.photometric not in (0, 1, 2) or sorted(page.axes) not in (["X", "Y"], ["S", "X", "Y"]):
            raise ImageError(f"{path}: TIFF pixels {page.photometric!r} along {page.axes}; expected grey or RGB; convert it")
        check_pixels(path, page.shape)
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
