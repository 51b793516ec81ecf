"""Policy networks: from an image to two logits for each gate of another network."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

from torch import Tensor, nn


class PolicyNetwork(nn.Module):
    """(B, C, *spatial) -> (B, L, 2) logits: a stem of 32 filters and residual blocks of 64, 128 and
    256, each halving the image.

    Normalisation is by groups of channels, so that an image's policy does not depend on the batch
    (the released code has batch normalisation).
    """

    def __init__(self, in_channels: int, gates: int, spatial_dims: int) -> None:
        super().__init__()
        from monai.networks.blocks import ResidualUnit

        norm = ("group", {"num_groups": 8})
        widths = (32, 64, 128, 256)
        unit = partial(ResidualUnit, spatial_dims, norm=norm, act="relu", strides=2)
        self.stem = ResidualUnit(spatial_dims, in_channels, 32, strides=2, subunits=1, norm=norm, act="relu")
        self.blocks = nn.Sequential(*(unit(a, b, subunits=2) for a, b in pairwise(widths)))
        self.last = nn.Linear(widths[-1], 2 * gates)

    def forward(self, image: Tensor) -> Tensor:
        pooled = self.blocks(self.stem(image)).flatten(2).mean(-1)
        logits: Tensor = self.last(pooled).unflatten(1, (-1, 2))
        return logits


class ResNetPolicy(nn.Module):
    """(B, C, H, W) -> (B, L, 2) logits: torchvision's ResNet-34 with group normalisation."""

    def __init__(self, in_channels: int, gates: int) -> None:
        super().__init__()
        from torchvision.models import resnet34

        self.whole = resnet34(num_classes=2 * gates, norm_layer=partial(nn.GroupNorm, 8))
        self.whole.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.whole(image).unflatten(1, (-1, 2))
        return logits
