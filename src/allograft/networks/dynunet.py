"""DynUNet, MONAI's U-Net in the manner of nnU-Net (Isensee et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product

from torch import Tensor, nn

from allograft.networks.network import Network
from allograft.networks.parts import (
    ChainEncoder,
    DenseHead,
    SkipDecoder,
    check_bottom,
    dense_output,
    has_decoder,
    heads_of,
    renamed,
)


class DynUNetEncoder(nn.Module):
    """(B, C, *spatial) -> one feature a level, finest first; images too small for instance
    normalisation are refused."""

    def __init__(self, levels: Sequence[nn.Module], multiple: int) -> None:
        super().__init__()
        self.chain = ChainEncoder(levels)
        self.multiple = multiple

    @property
    def levels(self) -> nn.ModuleList:
        """The levels."""
        return self.chain.levels

    def forward(self, image: Tensor) -> list[Tensor]:
        check_bottom("dynunet", image, self.multiple)
        features: list[Tensor] = self.chain(image)
        return features


def dynunet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 2,
    channels: Sequence[int] = (32, 64, 128, 256),
    strides: Sequence[int] | None = None,
    kernel_size: int = 3,
    residual: bool = False,
) -> Network:
    """Plain or residual U-Net with instance normalisation and strided convolutions, for 2-D and
    3-D.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the bottom feature, or both.
        spatial_dims: 2 or 3.
        channels: of each level, finest first; at least three.
        strides: of each level, the first one's too; by default 1, then 2.
        kernel_size: of every convolution, along each axis.
        residual: blocks with a shortcut.

    Checkpoints of nnU-Net's plain U-Net fit, as far as the levels agree. It has biases before its
    instance normalisations, which change nothing, and in its transposed convolutions; MONAI's
    modules have neither, so that these are skipped.
    """
    from monai.networks.nets import DynUNet

    dense = dense_output("dynunet", outputs)
    strides = list(strides or (1, *(2,) * (len(channels) - 1)))
    whole = DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=outputs[dense] if dense else 1,
        kernel_size=[kernel_size] * len(channels),
        strides=strides,
        upsample_kernel_size=strides[1:],
        filters=list(channels),
        res_block=residual,
    )
    encoder = DynUNetEncoder([whole.input_block, *whole.downsamples, whole.bottleneck], math.prod(strides))
    heads = heads_of(outputs, channels[-1], DenseHead(whole.output_block))
    network = Network(
        encoder, SkipDecoder(list(whole.upsamples)) if has_decoder(outputs) else None, heads, multiple=encoder.multiple
    )
    network.aliases = renamed(whole, network) | ({} if residual else _nnunet_names(network))
    return network


def _nnunet_names(network: Network) -> dict[str, str]:
    """Name of each tensor in a plain U-Net of nnU-Net, which lists an encoder's twice and every
    layer's under two names -> its name here."""
    blocks = {f"encoder.stages.{s}.0": f"encoder.chain.levels.{s}" for s in range(len(network.levels()))}
    for number in range(len(network.levels()) - 1 if network.decoder is not None else 0):
        blocks[f"decoder.stages.{number}"] = f"decoder.ups.{number}.conv_block"
    names: dict[str, str] = {}
    for theirs, ours in blocks.items():
        for block_number in (1, 2):
            layer = f"{theirs}.convs.{block_number - 1}"
            names |= {
                f"{layer}.{conv}.weight": f"{ours}.conv{block_number}.conv.weight" for conv in ("conv", "all_modules.0")
            }
            for kind, norm in product(("weight", "bias"), ("norm", "all_modules.1")):
                names[f"{layer}.{norm}.{kind}"] = f"{ours}.norm{block_number}.{kind}"
    for number in range(len(network.levels()) - 1):
        names[f"decoder.transpconvs.{number}.weight"] = f"decoder.ups.{number}.transp_conv.conv.weight"
    finest = len(network.levels()) - 2
    names |= {
        f"decoder.seg_layers.{finest}.{kind}": f"heads.mask.block.conv.conv.{kind}" for kind in ("weight", "bias")
    }
    return names | {f"decoder.{theirs}": ours for theirs, ours in names.items() if theirs.startswith("encoder.")}
