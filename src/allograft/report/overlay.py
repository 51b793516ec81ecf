"""A prediction and the truth drawn over their image: one rendering for organs and for vessels two
pixels wide."""

from __future__ import annotations

import io
from collections.abc import Iterator
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
CLASSES = ("#4fb3f0", "#e8a317", "#2fd0a0", "#d98cc0", "#f2e55c", "#f0743e", "#9d8cff")
"""Colours of several classes, in turns; told apart by colour-blind readers too (Okabe and Ito's
palette, lightened for grey images)."""
STRIPE, LIGHTER = 3, 0.55
"""Of several classes: pixels of a stripe where a class is missed, and how much lighter its colour
is where it is found without truth."""


def draw_overlay(
    image: NDArray[np.generic],
    truth: NDArray[np.generic] | None,
    predicted: NDArray[np.generic],
    window: tuple[float, float] | None = None,
    *,
    classes: int = 1,
) -> bytes:
    """A PNG of an image with outlines: green where truth and prediction agree, blue where truth is
    missed, orange where too much is found.

    Outlines have a faint filling; a structure thinner than two outlines is coloured whole, so
    vessels stay visible. The image turns grey, because colours over colours mislead. Of several
    classes each has a colour of its own: outlined where both agree, striped where truth is missed,
    light and filled where too much is found.

    Args:
        image: (H, W) or (H, W, 3), any numbers; the 1st to 99th percentile become black to white.
        truth: (H, W) class indices, 0 = background, negative = does not count; None where there is
            none: all that is found is orange then, and of several classes outlined.
        found: (H, W) class indices.
        window: what becomes black and white instead, so that slices of one volume are alike: see
            ``window_of``.
        classes: how many there are in the task, without the background.

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

    _check(image, truth, predicted)
    scale, size = scaled(predicted.shape)
    grey = Image.fromarray(grey_of(image, window))
    blank = np.zeros_like(predicted) if classes < 2 else predicted  # with no truth, classes are outlined
    masks = [blank if truth is None else truth, predicted]
    if scale > 1:
        grey = grey.resize(size, Image.Resampling.BICUBIC)
        masks = [enlarged(mask, size) for mask in masks]
    rim = RIM if scale >= 1 else max(RIM, round(RIM / scale))
    paint = _painted if classes < 2 else _painted_by_class
    canvas = Image.fromarray(paint(np.asarray(grey), masks[0], masks[1], rim))
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

    They come in the order in which they are worth keeping: that with most of the largest lesion,
    then the ends, then ever finer halves.

    Example:
        >>> mask = np.zeros((2, 2, 9), dtype=int)
        >>> mask[0, 0, 2:7] = 1
        >>> slices_through(mask, 3), slices_through(mask, 9)
        ([2, 6, 4], [2, 6, 4, 3, 5])
    """
    marked = np.flatnonzero((mask > 0).reshape(-1, mask.shape[-1]).any(0))  # type: ignore[operator]
    middle = slice_of(mask, largest(mask))
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


def largest(mask: NDArray[np.generic]) -> NDArray[np.bool_]:
    """The largest connected part of what is marked, of any class: (*spatial) -> (*spatial).

    Example:
        >>> largest(np.array([1, 0, 2, 2, 0, 1])).astype(int).tolist()
        [0, 0, 1, 1, 0, 0]
    """
    from scipy.ndimage import label

    marked: NDArray[np.bool_] = mask > 0  # type: ignore[operator]
    parts, count = label(marked)
    if count < 2:
        return marked
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return np.asarray(parts == sizes.argmax())


def _check(image: NDArray[np.generic], truth: NDArray[np.generic] | None, predicted: NDArray[np.generic]) -> None:
    shapes = {predicted.shape, image.shape[:2], *([] if truth is None else [truth.shape])}
    if len(shapes) > 1 or predicted.ndim != 2 or image.shape[2:] not in ((), (3,)) or not predicted.size:
        masks = f"found {predicted.shape}" + ("" if truth is None else f", truth {truth.shape}")
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
    grey: NDArray[np.uint8], truth: NDArray[np.generic], predicted: NDArray[np.generic], rim: int
) -> NDArray[np.uint8]:
    """Grey (H, W) with what agrees, what is missed and what is too much in colours: (H, W, 3)."""
    canvas = np.repeat(grey[..., None].astype(np.float64) * 0.9, 3, axis=-1)
    for _, agree, missed, extra, edge in _parts(truth, predicted, rim):
        alpha = np.where(edge, EDGE, INSIDE)
        for colour, where in ((AGREE, agree), (MISSED, missed), (EXTRA, extra)):
            _mix(canvas, where, alpha, _rgb(colour))
    return canvas.round().astype(np.uint8)


def _painted_by_class(
    grey: NDArray[np.uint8], truth: NDArray[np.generic], predicted: NDArray[np.generic], rim: int
) -> NDArray[np.uint8]:
    """Grey (H, W) with each class in its colour: (H, W, 3)."""
    canvas = np.repeat(grey[..., None].astype(np.float64) * 0.9, 3, axis=-1)
    rows, columns = np.indices(grey.shape)
    striped = (rows + columns) // STRIPE % 2 == 0
    for index, agree, missed, extra, edge in _parts(truth, predicted, rim):
        colour = _rgb(class_colour(index))
        _mix(canvas, agree, np.where(edge, EDGE, INSIDE), colour)
        _mix(canvas, missed, np.where(striped, EDGE, 0.0), colour)
        _mix(canvas, extra, np.full(grey.shape, EDGE), colour + LIGHTER * (255 - colour))
    return canvas.round().astype(np.uint8)


Parts = tuple[int, NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]


def _parts(truth: NDArray[np.generic], predicted: NDArray[np.generic], rim: int) -> Iterator[Parts]:
    """Each class that is there: its index, where truth and prediction agree, what is missed, what
    is too much, and the outlines of both."""
    for index in (int(value) for value in np.union1d(truth, predicted) if value > 0):
        true, hit = truth == index, predicted == index
        edge = _rim(true, rim) | _rim(hit, rim)
        # a pixel found as another class is drawn for that class: it is too much of one, not only
        # too little of the other
        yield index, true & hit, true & (predicted == 0), hit & ~true & (np.asarray(truth, dtype=np.int64) >= 0), edge


def _mix(
    canvas: NDArray[np.float64], where: NDArray[np.bool_], alpha: NDArray[np.float64], colour: NDArray[np.float64]
) -> None:
    """Lay a colour over some pixels of (H, W, 3)."""
    canvas[where] = (1 - alpha[where, None]) * canvas[where] + alpha[where, None] * colour


def _rim(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask within ``width`` of its outside; the border of the picture is no
    outside."""
    from scipy.ndimage import binary_erosion

    inside: NDArray[np.bool_] = binary_erosion(mask, np.ones((3, 3), dtype=bool), iterations=width, border_value=1)
    return mask & ~inside


def class_colour(index: int) -> str:
    """The colour of the ``index``-th class, counted from 1."""
    return CLASSES[(index - 1) % len(CLASSES)]


def _rgb(colour: str) -> NDArray[np.float64]:
    """(3,) in [0, 255]."""
    return np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)], dtype=np.float64)
