"""Photographs by Pillow: PNG, JPEG, BMP, GIF, PPM and WebP, compared with what their headers
declare."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.picture import Picture
from allograft.errors import ImageError

# Named, because Pillow would otherwise try every plugin it has, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "WEBP")
_PLAIN, _ALPHA, _PALETTE = ("1", "L", "RGB", "I", "I;16", "I;16B", "F"), ("LA", "RGBA", "RGBX", "PA"), ("P", "PA")


def read_photograph(path: Path, *, mask: bool) -> Picture:
    """(C, H, W) of what Pillow keeps whole; with ``mask`` a palette's indices and the stored steps
    of PNG and PGM.

    Raises:
        ImageError: several frames, modes that are neither grey nor RGB, 16-bit colour, an alpha
            channel that says more than the colours, damage that a PNG's checksums show.
    """
    from PIL import Image, ImageOps

    with Image.open(path, formats=_FORMATS) as stored:
        # a camera's MPO ends with previews
        frames = 1 if stored.format == "MPO" else getattr(stored, "n_frames", 1)
        if frames > 1:
            raise ImageError(f"{path}: {frames} frames; expected one; store each alone, or a volume as NIfTI")
        if stored.mode not in (*_PLAIN, *_ALPHA, *_PALETTE):
            raise ImageError(f"{path}: pixels of mode {stored.mode}; expected grey, RGB or palette; convert it to RGB")
        if stored.format == "PNG":
            _check_png(path)
        if stored.format in ("JPEG", "MPO"):
            check_jpeg(path, path.read_bytes())
        if stored.format == "BMP" and stored.mode == "RGB":
            _check_bmp(path)
        top = _check_netpbm(path, stored) if stored.format == "PPM" else 0
        scale = _scale(path, str(stored.format), top) if mask or top > 255 else 1.0
        turn = int(stored.getexif().get(274, 1))
        turned = ImageOps.exif_transpose(stored)
    array = _channels(path, turned, mask=mask)
    if scale != 1 or top > 255:
        array = np.rint(array / scale).astype(np.uint16 if top > 255 else array.dtype)
    return Picture(array, None, turn=turn if turn in range(1, 9) else 1)


def _channels(path: Path, image: Any, *, mask: bool) -> np.ndarray:
    """(C, H, W) without alpha."""
    if image.mode == "P":
        _check_palette(path, image, mask=mask)
    if image.mode == "P" and not mask and "transparency" in image.info:
        image = image.convert("RGBA")
    elif image.mode in _PALETTE and not mask:
        image = image.convert("RGBA" if image.mode == "PA" else "RGB")
    array = np.asarray(image)
    array = array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0)
    return without_alpha(path, array, mask=mask) if image.mode in _ALPHA and image.mode != "RGBX" else array[:3]


def _check_palette(path: Path, image: Any, *, mask: bool) -> None:
    table = np.frombuffer(bytes(image.palette.palette), np.uint8).reshape(-1, len(image.palette.mode))[:, :3]
    index = np.asarray(image)
    if not mask and (outside := int((index >= len(table)).sum())):
        raise ImageError(
            f"{path}: {outside} pixels with a colour beyond the {len(table)} of its palette; export it again from "
            "where it came"
        )
    if mask:
        check_mask_palette(path, index, table)


def check_mask_palette(path: Path, index: np.ndarray, table: np.ndarray) -> None:
    """Refuse a mask whose palette shows 0 brighter than another of its numbers: which of them is
    the background?

    Args:
        index: (H, W), the numbers.
        table: (N, 3), the colour of each.
    """
    used = [number for number in np.unique(index) if number < len(table)]
    greys = table[used]
    if (greys != greys[:, :1]).any() or (np.diff(greys[:, 0].astype(int)) >= 0).all():
        return  # colours name classes by their place, rising greys are in one order with the numbers
    shown = ", ".join(f"{number} as grey {grey}" for number, grey in zip(used[:4], greys[:4, 0], strict=True))
    raise ImageError(
        f"{path}: a mask whose palette shows {shown}, so that numbers and greys are in another order; store the class "
        "numbers as grey: PIL.Image.fromarray(numbers)"
    )


_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")


def check_jpeg(name: Path | str, content: bytes) -> None:
    """Refuse a JPEG that does not end with its end marker: decoders fill up what is lost with grey.

    Damage within the picture cannot be seen, a JPEG has no checksum.
    """
    place = 2
    while place < len(content):
        matched = _MARKER.search(content, place)
        if matched is None:
            break
        if matched[0][-1] == 0xD9:
            return
        length = int.from_bytes(content[matched.end() : matched.end() + 2], "big")
        place = matched.end() + (0 if matched[0][-1] == 0x01 else length)  # what follows a scan's header is searched
    raise ImageError(
        f"{name}: a JPEG of {len(content)} bytes without its end, cut short or overwritten; copy it again, or export "
        "it again from where it came"
    )


def without_alpha(path: Path, array: np.ndarray, *, mask: bool) -> np.ndarray:
    """(C, H, W) without its last channel, alpha, which must say nothing of its own.

    An alpha of one value is dropped. Of a mask also one that is 0 where the mask is 0 and opaque
    elsewhere.

    Raises:
        ImageError: with what alpha holds.

    >>> without_alpha(Path("a.png"), np.array([[[5, 6]], [[255, 255]]]), mask=False).tolist()
    [[[5, 6]]]
    """
    colours, alpha = array[:-1], array[-1]
    low, high = int(alpha.min(initial=0 if not alpha.size else alpha.flat[0])), int(alpha.max(initial=0))
    if low == high and not (mask and high == 0):
        return colours
    if not mask:
        fix = "where it means nothing, flatten the image: PIL.Image.open(...).convert('RGB')"
        raise ImageError(
            f"{path}: an alpha channel from {low} to {high}, which would be dropped; expected the same everywhere; "
            f"{fix}"
        )
    if low == 0 and len(np.unique(alpha)) == 2 and ((colours != 0).any(0) == (alpha != 0)).all():
        return colours
    drawn = (
        " (the colours are the same everywhere: the mask is drawn in alpha)"
        if (colours == colours[:, :1, :1]).all()
        else ""
    )
    fix = "store the class numbers as grey, of a mask drawn in alpha: PIL.Image.open(...).getchannel('A')"
    raise ImageError(
        f"{path}: a mask with an alpha channel from {low} to {high} that its colours do not follow{drawn}; {fix}"
    )


def _scale(path: Path, kind: str, top: int) -> float:
    """By how much Pillow multiplies the stored greys of a PNG of 2 or 4 bits, and of a PGM whose
    maximum is ``top``."""
    if kind == "PPM":
        return (255 if top <= 255 else 65535) / (top or 255)
    if kind != "PNG":
        return 1.0
    with path.open("rb") as file:
        head = file.read(26)
    return {2: 85.0, 4: 17.0}.get(head[24], 1.0) if head[25] == 0 else 1.0


_GAP = rb"(?:\s*#[^\n]*\n\s*|\s+)"
_NETPBM = re.compile(rb"P([1-6])" + _GAP + rb"+(\d+)" + _GAP + rb"+(\d+)" + rb"(?:" + _GAP + rb"+(\d+))?")


def _check_netpbm(path: Path, stored: Any) -> int:
    """The maximum of a PBM, PGM or PPM file; 0 where it has none.

    Raises:
        ImageError: colours of more than 8 bits, which Pillow cuts to 8, and a second image behind
            the first, which it does not read.
    """
    with path.open("rb") as file:
        header = _NETPBM.match(file.read(4096))
    if header is None:
        return 0
    kind, top = int(header[1]), 0 if header[1] in b"14" else int(header[4] or 0)
    if kind in (3, 6) and top > 255:
        raise ImageError(
            f"{path}: colours up to {top}, which would be cut to 8 bits; expected at most 255; store it as TIFF"
        )
    if kind > 3:
        width, height = stored.size
        row = -(-width // 8) if kind == 4 else width * (3 if kind == 6 else 1) * (2 if top > 255 else 1)
        with path.open("rb") as file:
            file.seek(header.end() + 1 + row * height)
            rest = file.read()
        if len(rest) > max(row, 16) or rest.lstrip().startswith(b"P"):
            raise ImageError(
                f"{path}: {len(rest)} bytes behind the image, another one perhaps, which would not be read; expected "
                "one image; store each alone"
            )
    return top


def _check_bmp(path: Path) -> None:
    """Refuse a fourth sample of each pixel that holds something, which Pillow leaves out."""
    content = path.read_bytes()
    rest = np.frombuffer(content[int.from_bytes(content[10:14], "little") :], np.uint8)[3::4]
    if int.from_bytes(content[28:30], "little") == 32 and rest.size and rest.min() != rest.max():
        found = f"a fourth sample from {rest.min()} to {rest.max()}, which would be dropped"
        raise ImageError(
            f"{path}: {found}; expected the same everywhere; store it as PNG or TIFF, or flatten it to RGB"
        )


def _check_png(path: Path) -> None:
    """Refuse what Pillow would cut to 8 bits, and chunks whose checksum is wrong, which it does not
    look at."""
    content = path.read_bytes()
    depth, colour = content[24:26]
    if depth == 16 and colour != 0:
        raise ImageError(
            f"{path}: a PNG of 16 bits per channel in colour or with alpha, which would lose 8 bits; store it as TIFF"
        )
    offset, kind, packed = 8, b"", []
    while kind != b"IEND":
        length, kind = int.from_bytes(content[offset : offset + 4], "big"), content[offset + 4 : offset + 8]
        if offset + 12 + length > len(content):
            raise ImageError(
                f"{path}: a PNG that was cut short at {len(content)} bytes; copy it again, or export it again"
            )
        body, check = content[offset + 4 : offset + 8 + length], content[offset + 8 + length : offset + 12 + length]
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"tRNS") and zlib.crc32(body) != int.from_bytes(check, "big"):
            raise ImageError(
                f"{path}: a damaged PNG, the checksum of its {kind.decode()} is wrong; export it again from where it "
                "came"
            )
        packed += [body[4:]] if kind == b"IDAT" else []
        offset += 12 + length
    _check_rows(path, content, packed)


_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the passes of an interlaced PNG."""


def _check_rows(path: Path, content: bytes, packed: Sequence[bytes]) -> None:
    """Refuse pixels that are fewer or more than the header declares: Pillow leaves the others 0, or
    leaves them out."""
    width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    parts = [
        (-(-(width - x) // step_x), -(-(height - y) // step_y))
        for x, y, step_x, step_y in (_PASSES if interlaced else ((0, 0, 1, 1),))
    ]
    declared = sum(high * (1 + -(-wide * bits // 8)) for wide, high in parts if wide > 0 and high > 0)
    unpacked, found = zlib.decompressobj(), 0
    for part in packed:
        while part:
            found += len(unpacked.decompress(part, 2**20))
            part = unpacked.unconsumed_tail
    if unpacked.eof and found != declared:
        raise ImageError(
            f"{path}: a PNG whose header declares {declared} bytes of pixels, and which holds {found}; export it again "
            "from where it came"
        )
