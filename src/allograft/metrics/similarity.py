"""Image similarity by spectral residual (SR-SIM): two images, or one image against many whose maps
are kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError

SCALE = 0.25
"""The size at which saliency is found, as a fraction of the image's."""
BLUR, SIGMA = 10, 3.8
"""Width and deviation in pixels of the Gaussian over the saliency map."""
SMALLEST = math.ceil(BLUR / SCALE)
"""Pixels that an image must have on each side."""
SALIENCY_CONSTANT, GRADIENT_CONSTANT = 0.40, 225.0
TIE = 1e-6
"""Scores that differ by less count as equal."""


def srsim(x: Tensor, y: Tensor, data_range: float = 1.0) -> Tensor:
    """Spectral residual similarity of pairs of grey images, 1 for equal ones.

    Zhang and Li 2012, "SR-SIM: a fast and high performance IQA index based on spectral residual".
    With R the saliency map, G the
    gradient's magnitude (Scharr), and images scaled to 0..255::

        S(a, b; C) = (2 a b + C) / (a^2 + b^2 + C)                                 C_R = 0.40, C_G = 225
        srsim = sum S(R_x, R_y; C_R) sqrt(S(G_x, G_y; C_G)) max(R_x, R_y) / sum max(R_x, R_y)

    R is |F^-1(exp(log|F| - mean_3x3 log|F| + i phase))|^2 of the image at a quarter of its size,
    blurred by a Gaussian of 10 pixels and deviation 3.8, brought to 0..1 and enlarged again. Images
    whose short side is 384 pixels or more are averaged first over blocks of round(side / 256).
    Settings and borders are those of piq. Each image's map is brought to 0..1 by itself, so a batch
    is a loop of pairs; piq takes the extremes of the whole batch.

    Args:
        x: (B, 1, H, W) float, from 0 to ``data_range``; H and W at least 40.
        y: the same shape.
        data_range: the value of white.

    Returns:
        (B,), of the images' dtype, at least float32.

    Raises:
        SpecError: shapes or types other than these, or images too small.

    Example:
        >>> images = torch.rand(2, 1, 48, 48)
        >>> bool(torch.allclose(srsim(images, images), torch.ones(2), atol=1e-4))
        True
    """
    if x.shape != y.shape:
        raise SpecError(f"x has shape {tuple(x.shape)} but y {tuple(y.shape)}; bring them to one size")
    (rx, gx), (ry, gy) = similarity_maps(x, data_range), similarity_maps(y, data_range)
    weight = torch.maximum(rx, ry)
    alike = _alike(rx, ry, SALIENCY_CONSTANT) * _alike(gx, gy, GRADIENT_CONSTANT).sqrt()
    return (alike * weight).sum((-2, -1)) / (weight.sum((-2, -1)) + torch.finfo(rx.dtype).eps)


@dataclass(frozen=True)
class SrsimReference:
    """Images to compare others with again and again: their maps are computed once.

    Args:
        maps: (N, 2, H W) float32: saliency and gradient magnitude, each divided by the root of its
            constant.
        size: (H, W) of the maps.
        data_range: the value of white.

    Example:
        >>> donors = torch.rand(5, 1, 48, 48)
        >>> SrsimReference.of(donors).ranked(donors[3:4])[0].item()
        3
    """

    maps: Tensor
    size: tuple[int, int]
    data_range: float = 1.0

    @classmethod
    def of(cls, images: Tensor | Iterable[Tensor], data_range: float = 1.0) -> SrsimReference:
        """The maps of (N, 1, H, W) images, or of such batches one after another; kept in float32,
        computed in float64."""
        batches = images.split(16) if isinstance(images, Tensor) else images
        kept, size = [], (0, 0)
        for batch in batches:
            saliency, gradient = similarity_maps(batch.double(), data_range)
            size = (saliency.shape[1], saliency.shape[2])
            scaled = saliency / math.sqrt(SALIENCY_CONSTANT), gradient / math.sqrt(GRADIENT_CONSTANT)
            kept.append(torch.stack(scaled, dim=1).float().flatten(2))
        return cls(torch.cat(kept), size, data_range)

    def __len__(self) -> int:
        return len(self.maps)

    def scores(self, image: Tensor, among: Tensor | None = None) -> Tensor:
        """``srsim`` of one image with each, or with those of ``among``: (1, 1, H, W) -> (N,)
        float32.

        One reference at a time, which stays in the cache.
        """
        if image.ndim != 4 or len(image) != 1:
            raise SpecError(f"image has shape {tuple(image.shape)}, expected one image, (1, 1, H, W)")
        r, g = (each[0].float() for each in similarity_maps(image.double(), self.data_range))
        if r.shape != self.size:
            raise SpecError(f"the image's map is {tuple(r.shape)}, the references' {self.size}; crop to one size")
        own = torch.stack([r.reshape(-1) / math.sqrt(SALIENCY_CONSTANT), g.reshape(-1) / math.sqrt(GRADIENT_CONSTANT)])
        twice, square, product = (
            2 * own,
            own * own + 1,
            torch.ones((), device=own.device),
        )  # S of maps so scaled has the constant 1
        above, below, sums = torch.empty_like(own), torch.empty_like(own), []
        (alike, gradient), (spare, root), saliency = above, below, own[0]
        for maps in self.maps.unbind() if among is None else map(self.maps.__getitem__, among.tolist()):
            torch.addcmul(product, twice, maps, out=above)
            torch.addcmul(square, maps, maps, out=below)
            alike.div_(spare).mul_(root.div_(gradient).rsqrt_())
            torch.maximum(saliency, maps[0], out=spare)
            sums += [torch.dot(alike, spare), spare.sum()]
        weighted, weight = torch.stack(sums).view(-1, 2).unbind(1)
        return weighted / (weight + torch.finfo(torch.float32).eps)

    def ranked(self, image: Tensor) -> Tensor:
        """All references, the most similar first: (N,) int64. Scores that round to the same 1e-6
        stand in the references' order."""
        return ordered(self.scores(image))


def ordered(scores: Tensor) -> Tensor:
    """Indices of (N,) scores, the highest first; those that round to the same 1e-6 stand in their
    own order.

    >>> ordered(torch.tensor([0.2, 0.7, 0.7 + 1e-8])).tolist()
    [1, 2, 0]
    """
    return torch.argsort(torch.round(scores.double() / TIE), descending=True, stable=True)


def similarity_maps(image: Tensor, data_range: float = 1.0) -> tuple[Tensor, Tensor]:
    """Saliency (0 to 1) and gradient magnitude of (B, 1, H, W) images: all that ``srsim`` sees of
    one, both (B, H', W').

    Raises:
        SpecError: as ``srsim``.
    """
    if image.ndim != 4 or image.shape[1] != 1 or not image.is_floating_point():
        raise SpecError(
            f"images are {image.dtype} of shape {tuple(image.shape)}, expected grey ones, (B, 1, H, W) floating point"
        )
    if not data_range > 0:
        raise SpecError(f"data_range is {data_range}, expected a positive number")
    plane = image.to(torch.promote_types(image.dtype, torch.float32)) * (255 / data_range)
    block = max(1, round(min(plane.shape[-2:]) / 256))
    if block > 1:
        plane = F.avg_pool2d(F.pad(plane, ((block - 1) // 2, block // 2) * 2), block)
    if min(plane.shape[-2:]) * SCALE < BLUR:
        raise SpecError(f"images are {tuple(image.shape[-2:])} pixels, expected at least {SMALLEST} on each side")
    return _saliency(plane[:, 0]), _gradient(plane)


def _alike(a: Tensor, b: Tensor, constant: float) -> Tensor:
    return (2 * a * b + constant) / (a**2 + b**2 + constant)


def _gradient(plane: Tensor) -> Tensor:
    across = (
        torch.tensor([[-3.0, 0.0, 3.0], [-10.0, 0.0, 10.0], [-3.0, 0.0, 3.0]], dtype=plane.dtype, device=plane.device)
        / 16
    )
    return F.conv2d(plane, torch.stack([across, across.T])[:, None], padding=1).square().sum(1).sqrt()


def _saliency(plane: Tensor) -> Tensor:
    """(B, H, W) -> (B, H, W). Resizing and blurring are linear along each axis: products with small
    matrices."""
    eps = torch.finfo(plane.dtype).eps
    small = _both(plane, *(_resize(n, math.ceil(n * SCALE), SCALE) for n in plane.shape[-2:]))
    spectrum = torch.fft.fft2(small)
    amplitude = (spectrum.abs() + eps).log()
    residual = amplitude - F.avg_pool2d(F.pad(amplitude[:, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[:, 0]
    energy = torch.fft.ifft2(torch.polar(residual.exp(), spectrum.angle())).abs().square()
    energy = _both(energy, *(_blur(n) for n in energy.shape[-2:]))
    least, most = energy.amin((-2, -1), keepdim=True), energy.amax((-2, -1), keepdim=True)
    scaled = (energy - least) / (most - least + eps)
    return _both(scaled, *(_resize(n, m, m / n) for n, m in zip(scaled.shape[-2:], plane.shape[-2:], strict=True)))


def _both(plane: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    r, c = (torch.from_numpy(matrix).to(plane) for matrix in (rows, columns))
    return r @ plane @ c.T


@lru_cache(maxsize=64)
def _resize(before: int, after: int, scale: float) -> np.ndarray:
    """(after, before): cubic interpolation (a = -0.5), widened when it shrinks; beyond the border
    the image is mirrored, edge included."""
    width = min(scale, 1.0)
    centres = (np.arange(after) + 0.5) / scale - 0.5
    reach = math.ceil(2 / width) + 1
    matrix = np.zeros((after, before))
    for row, centre in enumerate(centres):
        taps = np.arange(math.floor(centre) - reach, math.floor(centre) + reach + 1)
        weights = _cubic((taps - centre) * width)
        inside = taps % (2 * before)
        np.add.at(matrix[row], np.minimum(inside, 2 * before - 1 - inside), weights / weights.sum())
    return matrix


def _cubic(distance: np.ndarray) -> np.ndarray:
    t = np.abs(distance)
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    weights: np.ndarray = np.where(t <= 1, near, np.where(t < 2, far, 0.0))
    return weights


@lru_cache(maxsize=64)
def _blur(size: int) -> np.ndarray:
    """(size, size): the Gaussian of an even width, which reaches from 4 pixels before to 5 behind;
    zeros beyond the border."""
    taps = np.arange(BLUR) - (BLUR - 1) / 2
    weights = np.exp(-(taps**2) / (2 * SIGMA**2))
    matrix = np.zeros((size, size))
    for offset, weight in zip(range(1 - BLUR // 2, BLUR // 2 + 1), weights / weights.sum(), strict=True):
        matrix += np.diag(np.full(size - abs(offset), weight), offset)
    return matrix
