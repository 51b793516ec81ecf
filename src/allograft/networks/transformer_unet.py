"""A U-Net with a transformer at its bottom, like TransUNet (Chen et al. 2021), of MONAI's
blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.network import Network
from allograft.networks.parts import ChainEncoder
from allograft.networks.unet import unet


class TransformerLevel(nn.Module):
    """A level of convolutions, then a transformer over its places: (B, C, *spatial) of the level
    above -> (B, C', *spatial) at the level's stride.

    Each place is a token; positions are learned for one grid and resampled for others.

    Args:
        level: the level.
        channels: that it gives.
        grid: the places that the position table is made for.
        hidden_size, mlp_dim, num_heads, depth, dropout: of the transformer.
    """

    def __init__(
        self, level: nn.Module, channels: int, grid: Sequence[int], *, hidden_size: int, mlp_dim: int, num_heads: int,
        depth: int, dropout: float,
    ) -> None:  # fmt: skip
        from monai.networks.blocks.transformerblock import TransformerBlock

        super().__init__()
        self.grid, dims = tuple(grid), len(grid)
        convolution = nn.Conv2d if dims == 2 else nn.Conv3d
        self.level = level
        self.project = convolution(channels, hidden_size, 1)
        self.positions = nn.Parameter(torch.zeros(1, hidden_size, *grid))
        nn.init.trunc_normal_(self.positions, std=0.02)
        blocks = [TransformerBlock(hidden_size, mlp_dim, num_heads, dropout) for _ in range(depth)]
        self.blocks = nn.Sequential(*blocks, nn.LayerNorm(hidden_size))
        self.back = convolution(hidden_size, channels, 1)

    def forward(self, feature: Tensor) -> Tensor:
        tokens = self.project(self.level(feature))
        grid = tokens.shape[2:]
        row = (tokens + self._positions(grid)).flatten(2).mT
        mixed: Tensor = self.back(self.blocks(row).mT.unflatten(2, grid))
        return mixed

    def _positions(self, grid: Sequence[int]) -> Tensor:
        if tuple(grid) == self.grid:
            return self.positions
        mode = "bicubic" if len(grid) == 2 else "trilinear"
        return F.interpolate(self.positions, size=tuple(grid), mode=mode, align_corners=False)


def transformer_unet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 2,
    channels: Sequence[int] = (16, 32, 64, 128),
    num_res_units: int = 2,
    norm: str = "instance",
    image_size: int | Sequence[int] = 256,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
    depth: int = 12,
    dropout: float = 0.1,
) -> Network:
    """U-Net whose last level is followed by a vision transformer, like TransUNet.

    Of TransUNet it has the order (convolutions, a transformer over their last feature, a decoder
    with skips) and the transformer's size; its convolutions are those of ``unet`` instead of a
    ResNet-50 with ImageNet weights, so numbers of the two are not the same.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"paired": K}``, ``{"label": K}`` from the transformer, or two.
        spatial_dims: 2 or 3.
        channels, num_res_units, norm: of ``unet``, whose levels halve the image.
        image_size: the size, or sizes, that the position table is made for; resampled for others.
        hidden_size, mlp_dim, num_heads, depth: of the transformer; the defaults are TransUNet's.
        dropout: rate in the transformer.
    """
    size = (image_size,) * spatial_dims if isinstance(image_size, int) else tuple(image_size)
    stride = 2 ** (len(channels) - 1)
    if len(size) != spatial_dims or any(side % stride or not side for side in size):
        raise SpecError(
            f"network transformer_unet: image_size is {image_size}; expected {spatial_dims} multiples of {stride}, or "
            "one number"
        )
    if depth < 1 or num_heads < 1 or hidden_size % num_heads:
        raise SpecError(
            f"network transformer_unet: hidden_size {hidden_size}, num_heads {num_heads} and depth {depth}; expected a "
            "width that the heads divide, and at least one block"
        )
    network = unet(
        in_channels, outputs, spatial_dims=spatial_dims, channels=channels, num_res_units=num_res_units, norm=norm
    )
    levels = network.levels()
    grid = [side // stride for side in size]
    whole = TransformerLevel(
        levels[-1], channels[-1], grid, hidden_size=hidden_size, mlp_dim=mlp_dim, num_heads=num_heads, depth=depth,
        dropout=dropout,
    )  # fmt: skip
    assert isinstance(network.encoder, ChainEncoder)
    network.encoder.levels[-1] = whole
    last = f"encoder.levels.{len(levels) - 1}."
    network.aliases = {
        theirs: ours.replace(last, f"{last}level.", 1) if ours.startswith(last) else ours
        for theirs, ours in network.aliases.items()
    }
    return network
