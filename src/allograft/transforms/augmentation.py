"""Random changes of an image and its label maps: drawn in one place, applied by a pure function, in
2-D and 3-D."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from allograft.errors import SpecError, nearest
from allograft.transforms.resampling import crop, ignored, resample


class Range(NamedTuple):
    """With this probability a value is drawn uniformly from [low, high]; otherwise nothing is
    changed."""

    probability: float
    low: float
    high: float


RANGES: Mapping[str, Mapping[str, Range]] = {
    # name:               probability, low, high
    "none": {},
    "light": {
        "angle_2d": Range(0.5, -15, 15),
        "angle_3d": Range(0.5, -15, 15),
        "scale": Range(0.5, 0.9, 1.1),
        "noise_sd": Range(0.2, 0, 0.05),
        "brightness": Range(0.5, -0.1, 0.1),
        "contrast": Range(0.5, 0.9, 1.1),
    },
    "strong": {
        "angle_2d": Range(0.5, -180, 180),
        "angle_3d": Range(0.5, -30, 30),
        "scale": Range(0.5, 0.7, 1.4),
        "noise_sd": Range(0.15, 0, 0.3),
        "blur_sigma": Range(0.2, 0.5, 1.0),
        "brightness": Range(0.3, -0.3, 0.3),
        "contrast": Range(0.3, 0.75, 1.25),
        "gamma": Range(0.3, 0.7, 1.5),
        "zoom": Range(0.2, 0.5, 1.0),
        "flip": Range(0.5, 1, 1),  # for each axis
    },
}
"""What each strength draws. "strong" follows nnU-Net (Isensee et al. 2021, supplement), with
rotation and scaling more often; scale is drawn uniformly in its logarithm, so that growing is as
likely as shrinking."""

_ORDER = ("scale", "noise_sd", "blur_sigma", "brightness", "contrast", "gamma", "zoom")
_PLANES = {2: ((0, 1),), 3: ((1, 2), (0, 2), (0, 1))}


@dataclass(frozen=True, slots=True)
class Draw:
    """The parameters of one augmentation; the defaults change nothing.

    Args:
        angles: degrees. 2-D: one angle, turning like ``torch.rot90``. 3-D: one for each of the axes
            0, 1, 2, applied in that order, each turning the plane of the two other axes like
            ``torch.rot90`` with those dims. () = no rotation.
        log_scale: natural logarithm of the magnification; positive = things look larger.
        flips: one bool for each spatial axis, True = mirrored. () = no mirroring.
        noise_sd: standard deviation of Gaussian noise, in units of the channel's standard
            deviation.
        blur_sigma: standard deviation of a Gaussian blur in voxels.
        brightness: added, in units of the channel's standard deviation.
        contrast: factor on the deviation from the channel's mean.
        gamma: exponent on the intensities mapped to [0, 1]; the channel's minimum and maximum stay.
        zoom: 0.5 = seen at half the resolution, and brought back to the same size.

    Example:
        >>> Draw() == draw("none", 2, torch.Generator())
        True
    """

    angles: tuple[float, ...] = ()
    log_scale: float = 0.0
    flips: tuple[bool, ...] = ()
    noise_sd: float = 0.0
    blur_sigma: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    gamma: float = 1.0
    zoom: float = 1.0


def draw(strength: str, dims: int, rng: torch.Generator) -> Draw:
    """Draw the parameters of one augmentation from ``RANGES``.

    Args:
        strength: "none", "light" or "strong".
        dims: number of spatial dimensions, 2 or 3.
        rng: a generator on the CPU; it advances by the same amount whatever the strength and the
            outcome.

    Raises:
        SpecError: unknown strength, or dims other than 2 and 3.

    Example:
        >>> draw("light", 3, torch.Generator().manual_seed(0)).flips
        (False, False, False)
    """
    if strength not in RANGES:
        raise SpecError(nearest(strength, RANGES, "augmentation"))
    if dims not in _PLANES:
        raise SpecError(f"augmentation works on 2 or 3 spatial dimensions, got {dims}")
    ranges, off = RANGES[strength], Range(0, 0, 0)
    # One gate for all angles, one for each of the others and for each flip; every number is drawn
    # whether it is used or not.
    gates, values = torch.rand(2, len(_ORDER) + 6, generator=rng, dtype=torch.float64).tolist()
    if strength == "none":
        return Draw()
    angle, flip = ranges[f"angle_{dims}d"], ranges.get("flip", off)
    turned, count = gates[0] < angle.probability, len(_PLANES[dims])
    angles = tuple(angle.low + (angle.high - angle.low) * value if turned else 0.0 for value in values[:count])
    flips = tuple(gate < flip.probability for gate in gates[3 : 3 + dims])
    drawn: dict[str, float] = {}
    for name, gate, value in zip(_ORDER, gates[6:], values[6:], strict=False):
        chosen = ranges.get(name, off)
        if gate < chosen.probability:
            low, high = (math.log(chosen.low), math.log(chosen.high)) if name == "scale" else (chosen.low, chosen.high)
            drawn["log_scale" if name == "scale" else name] = low + (high - low) * value
    return Draw(angles, flips=flips, **drawn)


def apply(
    image: Tensor,
    labels: Mapping[str, Tensor],
    draw: Draw,
    rng: torch.Generator,
    *,
    size: tuple[int, ...] | None = None,
    centre: tuple[float, ...] | None = None,
    spacing: Sequence[float] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Turn, scale, mirror and crop image and label maps together in one resampling, then change the
    image's intensities.

    Resampling is bilinear for the image and for floating-point labels, nearest for the others,
    whose values are therefore never invented. Without rotation and scaling the crop copies voxels
    and nothing is interpolated. Outside the input, label maps say "not labelled": -100 for
    integers, nan for floating point, False for booleans; the image repeats its border when
    resampled and is 0 when only cropped. Intensities change after the crop, and their units are the
    crop's own mean, deviation and range for each channel.

    Args:
        image: (C, *spatial) float, spatial in 2-D or 3-D.
        labels: name -> (K, *spatial), integer, boolean or floating point; labels that are no maps
            stay with the caller.
        draw: the parameters.
        rng: for the noise field; used only when ``draw.noise_sd`` is not 0.
        size: spatial size of the result; None = the input's.
        centre: where the crop's centre lies in the input, in voxels (0 = centre of the first
            voxel); the crop starts at the nearest whole voxel, of two equally near ones at the
            first. None = the input's centre.
        spacing: voxel size per axis, in any unit; with it a rotation of anisotropic voxels is
            rigid. None = cubes.

    Returns:
        (C, *size) of the image's dtype, and the labels (K, *size) of their own dtypes. The inputs
        are left as they are.

    Raises:
        SpecError: shapes, size, centre, spacing or the draw do not fit the image.

    Example:
        >>> image, labels = apply(torch.eye(4)[None], {"mask": torch.eye(4)[None].long()}, Draw(),
        ...     torch.Generator(), size=(2, 2))
        >>> image.tolist() == labels["mask"].tolist()
        True
    """
    shape = image.shape[1:]
    size = tuple(shape) if size is None else tuple(size)
    _check(image, labels, draw, size=size, centre=centre, spacing=spacing)
    start = crop_start(shape, size, centre)
    if any(draw.angles) or draw.log_scale:
        theta = affine(draw, shape, size, start, spacing)
        image, moved = resample(image, labels, theta, size)
    else:
        axes = [axis - len(shape) for axis, flipped in enumerate(draw.flips) if flipped]
        moved = {name: crop(label, start, size, ignored(label)).flip(axes) for name, label in labels.items()}
        image = crop(image, start, size, 0.0).flip(axes)  # flip copies, even along no axis
    return _change_intensity(image, draw, rng), moved


def crop_start(shape: Sequence[int], size: Sequence[int], centre: Sequence[float] | None) -> list[int]:
    """The first voxel of a crop of ``size`` about ``centre``, by default the image's own; see
    ``apply``."""
    middle = centre or tuple((n - 1) / 2 for n in shape)
    return [math.ceil(c - (n - 1) / 2 - 0.5) for c, n in zip(middle, size, strict=True)]


def affine(
    draw: Draw, shape: Sequence[int], size: Sequence[int], start: Sequence[int], spacing: Sequence[float] | None
) -> Tensor:
    """``theta`` of ``affine_grid``: from places in the crop to places in the input, both in [-1, 1]
    with x first."""
    dims = len(shape)
    voxel = torch.tensor(spacing or [1.0] * dims, dtype=torch.float64)
    turn = torch.eye(dims, dtype=torch.float64)
    for angle, (first, second) in zip(draw.angles, _PLANES[dims], strict=False):
        cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        plane = torch.eye(dims, dtype=torch.float64)
        plane[first, first] = plane[second, second] = cosine
        plane[first, second], plane[second, first] = sine, -sine
        # output to input: the first rotation of the image is the last one of the places
        turn = turn @ plane
    signs = torch.tensor([-1.0 if flipped else 1.0 for flipped in draw.flips] or [1.0] * dims, dtype=torch.float64)
    # mm of the crop -> mm of the input, mirrored first because mirroring comes last for the image
    matrix = turn / voxel[:, None] * (voxel * signs)[None, :] * math.exp(-draw.log_scale)
    given, wanted = torch.tensor(shape, dtype=torch.float64), torch.tensor(size, dtype=torch.float64)
    linear = matrix * wanted[None, :] / given[:, None]
    shift = (2 * torch.tensor(start, dtype=torch.float64) + wanted) / given - 1
    return torch.cat([linear.flip(0, 1), shift.flip(0)[:, None]], dim=1)


def _change_intensity(image: Tensor, draw: Draw, rng: torch.Generator) -> Tensor:
    axes = tuple(range(1, image.ndim))
    if draw.noise_sd:
        noise = torch.randn(image.shape, generator=rng, device=rng.device, dtype=image.dtype).to(image.device)
        image = image + noise * (draw.noise_sd * image.std(dim=axes, keepdim=True, correction=0))
    if draw.blur_sigma:
        image = blur(image, draw.blur_sigma)
    if draw.brightness or draw.contrast != 1:
        deviation, mean = torch.std_mean(image, dim=axes, keepdim=True, correction=0)
        image = (image - mean) * draw.contrast + mean + draw.brightness * deviation
    if draw.zoom != 1:
        image = _see_coarsely(image, draw.zoom)
    if draw.gamma != 1:
        image = gamma_corrected(image, draw.gamma)
    return image


def gamma_corrected(image: Tensor, gamma: float) -> Tensor:
    """``gamma`` as the exponent on each channel mapped to [0, 1]; its minimum and maximum stay: (C,
    *spatial).

    >>> gamma_corrected(torch.tensor([[0.0, 1.0, 2.0]]), 2.0)
    tensor([[0.0000, 0.5000, 2.0000]])
    """
    axes = tuple(range(1, image.ndim))
    low, high = image.amin(dim=axes, keepdim=True), image.amax(dim=axes, keepdim=True)
    width = (high - low).clamp_min(torch.finfo(image.dtype).tiny)  # a flat channel stays flat
    return ((image - low) / width) ** gamma * (high - low) + low


def blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian smoothing of ``sigma`` pixels along each axis, cut at 3 sigma, the border repeated:
    (C, *spatial)."""
    radius = math.ceil(3 * sigma)
    places = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    for axis in range(1, image.ndim):  # separable: one axis after another
        lines = image.movedim(axis, -1)
        padded = F.pad(lines.reshape(-1, 1, lines.shape[-1]), (radius, radius), mode="replicate")
        image = F.conv1d(padded, kernel[None, None]).reshape(lines.shape).movedim(-1, axis)
    return image


def _see_coarsely(image: Tensor, zoom: float) -> Tensor:
    mode = "bilinear" if image.ndim == 3 else "trilinear"
    coarse = [max(1, round(n * zoom)) for n in image.shape[1:]]
    small = F.interpolate(image[None], coarse, mode="nearest-exact")
    return F.interpolate(small, list(image.shape[1:]), mode=mode, align_corners=False)[0]


def _check(image: Tensor, labels: Mapping[str, Tensor], draw: Draw, **axes: Sequence[float] | None) -> None:
    dims = image.ndim - 1
    if dims not in _PLANES or not image.is_floating_point():
        raise SpecError(
            f"image is {image.dtype} of shape {tuple(image.shape)}, expected (C, H, W) or (C, D, H, W) floating point"
        )
    for name, label in labels.items():
        if label.ndim != image.ndim or label.shape[1:] != image.shape[1:]:
            raise SpecError(
                f"label '{name}' has shape {tuple(label.shape)}, but image {tuple(image.shape)}; spatial sizes must "
                "agree"
            )
    axes |= {"angles": draw.angles or None, "flips": draw.flips or None}
    for name, values in axes.items():
        count = len(_PLANES[dims]) if name == "angles" else dims
        if values is not None and len(values) != count:
            raise SpecError(
                f"{name} is {tuple(values)}, expected {count} of them for an image of {dims} spatial dimensions"
            )
        if values is not None and name in ("size", "spacing") and min(values) <= 0:
            raise SpecError(f"{name} is {tuple(values)}, expected positive numbers")
