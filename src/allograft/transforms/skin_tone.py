"""Skin tone of a photograph of a lesion: individual typology angle of the lightest border patch, as
a Fitzpatrick type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import SpecError, nearest
from allograft.transforms.hair import as_colours, hair_of, remove_hair

Skin = Literal["patches", "ycbcr"]

SIZE, SIDE = 256, 20
"""Pixels a side of the image that the patches lie on, and of a patch."""

PATCHES = ((230, 115), (5, 115), (115, 5), (115, 230), (216, 216), (216, 20), (20, 20), (20, 216))
"""Upper-left (row, column) of each patch: the middles of the edges (bottom, top, left, right), then
the corners (bottom right, bottom left, top left, top right)."""

THRESHOLDS = {"default": (55.0, 41.0, 28.0, 19.0, 10.0), "kinyanjui": (55.0, 41.0, 28.0, 19.0, 10.0)}
"""Degrees between the types 1|2 to 5|6. "default": eq. 2 of the paper. "kinyanjui": those of
Kinyanjui et al. (2019, table 1), whose eight categories part at 55, 48, 41, 34.5, 28, 19 and 10.
Joining their two light and their two intermediate ones leaves eq. 2, so both names mean the same,
as in the code of Groh et al. (2021) and of the paper, which calls them Kinyanjui's."""

BARELY = 2.3
"""A difference of L that is just noticeable (Mahy et al. 1994): the middle of an image that is no
more darker than its border is as dark."""

COVERED = "the middle is no darker than the border: this may be a lesion over all borders, and no skin"
"""Noted beside the darkest type."""

GREY = 0.01
"""Below this b counts as 0: the conversion gives a grey pixel up to 0.005."""


@dataclass(frozen=True)
class SkinTone:
    """What an image says about the skin.

    Args:
        angle: individual typology angle in degrees, -90 to 90; larger is lighter. nan where no
            pixel was looked at.
        type: Fitzpatrick type 1 (lightest) to 6, or None = unknown.
        patch: index into ``PATCHES``; None when all skin pixels were used.
        note: why the type is unknown, or what casts doubt on it; "" otherwise.
    """

    angle: float
    type: int | None
    patch: int | None
    note: str = ""


def typology_angle(lightness: Any, b: Any) -> Any:
    """Individual typology angle ``ITA = arctan((L - 50) / b) * 180 / pi`` (Bevan and
    Atapour-Abarghouei 2022, eq. 1).

    The plain arctangent, as the paper and its code have it: a bluish colour (b < 0) has its sign
    turned, and b = 0 gives +-90, whatever the colour is. ``estimate_skin_tone`` calls such patches
    unknown.

    Args:
        lightness: L of CIELAB, 0 to 100; a number, array or tensor of any shape.
        b: b of CIELAB, of the same shape.

    Returns:
        Degrees, of the kind given. 0 where L = 50 whatever b, also 0.

    Example:
        >>> round(typology_angle(70.0, 20.0), 6), typology_angle(60.0, 0.0), typology_angle(50.0, 0.0)
        (45.0, 90.0, 0.0)
    """
    if isinstance(lightness, Tensor) or isinstance(b, Tensor):
        above, below = torch.broadcast_tensors(torch.as_tensor(lightness) - 50, torch.as_tensor(b))
        below = below.to(torch.promote_types(below.dtype, torch.float32))
        ratio = torch.where(
            above == 0, torch.zeros_like(below), above / torch.where(below == 0, below.abs(), below)
        )  # -0 is 0
        return torch.rad2deg(torch.atan(ratio))
    rise, run = np.asarray(lightness, dtype=np.float64) - 50, np.asarray(b, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        angle = np.degrees(np.arctan(np.where(rise == 0, 0.0, rise / np.where(run == 0, 0.0, run))))
    return angle if angle.ndim else float(angle)


def fitzpatrick_type(angle: Any, thresholds: Sequence[float] = THRESHOLDS["default"]) -> Any:
    """Fitzpatrick type 1 to 6 of an angle in degrees (eq. 2): 1 above 55, 2 above 41, 3 above 28, 4
    above 19, 5 above 10, else 6.

    Args:
        angle: a number, array or tensor.
        thresholds: the five limits, not rising; an angle equal to one has the darker type.

    Returns:
        An integer, or integers of the same shape.

    Raises:
        SpecError: thresholds that are not five, or rise; an angle that is nan.

    Example:
        >>> [fitzpatrick_type(angle) for angle in (60.0, 55.0, 20.0, -5.0)]
        [1, 2, 4, 6]
    """
    if len(thresholds) != 5 or any(high < low for high, low in pairwise(thresholds)):
        raise SpecError(f"thresholds are {tuple(thresholds)}; expected five angles in degrees, from light to dark")
    if torch.as_tensor(angle).isnan().any():
        raise SpecError("an angle is nan, so the skin has no type; leave such images out")
    darker = 1 + sum((angle <= limit) * 1 for limit in thresholds)
    return darker if isinstance(darker, (Tensor, np.ndarray)) else int(darker)


def estimate_skin_tone(
    rgb: Any, *, strict: bool = True, thresholds: str | Sequence[float] = "default", skin: Skin = "patches"
) -> SkinTone:
    """Estimate the skin tone of a photograph of a lesion (Bevan and Atapour-Abarghouei 2022,
    section 4.2).

    Hair is painted over, each of eight patches of 20 x 20 pixels at the border of the 256 x 256
    image has the angle of its mean L and mean b, and the lightest patch (largest angle) is taken
    for healthy skin: lesions, hair and shadow are darker. A dark lesion over all borders looks like
    skin of type 6. Its own middle is as dark, while a lesion on skin is darker than that skin, so
    with ``strict`` type 6 has a ``note`` where the middle is not noticeably darker than the median
    patch. The type stands: of dark skin and a lesion no darker the image says no more.

    Where we differ: an image of another size is brought to 256 x 256 first (the released code calls
    it class -1), and ``strict`` answers unknown where the lightest patch has b <= 0 (grey or
    bluish: no skin), where fewer than half of its pixels are valid (not painted over, not black,
    not burnt out), and where the image is smaller than a patch. The angle is the same either way.

    Args:
        rgb: (H, W, 3) uint8, an array or a tensor.
        strict: False always gives a type, as the released code does.
        thresholds: "default", "kinyanjui" (see ``THRESHOLDS``), or five angles in degrees.
        skin: "patches"; "ycbcr" takes the mean over all pixels of skin colour, 77 <= Cb <= 127 and
            133 <= Cr <= 173 (Chai and Ngan 1999), and is unknown where they are fewer than half a
            patch. The mask that the paper compares with, by Groh et al. (2021), is stricter: limits
            on RGB, Y > 80, Cb > 85, Cr > 135 and five lines in the plane of Cb and Cr.

    Raises:
        SpecError: not (H, W, 3) uint8 (a grey image, say), or an unknown argument.

    Example:
        >>> skin = np.full((300, 200, 3), (224, 172, 138), dtype=np.uint8)
        >>> estimate_skin_tone(skin).type, estimate_skin_tone(np.full_like(skin, 128)).type
        (2, None)
    """
    from skimage.color import rgb2lab

    limits = _limits(thresholds)
    image = resized(as_colours(rgb))
    clean = remove_hair(image)
    lab = rgb2lab(clean)[..., [0, 2]]
    valid = ~hair_of(image) & (image.max(-1) > 15) & (image.min(-1) < 250)
    small = min(rgb.shape[:2]) < SIDE
    if skin == "ycbcr":
        angle, note = _of_skin_pixels(clean, lab, valid, small)
        return _answer(angle, None, note, strict, limits)
    if skin != "patches":
        raise SpecError(nearest(skin, ("patches", "ycbcr"), "way to find the skin"))
    cuts = [(slice(row, row + SIDE), slice(column, column + SIDE)) for row, column in PATCHES]
    means = np.array([lab[cut].reshape(-1, 2).mean(0) for cut in cuts])
    angles = typology_angle(means[:, 0], means[:, 1])
    best = int(angles.argmax())
    note = _doubt(small, means[best, 1], valid[cuts[best]].mean())
    made = _answer(float(angles[best]), best, note, strict, limits)
    middle = lab[(SIZE - SIDE) // 2 :, (SIZE - SIDE) // 2 :][:SIDE, :SIDE, 0].mean()
    covered = strict and made.type == 6 and middle >= np.median(means[:, 0]) - BARELY
    return replace(made, note=COVERED) if covered else made


def calibrate_thresholds(angles: Sequence[float], types: Sequence[int]) -> tuple[float, ...]:
    """The five thresholds whose types differ least from human ones, by the sum of absolute
    differences.

    Exact, by dynamic programming over the angles in order; a threshold lies midway between the
    angles that it parts, and falls on its neighbour where no image has the type between. As Groh et
    al. found, such thresholds suit their own data set only.

    Args:
        angles: N angles in degrees.
        types: N Fitzpatrick types, 1 to 6.

    Raises:
        SpecError: no images, lengths that differ, or a type outside 1 to 6.

    Example:
        >>> calibrate_thresholds([70, 60, 20, -10], [1, 1, 2, 6])
        (40.0, 5.0, 5.0, 5.0, 5.0)
    """
    if not len(angles) or len(angles) != len(types) or not set(types) <= set(range(1, 7)):
        raise SpecError(
            f"{len(angles)} angles and {len(types)} types; expected as many of both, at least one, types 1 to 6"
        )
    levels = np.unique(np.asarray(angles, dtype=np.float64))[::-1]  # equal angles cannot be parted
    cost = np.zeros((len(levels), 6))
    for angle, human in zip(angles, types, strict=True):
        cost[np.flatnonzero(levels == angle)[0]] += np.abs(np.arange(1, 7) - human)
    best, came = cost.copy(), np.zeros((len(levels), 6), dtype=int)
    for i in range(1, len(levels)):
        for kind in range(6):
            came[i, kind] = int(best[i - 1, : kind + 1].argmin())
            best[i, kind] += best[i - 1, came[i, kind]]
    kinds = [int(best[-1].argmin())]
    for i in range(len(levels) - 1, 0, -1):
        kinds.insert(0, int(came[i, kinds[0]]))
    middles = [91.0, *((levels[1:] + levels[:-1]) / 2).tolist(), -91.0]
    return tuple(middles[sum(kind <= limit for kind in kinds)] for limit in range(5))


def resized(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The image on which the patches lie: (H, W, 3) uint8 -> (SIZE, SIZE, 3)."""
    import cv2

    if image.shape[:2] == (SIZE, SIZE):
        return image
    way = cv2.INTER_AREA if min(image.shape[:2]) >= SIZE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (SIZE, SIZE), interpolation=way))


def _of_skin_pixels(
    clean: NDArray[np.uint8], lab: NDArray[np.float64], valid: NDArray[np.bool_], small: bool
) -> tuple[float, str]:
    """Angle of the mean over the pixels of skin colour (all pixels, where there is none), and what
    casts doubt on it."""
    import cv2

    colours = cv2.cvtColor(clean, cv2.COLOR_RGB2YCrCb)
    red, blue = colours[..., 1], colours[..., 2]
    skin = valid & (red >= 133) & (red <= 173) & (blue >= 77) & (blue <= 127)
    light, yellow = lab[skin if skin.any() else np.ones_like(skin)].mean(0).tolist()
    doubt = _doubt(small, yellow, skin.sum() / SIDE**2) if skin.any() else "no pixel has the colour of skin"
    return float(typology_angle(light, yellow)), doubt


def _doubt(small: bool, b: float, valid: float) -> str:
    """Why an answer would be no answer; "" when it is one."""
    if small:
        return f"the image is smaller than a patch of {SIDE} x {SIDE} pixels"
    if b <= GREY:
        return "the lightest place is grey or bluish (b <= 0), so it is no skin"
    return "fewer than half of a patch's pixels are valid (not hair, black or burnt out)" if valid < 0.5 else ""


def _answer(angle: float, patch: int | None, note: str, strict: bool, limits: Sequence[float]) -> SkinTone:
    if strict and note:
        return SkinTone(angle, None, patch, note)
    return SkinTone(angle, fitzpatrick_type(angle, limits), patch)


def _limits(thresholds: str | Sequence[float]) -> Sequence[float]:
    if not isinstance(thresholds, str):
        return thresholds
    if thresholds not in THRESHOLDS:
        raise SpecError(nearest(thresholds, THRESHOLDS, "set of thresholds"))
    return THRESHOLDS[thresholds]
