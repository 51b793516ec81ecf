"""How near a made image comes to the true one: mean absolute error and structural similarity,
inside a region, in 2-D and 3-D."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from allograft.errors import SpecError

SIGMA, REACH = 1.5, 5
"""Standard deviation of the window in pixels, and how far it reaches: 11 pixels along each axis."""


def mean_absolute_error(made: Tensor, target: Tensor, region: Tensor | None = None) -> float:
    """Mean of ``|made - target|`` over channels and the pixels that count.

    Args:
        made: (C, *spatial) floating point.
        target: the same shape.
        region: (*spatial) bool, the pixels that count; None = all.

    Returns:
        In the unit of the images, >= 0; nan where no pixel counts.

    Raises:
        SpecError: shapes that differ.

    Example:
        >>> import torch
        >>> mean_absolute_error(torch.tensor([[1.0, 5.0]]), torch.tensor([[0.0, 0.0]]), torch.tensor([True, False]))
        1.0
    """
    _check(made, target, region)
    apart = (made.double() - target.double()).abs()
    chosen = apart if region is None else apart[:, region]
    return chosen.mean().item() if chosen.numel() else math.nan


def median_absolute_error(made: Tensor, target: Tensor, region: Tensor | None = None) -> tuple[float, float]:
    """The median of ``|made - target|`` over channels and the pixels that count, and the median
    absolute deviation from it; arguments and errors as of ``mean_absolute_error``.

    Of an even number of pixels the mean of the middle two.

    Example:
        >>> import torch
        >>> median_absolute_error(torch.tensor([[1.0, 5.0, 2.0]]), torch.zeros(1, 3))
        (2.0, 1.0)
    """
    _check(made, target, region)
    apart = (made.double() - target.double()).abs()
    chosen = apart.flatten() if region is None else apart[:, region].flatten()
    if not chosen.numel():
        return math.nan, math.nan
    values = chosen.cpu().numpy()  # torch.median takes the lower of the middle two
    median = float(np.median(values))
    return median, float(np.median(np.abs(values - median)))


def structural_similarity(
    made: Tensor, target: Tensor, *, data_range: float = 1.0, region: Tensor | None = None
) -> float:
    """Mean structural similarity (Wang et al. 2004, "Image quality assessment: from error
    visibility to structural similarity").

    With means mu, variances s^2 and covariance s_xy in a Gaussian window of standard deviation 1.5
    that is cut at 11 pixels, as eq. 13::

        SSIM = (2 mu_x mu_y + (0.01 L)^2) (2 s_xy + (0.03 L)^2)
               / ((mu_x^2 + mu_y^2 + (0.01 L)^2) (s_x^2 + s_y^2 + (0.03 L)^2))

    averaged over channels and over the places whose window lies inside the image. The image is not
    made smaller first. Of a volume the window is a cube. With a region, only windows whose centre
    lies in it count; they reach five pixels beyond.

    Args:
        made: (C, H, W) or (C, i, j, k), floating point.
        target: the same shape.
        data_range: L, the difference between the largest and the smallest possible value.
        region: (*spatial) bool, the pixels that count; None = all.

    Returns:
        Up to 1, which equal images have; nan where no window fits, in images of fewer than 11
        pixels along an axis say.

    Raises:
        SpecError: shapes that differ.

    Example:
        >>> import torch
        >>> image = torch.rand(1, 16, 16)
        >>> structural_similarity(image, image)
        1.0
    """
    from skimage.metrics import structural_similarity as ssim_of

    _check(made, target, region)
    if min(target.shape[1:]) <= 2 * REACH:
        return math.nan
    options = {
        "gaussian_weights": True,
        "sigma": SIGMA,
        "use_sample_covariance": False,
        "data_range": data_range,
        "full": True,
    }
    pairs = zip(made.double().cpu().numpy(), target.double().cpu().numpy(), strict=True)
    maps = np.stack([ssim_of(image, other, **options)[1] for image, other in pairs])
    inside = (slice(REACH, -REACH),) * (target.ndim - 1)
    kept = maps[(slice(None), *inside)]
    if region is not None:
        kept = kept[:, region.cpu().numpy()[inside]]
    return float(kept.mean()) if kept.size else math.nan


def _check(made: Tensor, target: Tensor, region: Tensor | None) -> None:
    if made.shape != target.shape or (region is not None and region.shape != target.shape[1:]):
        also = "" if region is None else f", the region {tuple(region.shape)}"
        raise SpecError(
            f"the made image has shape {tuple(made.shape)}, the true one {tuple(target.shape)}{also}; bring them to "
            "one grid"
        )
