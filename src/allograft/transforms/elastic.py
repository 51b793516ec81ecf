"""Elastic deformation of images in 2-D: smooth random displacements (Simard et al. 2003)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from allograft.errors import SpecError

ALPHA, SIGMA = (80.0, 120.0), (9.0, 11.0)
"""Ranges of the factor and of the smoothing, in pixels, in all configurations of Tellez et al. 2019
(HED-light too), as the augmentation code of their group lists them (Faryna et al. 2021,
pathology-he-auto-augment). With them a pixel moves by 1.6 pixels along an axis, in the root mean
square."""


def displacement(noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """``alpha`` times the noise smoothed by a Gaussian of ``sigma`` pixels, with zeros outside: the
    kernel is cut at 4 sigma and sums to 1.

    Args:
        noise: (2, H, W) in [-1, 1], of rows and of columns.

    Returns:
        (2, H, W) in pixels, of the noise's dtype.

    Example:
        >>> displacement(torch.zeros(2, 8, 8), 100.0, 10.0).abs().max().item()
        0.0
    """
    radius = int(4 * sigma + 0.5)
    places = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(noise)
    rows = F.conv2d(noise[:, None], kernel[None, None, :, None], padding=(radius, 0))
    return alpha * F.conv2d(rows, kernel[None, None, None, :], padding=(0, radius))[:, 0]


def deform(image: Tensor, moved: Tensor) -> Tensor:
    """The image seen at displaced places, ``result[r, c] = image[r + moved[0], c + moved[1]]``,
    bilinear and mirrored at its border.

    Args:
        image: (C, H, W) floating point.
        moved: (2, H, W) in pixels.

    Returns:
        (C, H, W) of the image's dtype; without displacement the image up to rounding.

    Raises:
        SpecError: sizes that differ.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 4)
        >>> deform(image, torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 1, 4)).flatten().tolist()
        [1.0, 2.0, 3.0, 3.0]
    """
    size = image.shape[1:]
    if moved.shape != (2, *size):
        raise SpecError(f"deform: displacements have shape {tuple(moved.shape)}; expected (2, *{tuple(size)})")
    axes = [torch.arange(count, dtype=moved.dtype, device=moved.device) for count in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij")) + moved
    # to [-1, 1] over the pixels' outer edges, column first, as grid_sample has it
    scaled = [(2 * coordinate + 1) / count - 1 for coordinate, count in zip(places, size, strict=True)]
    grid = torch.stack([scaled[1], scaled[0]], dim=-1).to(image)
    return F.grid_sample(image[None], grid[None], padding_mode="reflection", align_corners=False)[0]


def draw_displacement(size: tuple[int, int], rng: Generator) -> Tensor:
    """Displacements of an image of this size, (2, H, W): alpha and sigma from ``ALPHA`` and
    ``SIGMA``, noise uniform in [-1, 1]."""
    first, second = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
    noise = 2 * torch.rand(2, *size, generator=rng) - 1
    return displacement(noise, ALPHA[0] + (ALPHA[1] - ALPHA[0]) * first, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * second)
