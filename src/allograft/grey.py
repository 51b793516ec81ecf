"""An image as a person looks at it: one upright plane, in 64 greys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError


def plane(image: NDArray[np.generic], index: int = 0) -> NDArray[np.generic]:
    """The picture to draw: (C, H, W) -> (H, W), or (H, W, 3) of three channels.

    Of (C, *spatial) volumes it is slice ``index``, turned upright: a volume's first axis points to
    the right of the picture and its second one up. Give a mask as ``mask[None]``.

    Raises:
        SpecError: an image of another number of axes.

    Example:
        >>> plane(np.zeros((1, 4, 6, 9)), 2).shape
        (6, 4)
    """
    if image.ndim == 4:
        image = np.rot90(image[..., index], axes=(1, 2))
    if image.ndim != 3:
        raise SpecError(f"an image of shape {image.shape} cannot be drawn; expected (C, H, W) or (C, D1, D2, D3)")
    return np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]


def window_of(values: NDArray[np.generic]) -> tuple[float, float]:
    """The 1st and 99th percentile of numbers of any shape.

    Where these are equal: the lowest and the highest number; where none is finite: (0, 0).
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, (1, 99))
    return (float(low), float(high)) if high > low else (float(finite.min()), float(finite.max()))


def grey_of(image: NDArray[np.generic], window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """(H, W[, 3]) of any range -> (H, W) uint8.

    ``window`` becomes black and white, by default the image's own percentiles.
    """
    values = np.asarray(image, dtype=np.float64)
    if values.ndim == 3:
        values = values @ np.array([0.299, 0.587, 0.114])
    low, high = window_of(values) if window is None else window
    levels = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low if high > low else 1.0)
    # 64 greys look the same and halve the file
    return (4 * (63 * levels.clip(0, 1)).round()).astype(np.uint8)
