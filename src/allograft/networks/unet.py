"""MONAI's U-Net as encoder, decoder and head: the same blocks, unrolled from its recursion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.errors import SpecError
from allograft.networks.network import Network
from allograft.networks.parts import ChainEncoder, dense_output, has_decoder, heads_of, renamed
from allograft.networks.units import Style, levels

GROUPS = 8
"""Most groups of channels of ``norm: group``."""


class UNetDecoder(nn.Module):
    """Features -> (B, channels[0], *spatial) at the resolution of the first level."""

    def __init__(self, ups: Sequence[nn.Module]) -> None:
        super().__init__()
        self.ups = nn.ModuleList(ups)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        decoded = features[-1]
        for up, skip in zip(self.ups, reversed(features[1:-1]), strict=True):
            decoded = up(torch.cat([skip, decoded], dim=1))
        return decoded


class UNetHead(nn.Module):
    """The last up-sampling block, from the first skip and the decoded feature to (B, K, *spatial)
    logits."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, features: Sequence[Tensor], decoded: Tensor) -> Tensor:
        logits: Tensor = self.block(torch.cat([features[0], decoded], dim=1))
        return logits


def unet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 2,
    channels: Sequence[int] = (16, 32, 64, 128),
    strides: Sequence[int] | None = None,
    num_res_units: int = 2,
    norm: str = "instance",
    dropout: float = 0.0,
) -> Network:
    """U-Net with residual units (Ronneberger et al. 2015; Kerfoot et al. 2019), for 2-D and 3-D.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the bottom feature, or both.
        spatial_dims: 2 or 3.
        channels: of each level, finest first; at least two.
        strides: between levels, 2 by default.
        num_res_units: convolutions with a shortcut per level; 0 for plain convolutions.
        norm: "instance", "batch" or "group" (Wu and He 2018: groups of channels, as many as 8 and a
            layer's channels both divide by).
        dropout: rate in every block.
    """
    dense = dense_output("unet", outputs)
    strides = tuple(strides or (2,) * (len(channels) - 1))
    if spatial_dims not in (2, 3) or num_res_units < 0 or len(channels) < 2 or len(strides) != len(channels) - 1:
        asked = (
            f"spatial_dims {spatial_dims}, num_res_units {num_res_units}, {len(channels)} channels and {len(strides)} "
            "strides"
        )
        raise SpecError(
            f"network: unet: found {asked}; expected 2 or 3 dimensions, units from 0, two channels or more, and one "
            "stride fewer than channels"
        )
    style = Style(spatial_dims, "batch" if norm == "group" else norm.lower(), dropout)
    ends = (in_channels, outputs[dense] if dense else 1)
    made = levels(style, ends, tuple(channels), strides, num_res_units)
    if norm == "group":
        for block in made.named().values():
            group_normalised(block)
    multiple = 1
    for stride in strides:
        multiple *= stride
    *inner, last = made.ups
    heads = heads_of(outputs, channels[-1], UNetHead(last))
    network = Network(
        ChainEncoder([*made.downs, made.bottom]),
        UNetDecoder(inner) if has_decoder(outputs) else None,
        heads,
        multiple=multiple,
    )
    for name, block in made.named().items():
        network.aliases |= renamed(block, network, f"{name}.")
    return network


def group_normalised(whole: nn.Module) -> None:
    """Put a group normalisation in the place of each batch normalisation, with learned scale and
    shift as that has.

    MONAI's own option has one number of groups for all layers, which the last one's channels, the
    classes, seldom divide by.
    """
    for parent in list(whole.modules()):
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm):
                setattr(parent, name, nn.GroupNorm(math.gcd(GROUPS, child.num_features), child.num_features))
