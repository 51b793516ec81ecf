"""What is done to an image before a network sees it: channels, window, intensity."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from allograft.errors import ImageError, SpecError, nearest

Intensity = Literal["none", "unit", "zscore", "minmax", "percentile", "percentile99"]
Fit = Literal["stretch", "crop"]


@dataclass(frozen=True)
class Mirror:
    """Which images are mirrored before a network sees them, with all that lies on them: right
    knees, so that all look like left ones. Predictions are mirrored back.

    Args:
        attribute: a column of the manifest; an image whose cell is empty is refused.
        value: the cell of the images that are mirrored.
        axis: of the study's grid; 1 of a photograph swaps its left and its right.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    attribute: str
    value: str
    axis: int = 1


@dataclass(frozen=True)
class Preprocessing:
    """What is done to every image before a network sees it.

    Args:
        orientation: three letters such as RAS (the axes point to the right, anterior and superior);
            null = as stored. Photographs ignore it.
        spacing: mm along each axis after orientation; needs images with a voxel size.
            Example: ``spacing: [1, 1, 1]``.
        size: pixels along each axis. Without ``spacing`` the image is resized to it; with
            ``spacing`` it is cut or padded to it around the centre. Example: ``size: [384, 384]``.
        intensity: how intensities are scaled: see ``normalise``.
        channels: 3 repeats a grey image, 1 takes the mean of a colour image's channels; null = as
            stored. For cohorts that share a network.
        nan: the value that NaN pixels get; null = images with NaN are refused.
        window: the lowest and the highest value, such as [-150, 250] HU, to which an image is
            clipped before ``intensity``.
        fit: how an image without ``spacing`` becomes ``size``: ``stretch``, whatever its shape, or
            ``crop``, which keeps its proportions, covers the size and cuts it around the centre.
        mirror: which images are mirrored: see ``Mirror``.

    >>> Preprocessing(size=(384, 384)).intensity
    'zscore'
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    orientation: str | None = "RAS"
    spacing: tuple[float, ...] | None = None
    size: tuple[int, ...] | None = None
    intensity: Intensity = "zscore"
    channels: int | None = None
    nan: float | None = None
    window: tuple[float, float] | None = None
    fit: Fit = "stretch"
    mirror: Mirror | None = None

    def __post_init__(self) -> None:
        if self.window is not None and not -math.inf < self.window[0] < self.window[1] < math.inf:
            raise SpecError(
                f"preprocessing.window: found {list(self.window)}, expected the lowest value to keep and a higher one, "
                "for example [-150, 250]"
            )
        if self.nan is not None and not math.isfinite(self.nan):
            raise SpecError(
                f"preprocessing.nan: found {self.nan}, expected a finite number such as 0, the value of the background"
            )
        if self.fit not in get_args(Fit):
            raise SpecError(f"preprocessing.fit: {nearest(self.fit, get_args(Fit), 'way to fit')}")
        if self.fit == "crop" and (self.size is None or self.spacing is not None):
            raise SpecError("preprocessing.fit: crop cuts to a size, and spacing cuts already; give size alone")

    @property
    def keyed(self) -> dict[str, Any]:
        """As keys have it: a field that was added later counts only where it is set, so that
        earlier keys stay."""
        later = {f.name: f.default for f in fields(self)[4:]}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}


def with_channels(image: np.ndarray, wanted: int | None, name: str) -> np.ndarray:
    """(C, *spatial) -> (wanted, *spatial): grey repeated, or the mean of all channels; as it is
    where ``wanted`` is None.

    >>> with_channels(np.array([[1.0], [2.0], [6.0]]), 1, "a").tolist(), with_channels(np.ones((1, 2)), 3, "a").shape
    ([[3.0]], (3, 2))
    """
    if wanted is None or len(image) == wanted:
        return image
    if len(image) == 1:
        return np.repeat(image, wanted, axis=0)
    if wanted == 1:
        return image.mean(axis=0, keepdims=True, dtype=np.float64)
    raise ImageError(
        f"{name}: has {len(image)} channels, preprocessing asks for {wanted}; only 1 becomes many, or many 1: convert "
        "the image"
    )


def windowed(array: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Values clipped to a window, float32; as they are without one.

    >>> windowed(np.array([-1000, 40, 900], np.int16), (-150, 250)).tolist()
    [-150.0, 40.0, 250.0]
    """
    return array if window is None else np.clip(array.astype(np.float32), *window)


def normalise(array: np.ndarray, intensity: Intensity) -> np.ndarray:
    """Scale the intensities of (C, *spatial), each channel by itself; float32.

    ``zscore``: mean 0 and standard deviation 1. ``minmax``: to [0, 1]. ``percentile``: clipped to
    the 1st and 99th percentile, then to [0, 1]; where these are equal but the channel is not
    constant (sparse fluorescence), as ``minmax``. ``percentile99``: the smallest value to 0 and the
    99th percentile to 0.99, what lies above it beyond that (Chen and Niethammer 2023). ``unit``:
    whole numbers as shares of the largest that their type holds (8 bits: of 255), so that a colour
    stays the same colour. ``none``: as it is. A constant channel becomes zeros, but for the last
    two. Before ``to_grid`` the numbers are those of the whole image, free of padding. Raises
    ``SpecError`` for another word.

    >>> normalise(np.array([[[0.0, 5.0, 10.0]]]), "minmax").tolist()
    [[[0.0, 0.5, 1.0]]]
    """
    if intensity not in get_args(Intensity):
        raise SpecError(nearest(intensity, get_args(Intensity), "intensity"))
    if intensity == "none" or (
        intensity == "unit" and array.dtype.kind == "f" and array.min() >= 0 and array.max() <= 1
    ):
        return np.asarray(array, np.float32)
    if intensity == "unit":
        if array.dtype.kind == "f" or array.min() < 0:
            found = f"{array.dtype} from {array.min():g} to {array.max():g}"
            raise SpecError(
                f"preprocessing.intensity: unit takes whole numbers from 0, or shares from 0 to 1; found {found}; "
                "choose zscore"
            )
        return np.asarray(array / np.iinfo(array.dtype).max, np.float32)
    result = np.zeros(array.shape, np.float32)
    for channel, stored in zip(result, array, strict=True):
        low, high = float(stored.min()), float(stored.max())
        if low == high:
            continue
        # single precision would square large intensities to infinity
        values = stored.astype(np.float64)
        if intensity == "zscore":
            values -= values.mean()
            channel[:] = values / values.std()
            continue
        if intensity == "percentile99":
            bright = float(np.percentile(values, 99))
            channel[:] = 0.99 * (values - low) / ((bright if bright > low else high) - low)
            continue
        if intensity == "percentile":
            first, last = np.percentile(values, (1, 99))
            low, high = (float(first), float(last)) if first < last else (low, high)
        channel[:] = np.clip((values - low) / (high - low), 0, 1)
    return result
