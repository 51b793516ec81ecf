"""A critic: it tells images from what was made of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allograft.errors import SpecError


class Critic(nn.Module):
    """Images (B, C, *spatial) -> one logit each, (B, 1): above 0 for real.

    Strided convolutions with leaky rectifiers, the mean over space, a linear layer; no
    normalisation, so that an image's logit does not depend on the batch. The architecture is ours:
    papers that have a critic often name none.

    Args:
        channels: of the images.
        spatial_dims: 2 or 3.
        widths: channels of the convolutions, each of which halves the image.

    Example:
        >>> Critic(1, spatial_dims=3, widths=[4, 8])(torch.zeros(2, 1, 8, 8, 8)).shape
        torch.Size([2, 1])
    """

    def __init__(self, channels: int, spatial_dims: int, widths: list[int]) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or not widths:
            raise SpecError(
                f"critic: found spatial_dims {spatial_dims} and {len(widths)} widths; expected 2 or 3 dimensions, and "
                "at least one width"
            )
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            layers += [convolution(before, after, 3, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.linear = nn.Linear(widths[-1], 1)

    def forward(self, image: Tensor) -> Tensor:
        logit: Tensor = self.linear(torch.flatten(self.layers(image), 2).mean(2))
        return logit
