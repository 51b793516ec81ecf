"""Free-form deformation: a smooth random displacement, given at control points, of an image and its
label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


def draw_displacement(shape: Sequence[int], rng: Generator, *, points: int = 4, strength: float = 0.05) -> Tensor:
    """Displacements at ``points`` control points along each axis, normal with a standard deviation
    of ``strength`` times the side: (D, points, ...) in pixels."""
    dims = len(shape)
    normal = torch.randn(dims, *(points,) * dims, generator=rng)
    return normal * strength * torch.tensor([float(side) for side in shape]).view(dims, *(1,) * dims)


def deform(image: Tensor, labels: Mapping[str, Tensor], displacement: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Read every pixel from a place nearby: linear between control points, linear in the image,
    nearest in label maps; places outside repeat the border.

    Args:
        image: (C, *spatial) float.
        labels: name -> (K, *spatial).
        displacement: (D, *points) in pixels, axis by axis; 0 changes nothing.

    Returns:
        The image and the labels, new tensors of the same shapes and dtypes.

    Example:
        >>> image = torch.arange(4.0).view(1, 1, 4)
        >>> shift = torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 2, 2)
        >>> deform(image, {}, shift)[0].tolist()
        [[[1.0, 2.0, 3.0, 3.0]]]
    """
    shape, dims = image.shape[1:], image.ndim - 1
    mode = "bilinear" if dims == 2 else "trilinear"
    field = F.interpolate(displacement[None], size=tuple(shape), mode=mode, align_corners=True)[0]
    axes = [torch.arange(side, dtype=torch.float32) for side in shape]
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij")) + field
    scale = torch.tensor([max(side - 1, 1) for side in shape], dtype=torch.float32).view(dims, *(1,) * dims)
    grid = (2 * positions / scale - 1).flip(0).movedim(0, -1)[None]  # in [-1, 1], the last axis first

    def read(values: Tensor, how: str) -> Tensor:
        moved = F.grid_sample(values[None].float(), grid, how, padding_mode="border", align_corners=True)[0]
        return moved.to(values.dtype)

    return read(image, "bilinear"), {name: read(value, "nearest") for name, value in labels.items()}
