"""Categorical normalisation: batch statistics, then a scale and a shift at each pixel that depend
on the classes seen there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.nn.batchnorm import batch_norm


class CategoricalNorm2d(nn.Module):
    """Batch normalisation without parameters, modulated by a class map (Xiao et al. 2022, eq. 2).

    ``y = (x - mu) / sigma * (1 + gamma(m)) + beta(m)``; mu and sigma are the batch's (in evaluation
    the running ones), m the class probabilities resized to x, and gamma, beta =
    ``conv(relu(conv(m)))`` with 3 x 3 convolutions that share the first.

    Where we differ: eq. 2 scales by gamma; the released code by 1 + gamma, so that a layer that
    says nothing is plain batch normalisation. We follow the code.

    Args:
        channels: C of x.
        classes: K of the class map, background included.
        hidden: channels between the convolutions; C // 2 (at least 1) by default, as in the paper.
        resize: how the map gets x's size: "bilinear" with corners aligned, or "nearest".
        eps, momentum: of the batch normalisation.

    Example:
        >>> layer = CategoricalNorm2d(8, 3)
        >>> layer(torch.randn(2, 8, 6, 6), torch.rand(2, 3, 12, 12).softmax(1)).shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        hidden: int | None = None,
        *,
        resize: Literal["bilinear", "nearest"] = "bilinear",
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        if channels < 1 or classes < 1 or (hidden is not None and hidden < 1) or resize not in ("bilinear", "nearest"):
            found = f"channels {channels}, classes {classes}, hidden {hidden}, resize {resize!r}"
            raise SpecError(
                f"categorical normalisation: found {found}; expected positive numbers, and resize bilinear or nearest"
            )
        hidden = hidden or max(1, channels // 2)
        self.classes = classes
        self.resize = resize
        self.norm = nn.BatchNorm2d(channels, eps=eps, momentum=momentum, affine=False)
        self.shared = nn.Conv2d(classes, hidden, 3, padding=1)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, mask_probabilities: Tensor) -> Tensor:
        """(B, C, H, W) and (B, K, h, w) of any size -> (B, C, H, W).

        Raises:
            SpecError: a map of another number of classes or images.
        """
        if mask_probabilities.ndim != 4 or mask_probabilities.shape[:2] != (len(x), self.classes):
            raise SpecError(
                f"class map of shape {tuple(mask_probabilities.shape)}; expected ({len(x)}, {self.classes}, h, w)"
            )
        scale, shift = self.modulation(mask_probabilities, x.shape[-2:])
        return batch_norm(x, self.norm) * (1 + scale) + shift

    @torch.no_grad()
    def by_class(self) -> tuple[Tensor, Tensor]:
        """Scale gamma and shift beta where a region is wholly of one class: (K, C) each, a row a
        class."""
        region = torch.eye(self.classes, device=self.shared.weight.device)[:, :, None, None].expand(-1, -1, 5, 5)
        scale, shift = self.modulation(region, region.shape[-2:])
        # two 3 x 3 convolutions do not reach the border from here
        return scale[:, :, 2, 2], shift[:, :, 2, 2]

    def modulation(self, mask_probabilities: Tensor, size: torch.Size) -> tuple[Tensor, Tensor]:
        """Scale gamma and shift beta, (B, C, *size) each: what the paper's figure 6 shows."""
        corners = True if self.resize == "bilinear" else None
        mask = F.interpolate(
            mask_probabilities.to(self.shared.weight.dtype), size=tuple(size), mode=self.resize, align_corners=corners
        )
        hidden = F.relu(self.shared(mask))
        return self.gamma(hidden), self.beta(hidden)


class TwoBranchNorm2d(nn.Module):
    """Two normalisations of one feature: the general one, and inside ``guided`` the categorical one
    (Xiao et al. 2022, figure 2 b).

    Nothing is shared but the input: each branch has running statistics and parameters of its own.

    Args:
        channels: C of the feature.
        classes: K of the class map.
        general: the batch normalisation of the first branch; a fresh one when None.

    Example:
        >>> layer = TwoBranchNorm2d(4, 2)
        >>> x = torch.randn(2, 4, 6, 6)
        >>> with guided(layer, torch.rand(2, 2, 6, 6)):
        ...     categorical = layer(x)
        >>> bool((categorical == layer(x)).all())
        False
    """

    def __init__(self, channels: int, classes: int, general: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        self.general = general or nn.BatchNorm2d(channels)
        self.categorical = CategoricalNorm2d(channels, classes)
        self.mask: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.mask is None:
            return batch_norm(x, self.general)
        categorical: Tensor = self.categorical(x, self.mask)
        return categorical


@contextmanager
def guided(module: nn.Module, mask_probabilities: Tensor) -> Iterator[None]:
    """Inside, every ``TwoBranchNorm2d`` of the module normalises by this class map, (B, K, h,
    w)."""
    layers = [layer for layer in module.modules() if isinstance(layer, TwoBranchNorm2d)]
    for layer in layers:
        layer.mask = mask_probabilities
    try:
        yield
    finally:
        for layer in layers:
            layer.mask = None
