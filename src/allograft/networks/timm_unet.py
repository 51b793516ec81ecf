"""A U-Net: its encoder is a backbone of timm, its decoder that of segmentation_models_pytorch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.errors import SpecError, require_extra
from allograft.networks.backbone import TimmEncoder, aliases, created
from allograft.networks.network import Network
from allograft.networks.parts import DenseHead, dense_output, has_decoder, heads_of, renamed


class SkipsDecoder(nn.Module):
    """Features at strides 2, 4, ... -> (B, channels[-1], H, W), by the decoder of another library.

    That takes a feature at every power of two from the image on; an encoder that begins coarser,
    such as ConvNeXt at stride 4, has features without channels in their place.
    """

    def __init__(self, unet: nn.Module, strides: Sequence[int]) -> None:
        super().__init__()
        self.unet = unet
        self.strides = tuple(strides)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        finest, scale = features[0], self.strides[0]
        empty = [
            finest.new_zeros((len(finest), 0, *(side * scale // stride for side in finest.shape[2:])))
            for stride in _powers(scale)[:-1]
        ]
        decoded: Tensor = self.unet([*empty, *features])
        return decoded


def timm_unet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    encoder: str = "resnet18",
    decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    norm: Literal["batch", "instance"] = "batch",
    **arguments: Any,
) -> Network:
    """U-Net with a backbone of timm as its encoder, for 2-D segmentation (Ronneberger et al. 2015;
    the decoder is that of ``segmentation_models_pytorch``, which is needed: extra ``smp``).

    Nothing is downloaded for it: the weights are drawn, or are those that ``start`` names. A file
    of timm fits its encoder, and one of a ``Unet`` of ``segmentation_models_pytorch`` with the same
    ResNet fits all of it. Other arguments are those of ``timm.create_model``.

    Args:
        in_channels: image channels, any number.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the last feature, or both.
        encoder: a timm name whose features halve in size: ResNets, EfficientNets, ConvNeXts, for
            example, and no vision transformer.
        decoder_channels: of each block of the decoder, coarsest first; as many as the image is
            halved.
        norm: "batch" as published, or "instance" in the place of every batch normalisation, which
            keeps its weights and has no running statistics.
    """
    dense = dense_output("timm_unet", outputs)
    body = created(encoder, in_channels, **arguments)
    parts = TimmEncoder(body)
    _check(encoder, parts.strides, decoder_channels)
    decoder = _decoder(parts, decoder_channels) if has_decoder(outputs) else None
    head = DenseHead(nn.Conv2d(decoder_channels[-1], outputs[dense], 3, padding=1)) if dense else None
    network = Network(
        parts, decoder, heads_of(outputs, parts.channels[-1], head), multiple=parts.strides[-1], aliases=aliases(body)
    )
    if norm == "instance":
        _normalise_instances(network, encoder)
    elif norm != "batch":
        raise SpecError(f"network timm_unet: norm is '{norm}'; expected batch or instance")
    for prefix in ("encoder.", "encoder.model."):  # in a Unet of the decoder's library
        network.aliases |= {prefix + name: ours for name, ours in aliases(body).items()}
    if decoder is not None:
        network.aliases |= renamed(decoder.unet, network, "decoder.")
    if head is not None:
        network.aliases |= renamed(head.block, network, "segmentation_head.0.")
    return network


def _check(encoder: str, strides: Sequence[int], channels: Sequence[int]) -> None:
    if strides[0] not in (1, 2, 4) or any(2 * fine != coarse for fine, coarse in pairwise(strides)):
        raise SpecError(
            f"network timm_unet: '{encoder}' has features at strides {list(strides)}; expected each half as large as "
            "the one before: choose resnet18, efficientnet_b0 or convnext_atto, for example"
        )
    halved = int(math.log2(strides[-1]))
    if len(channels) != halved or min(channels) < 1:
        raise SpecError(
            f"network timm_unet: decoder_channels is {list(channels)}; '{encoder}' halves the image {halved} times: "
            f"expected {halved} numbers above 0"
        )


def _decoder(encoder: TimmEncoder, channels: Sequence[int]) -> SkipsDecoder:
    require_extra("segmentation_models_pytorch", "smp")
    from segmentation_models_pytorch.base.initialization import initialize_decoder
    from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder

    skips = [*([0] * (len(_powers(encoder.strides[0])) - 1)), *encoder.channels]
    unet = UnetDecoder(skips, tuple(channels), n_blocks=len(channels))
    initialize_decoder(unet)
    return SkipsDecoder(unet, encoder.strides)


def _powers(stride: int) -> list[int]:
    """1, 2, ... up to a stride.

    >>> _powers(4)
    [1, 2, 4]
    """
    return [2**power for power in range(int(math.log2(stride)) + 1)]


def _normalise_instances(network: nn.Module, encoder: str) -> None:
    """Put an instance normalisation with the same scale and shift in the place of each batch
    normalisation."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                made = nn.InstanceNorm2d(child.num_features, eps=child.eps, affine=True)
                with torch.no_grad():  # some are drawn as 0
                    made.weight.copy_(child.weight)
                    made.bias.copy_(child.bias)
                setattr(parent, name, made)
            elif isinstance(child, _BatchNorm):
                raise SpecError(
                    f"network timm_unet: norm: instance: the normalisation of '{encoder}' is one with its activation; "
                    "choose a ResNet, or keep norm: batch"
                )
