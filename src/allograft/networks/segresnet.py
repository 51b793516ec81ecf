"""SegResNet (Myronenko 2018) without its autoencoder, MONAI's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from allograft.networks.network import Network
from allograft.networks.parts import ChainEncoder, DenseHead, SkipDecoder, dense_output, has_decoder, heads_of, renamed


class SegResNetUp(nn.Module):
    """Doubles the size, adds the skip, and runs residual blocks."""

    def __init__(self, sample: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.sample = sample
        self.blocks = blocks

    def forward(self, decoded: Tensor, skip: Tensor) -> Tensor:
        summed: Tensor = self.blocks(self.sample(decoded) + skip)
        return summed


class SegResNetEncoder(nn.Module):
    """(B, C, *spatial) -> one feature a level, finest first."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.stem = whole.convInit
        self.chain = ChainEncoder(list(whole.down_layers))

    @property
    def levels(self) -> nn.ModuleList:
        """The levels after the first convolution."""
        return self.chain.levels

    def forward(self, image: Tensor) -> list[Tensor]:
        features: list[Tensor] = self.chain(self.stem(image))
        return features


def segresnet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 2,
    init_filters: int = 16,
    blocks_down: Sequence[int] = (1, 2, 2, 4),
    blocks_up: Sequence[int] = (1, 1, 1),
) -> Network:
    """Residual encoder and decoder with group normalisation, for 2-D and 3-D.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the bottom feature, or both.
        spatial_dims: 2 or 3.
        init_filters: channels of the first level, a multiple of 8; each level doubles them.
        blocks_down, blocks_up: residual blocks of each level, from the finest down and from the
            bottom up.
    """
    from monai.networks.nets import SegResNet

    dense = dense_output("segresnet", outputs)
    whole = SegResNet(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=outputs[dense] if dense else 1,
        blocks_down=tuple(blocks_down),
        blocks_up=tuple(blocks_up),
    )
    decoder = SkipDecoder(
        [SegResNetUp(sample, blocks) for sample, blocks in zip(whole.up_samples, whole.up_layers, strict=True)]
    )
    depth = len(blocks_down) - 1
    heads = heads_of(outputs, init_filters * 2**depth, DenseHead(whole.conv_final))
    network = Network(SegResNetEncoder(whole), decoder if has_decoder(outputs) else None, heads, multiple=2**depth)
    network.aliases = renamed(whole, network)
    return network
