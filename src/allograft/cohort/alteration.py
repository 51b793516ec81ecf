"""A known change of a case: its intensities squeezed, its anatomy scaled, turned and moved, image
and labels alike."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from allograft.seeds import Seeds


@dataclass(frozen=True)
class Alteration:
    """What is done to one case, on its own grid.

    Args:
        low, high: the range that intensities are squeezed into, as shares of the image's own.
        scale: factor along each axis; above 1 the anatomy grows.
        degrees: turns about each of three axes, of an image of two axes the first in its plane.
        mm: movement along each axis; pixels of a photograph.
    """

    low: float
    high: float
    scale: tuple[float, float, float]
    degrees: tuple[float, float, float]
    mm: tuple[float, float, float]

    @property
    def keyed(self) -> dict[str, object]:
        """As keys have it."""
        return asdict(self)

    def matrix(self, axes: int) -> np.ndarray:
        """(axes, axes) from a place relative to the centre, in mm, to where it goes."""
        x, y, z = (math.radians(angle) for angle in self.degrees)
        if axes == 2:
            return _turn(x) @ np.diag(self.scale[:2])
        turns = np.eye(3)
        for angle, (a, b) in zip((x, y, z), ((1, 2), (0, 2), (0, 1)), strict=True):
            plane = np.eye(3)
            plane[np.ix_((a, b), (a, b))] = _turn(angle)
            turns = turns @ plane
        return np.asarray(turns @ np.diag(self.scale))

    def moved(self, array: np.ndarray, spacing: Sequence[float], *, nearest: bool) -> np.ndarray:
        """(C, *spatial) scaled, turned and moved about the centre; what comes from outside is the
        smallest value of a channel, or 0 where labels are moved (``nearest``)."""
        from scipy.ndimage import affine_transform

        axes, step = array.ndim - 1, np.asarray(spacing, np.float64)
        back = np.linalg.inv(self.matrix(axes))
        centre = (np.asarray(array.shape[1:]) - 1) / 2
        inverse = back * step[None, :] / step[:, None]  # voxels to mm, back, and to voxels
        offset = centre - inverse @ (centre + np.asarray(self.mm[:axes]) / step)
        return np.stack([
            affine_transform(
                channel, inverse, offset, order=0 if nearest else 1, cval=0 if nearest else float(channel.min())
            )
            for channel in array
        ])  # fmt: skip

    def squeezed(self, array: np.ndarray) -> np.ndarray:
        """(C, *spatial) with each channel's range from ``low`` to ``high`` of what it was.

        >>> Alteration(0.1, 0.9, (1, 1, 1), (0, 0, 0), (0, 0, 0)).squeezed(np.array([[0.0, 5.0, 10.0]])).tolist()
        [[1.0, 5.0, 9.0]]
        """
        axes = tuple(range(1, array.ndim))
        least, most = array.min(axes, keepdims=True), array.max(axes, keepdims=True)
        changed = least + self.low * (most - least) + (self.high - self.low) * (array - least)
        return np.asarray(changed, array.dtype)


def _turn(angle: float) -> np.ndarray:
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


def drawn_alteration(
    name: str,
    strength: float,
    *,
    intensity: tuple[float, float],
    scale: tuple[float, float],
    degrees: float,
    mm: float,
) -> Alteration:
    """The alteration of a case: intensities as far as ``strength`` says, and place and size drawn
    uniformly up to it, by the case's name.

    Args:
        strength: 0 (as it was) to 1.
        intensity: the range at strength 1.
        scale: the smallest and the largest factor at strength 1.
        degrees, mm: the largest turn and movement at strength 1, either way.

    >>> drawn_alteration("a", 0.0, intensity=(0.1, 0.9), scale=(0.8, 1.2), degrees=15.0, mm=5.0).scale
    (1.0, 1.0, 1.0)
    """
    share = [
        number / 2**63 for number in (Seeds(0, ("altered", name)).number(number_of_draw) for number_of_draw in range(9))
    ]
    least, most = 1 + strength * (scale[0] - 1), 1 + strength * (scale[1] - 1)
    return Alteration(
        strength * intensity[0],
        1 - strength * (1 - intensity[1]),
        _three(least + (most - least) * part for part in share[:3]),
        _three(strength * degrees * (2 * part - 1) for part in share[3:6]),
        _three(strength * mm * (2 * part - 1) for part in share[6:]),
    )


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    a, b, c = values
    return a, b, c
