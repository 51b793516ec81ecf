"""Structural similarity that gradients pass through, in 2-D and 3-D: a loss of restorations, and
its multi-scale form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError

SIGMA = 1.5
"""Standard deviation of the Gaussian window in pixels."""
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales of MS-SSIM, finest first."""


@dataclass(frozen=True)
class Ssim:
    """The settings of structural similarity.

    Args:
        window: pixels of the Gaussian window along each axis, an odd number.
        k1, k2: what keeps the quotients stable: C1 = (k1 L)^2, C2 = (k2 L)^2 with L the range of
            the image.
    """

    window: int = 11
    k1: float = 0.01
    k2: float = 0.03

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise SpecError(f"ssim: window is {self.window}; expected an odd number of pixels, from 3 on")
        for name in ("k1", "k2"):
            if not 0 < getattr(self, name) < math.inf:
                raise SpecError(f"ssim: {name} is {getattr(self, name)}; expected a number above 0")


def ssim(x: Tensor, y: Tensor, data_range: Tensor, settings: Ssim | None = None) -> Tensor:
    """Mean structural similarity of each image (Wang et al. 2004, eq. 13).

    With means mu, variances s^2 and covariance s_xy in a Gaussian window::

        SSIM = (2 mu_x mu_y + C1) (2 s_xy + C2) / ((mu_x^2 + mu_y^2 + C1) (s_x^2 + s_y^2 + C2))

    averaged over channels and the places where the window lies inside the image. 1 - SSIM is the
    loss of restorations of Mamalakis et al. 2024, eq. 1, which call it SSIM and name no window.

    Args:
        x: (B, C, *spatial), floating point. The first quotient is meant for values from 0 on: near
            a mean of 0, as z-scores have it, a small offset costs as much as a large one elsewhere.
        y: the same shape.
        data_range: (B,), the difference between the largest and the smallest value of each image.
        settings: window and constants.

    Returns:
        (B,), up to 1, which equal images have.

    Raises:
        SpecError: shapes that differ, an image smaller than the window, or one of constant value,
            whose range is 0.

    Example:
        >>> images = torch.rand(2, 1, 16, 16)
        >>> ssim(images, images, torch.ones(2)).round(decimals=4)
        tensor([1., 1.])
    """
    luminance, contrast = _maps(x, y, data_range, settings or Ssim())
    return (luminance * contrast).flatten(1).mean(1)


def multi_scale_ssim(x: Tensor, y: Tensor, data_range: Tensor, settings: Ssim | None = None) -> tuple[Tensor, int]:
    """Multi-scale structural similarity (Wang et al. 2003), over as many scales as fit.

    Each scale halves the image by averages of 2 x 2 (x 2) pixels. Where the window fits fewer than
    five, the exponents of those that fit are divided by their sum. Contrast below 0 counts as 0.

    Args:
        x, y, data_range, settings: as of ``ssim``.

    Returns:
        (B,), and the number of scales.

    Raises:
        SpecError: as ``ssim``.

    Example:
        >>> images = torch.rand(2, 1, 24, 24)
        >>> alike, scales = multi_scale_ssim(images, images, torch.ones(2))
        >>> alike.round(decimals=4), scales
        (tensor([1., 1.]), 2)
    """
    settings = settings or Ssim()
    count = scales_that_fit(min(x.shape[2:]), settings.window)
    product, total = torch.ones_like(data_range), sum(SCALES[: max(count, 1)])
    pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
    for scale, exponent in enumerate(SCALES[: max(count, 1)]):
        if scale:
            x, y = pool(x, 2), pool(y, 2)
        luminance, contrast = _maps(x, y, data_range, settings)
        each = contrast * luminance if scale == max(count, 1) - 1 else contrast
        product = product * each.flatten(1).mean(1).clamp_min(0) ** (exponent / total)
    return product, count


def scales_that_fit(size: int, window: int) -> int:
    """How many scales of MS-SSIM an image has whose shortest side has so many pixels.

    >>> [scales_that_fit(size, 11) for size in (10, 11, 32, 64, 176, 999)]
    [0, 1, 2, 3, 5, 5]
    """
    return sum(size // 2**scale >= window for scale in range(len(SCALES)))


def _maps(x: Tensor, y: Tensor, data_range: Tensor, settings: Ssim) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure at each place, (B, C, *spatial)."""
    _check(x, y, data_range, settings.window)
    scale = data_range.reshape(-1, *(1,) * (x.ndim - 1)).to(x.dtype)
    c1, c2 = (settings.k1 * scale) ** 2, (settings.k2 * scale) ** 2
    mean_x, mean_y, xx, yy, xy = _blurred(torch.stack([x, y, x * x, y * y, x * y]), settings.window)
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * (xy - mean_x * mean_y) + c2) / (xx - mean_x**2 + yy - mean_y**2 + c2)
    return luminance, contrast


def _blurred(maps: Tensor, window: int) -> Tensor:
    """(N, B, C, *spatial) under the Gaussian window, one axis after another, where it lies
    inside."""
    dims = maps.ndim - 3
    offsets = torch.arange(window, dtype=maps.dtype, device=maps.device) - (window - 1) / 2
    weights = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    weights = weights / weights.sum()
    flat = maps.flatten(0, 2)[:, None]
    convolve = F.conv2d if dims == 2 else F.conv3d
    for axis in range(dims):
        flat = convolve(flat, weights.reshape(1, 1, *(window if axis == each else 1 for each in range(dims))))
    return flat.reshape(*maps.shape[:3], *flat.shape[2:])


def _check(x: Tensor, y: Tensor, data_range: Tensor, window: int) -> None:
    if x.shape != y.shape or x.ndim not in (4, 5) or data_range.shape != x.shape[:1]:
        raise SpecError(
            f"ssim: x has shape {tuple(x.shape)}, y {tuple(y.shape)}, data_range {tuple(data_range.shape)}; expected "
            "(B, C, *spatial) twice in 2-D or 3-D, and (B,)"
        )
    if min(x.shape[2:]) < window:
        raise SpecError(
            f"ssim: an image of {'x'.join(map(str, x.shape[2:]))} is smaller than the window of {window} pixels; give "
            "it a larger patch or size, or a smaller window"
        )
    if not bool((data_range > 0).all()):
        raise SpecError("ssim: an image has one value throughout, so its range is 0; leave it out")
