"""A prediction and the truth drawn over their image: one rendering for organs and for vessels two
pixels wide."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError
from allograft.grey import grey_of

if TYPE_CHECKING:
    from PIL.Image import Image as Canvas

AGREE, MISSED, EXTRA = "#1fd6a2", "#4d9dff", "#ff9a1f"
"""Colours of what both mark, of truth not found, and of what is found without truth; told apart by
colour-blind readers too."""
SHORT, LONG = 256, 1024
RIM, EDGE, INSIDE = 2, 0.85, 0.18
"""Pixels of an outline, and how opaque the outline and what it encloses are. What is thinner than
two rims is all outline."""
SHADES = (0.0, 0.45, -0.35)
"""Classes take turns: the plain colour, one lighter, one darker."""


def draw_overlay(
    image: NDArray[np.generic],
    truth: NDArray[np.generic] | None,
    found: NDArray[np.generic],
    window: tuple[float, float] | None = None,
) -> bytes:
    """A PNG of an image with outlines: green where truth and prediction agree, blue where truth is
    missed, orange where too much is found.

    Outlines have a faint filling; a structure thinner than two outlines is coloured whole, so
    vessels stay visible. The image turns grey, because colours over colours mislead. Classes differ
    by shade.

    Args:
        image: (H, W) or (H, W, 3), any numbers; the 1st to 99th percentile become black to white.
        truth: (H, W) class indices, 0 = background, negative = does not count; None where there is
            none: all that is found is orange then.
        found: (H, W) class indices.
        window: what becomes black and white instead, so that slices of one volume are alike: see
            ``window_of``.

    Returns:
        The file's bytes; the short side has at least 256 pixels, the long one at most 1024 (which
        wins).

    Raises:
        SpecError: shapes that do not fit together.

    Example:
        >>> found = np.eye(8, dtype=int)
        >>> draw_overlay(np.zeros((8, 8)), None, found)[:4]
        b'\\x89PNG'
    """
    from PIL import Image

    _check(image, truth, found)
    scale, size = scaled(found.shape)
    grey = Image.fromarray(grey_of(image, window))
    masks = [np.zeros_like(found) if truth is None else truth, found]
    if scale > 1:
        grey = grey.resize(size, Image.Resampling.BICUBIC)
        masks = [enlarged(mask, size) for mask in masks]
    rim = RIM if scale >= 1 else max(RIM, round(RIM / scale))
    canvas = Image.fromarray(_painted(np.asarray(grey), masks[0], masks[1], rim))
    if scale < 1:
        canvas = canvas.resize(size, Image.Resampling.BOX)
    return png_of(canvas)


def png_of(canvas: Canvas) -> bytes:
    """The bytes of a small file."""
    from PIL import Image

    file = io.BytesIO()
    # 256 colours are enough to see by, and a third of the bytes: all pictures of a study share one
    # page
    canvas.quantize(256, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()


def scaled(shape: tuple[int, ...]) -> tuple[float, tuple[int, int]]:
    """How many times an image of (H, W) is enlarged, and the (width, height) it gets."""
    scale = min(max(1.0, SHORT / min(shape)), LONG / max(shape))
    return scale, (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))


def slice_of(volume: NDArray[np.generic], mask: NDArray[np.generic]) -> int:
    """The index along the last axis with most foreground; the middle one when there is none.

    Args:
        volume: (C, *spatial) or (*spatial).
        mask: (*spatial) class indices.

    Example:
        >>> mask = np.zeros((2, 2, 5), dtype=int)
        >>> mask[0, 0, 3] = 1
        >>> slice_of(mask, mask)
        3
    """
    if volume.shape[-1] != mask.shape[-1]:
        raise SpecError(
            f"overlay: the volume has {volume.shape[-1]} slices, the mask {mask.shape[-1]}; expected one grid"
        )
    counts = (mask > 0).reshape(-1, mask.shape[-1]).sum(0)  # type: ignore[operator]
    return int(counts.argmax()) if counts.any() else mask.shape[-1] // 2


def slices_through(mask: NDArray[np.generic], most: int) -> list[int]:
    """At most ``most`` slices along the last axis, evenly through what is marked, from its first
    slice to its last.

    They come in the order in which they are worth keeping: that with most of it, then the ends,
    then ever finer halves.

    Example:
        >>> mask = np.zeros((2, 2, 9), dtype=int)
        >>> mask[0, 0, 2:7] = 1
        >>> slices_through(mask, 3), slices_through(mask, 9)
        ([2, 6, 4], [2, 6, 4, 3, 5])
    """
    marked = np.flatnonzero((mask > 0).reshape(-1, mask.shape[-1]).any(0))  # type: ignore[operator]
    middle = slice_of(mask, mask)
    if not marked.size or most < 2:
        return [middle]
    first, last = int(marked[0]), int(marked[-1])
    even = {round(first + (last - first) * n / (most - 1)) for n in range(most)}
    nearest = min(even, key=lambda index: (abs(index - middle), index))
    order, rest = [middle], sorted(even - {nearest, middle})
    while rest:
        farthest = max(rest, key=lambda index: (min(abs(index - other) for other in order), -index))
        order.append(farthest)
        rest.remove(farthest)
    return order


def _check(image: NDArray[np.generic], truth: NDArray[np.generic] | None, found: NDArray[np.generic]) -> None:
    shapes = {found.shape, image.shape[:2], *([] if truth is None else [truth.shape])}
    if len(shapes) > 1 or found.ndim != 2 or image.shape[2:] not in ((), (3,)) or not found.size:
        masks = f"found {found.shape}" + ("" if truth is None else f", truth {truth.shape}")
        raise SpecError(
            f"overlay: image {image.shape}, {masks}; expected (H, W) or (H, W, 3), and (H, W) for the masks"
        )


def enlarged(mask: NDArray[np.generic], size: tuple[int, int]) -> NDArray[np.generic]:
    """(H, W) -> (height, width), nearest, pixels as little squares; any integer type."""
    width, height = size
    rows = ((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows][:, columns]


def _painted(
    grey: NDArray[np.uint8], truth: NDArray[np.generic], found: NDArray[np.generic], rim: int
) -> NDArray[np.uint8]:
    """Grey (H, W) with coloured outlines: (H, W, 3)."""
    canvas = np.repeat(grey[..., None].astype(np.float64) * 0.9, 3, axis=-1)
    classes = [int(value) for value in np.union1d(truth, found) if value > 0]
    for index in classes:
        true, hit = truth == index, found == index
        edge = _rim(true, rim) | _rim(hit, rim)
        alpha = np.where(edge, EDGE, INSIDE)[..., None]
        # a pixel found as another class is drawn for that class: it is too much of one, not only
        # too little of the other
        for colour, where in (
            (AGREE, true & hit),
            (MISSED, true & (found == 0)),
            (EXTRA, hit & ~true & (np.asarray(truth, dtype=np.int64) >= 0)),
        ):
            mixed = (1 - alpha) * canvas + alpha * _shade(colour, index)
            canvas[where] = mixed[where]
    return canvas.round().astype(np.uint8)


def _rim(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask within ``width`` of its outside; the border of the picture is no
    outside."""
    from scipy.ndimage import binary_erosion

    inside: NDArray[np.bool_] = binary_erosion(mask, np.ones((3, 3), dtype=bool), iterations=width, border_value=1)
    return mask & ~inside


def _shade(colour: str, index: int) -> NDArray[np.float64]:
    """The colour of the ``index``-th class: (3,) in [0, 255]."""
    plain = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float64)
    shade = SHADES[(index - 1) % len(SHADES)]
    return plain + shade * (255 - plain) if shade >= 0 else plain * (1 + shade)
