"""DeepLabv3+ (Chen et al. 2018): a backbone of timm, torchvision's atrous pyramid, and the paper's
small decoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.backbone import TimmEncoder, aliases, created
from allograft.networks.network import Network
from allograft.networks.parts import DenseHead, dense_output, has_decoder, heads_of, upsampled

RATES = {16: (6, 12, 18), 8: (12, 24, 36)}
LOW = 4
"""Stride of the feature that brings the edges back."""


class DeepLabDecoder(nn.Module):
    """Features -> (B, channels, H / 4, W / 4): the atrous pyramid of the last one, enlarged, beside
    the feature of stride 4."""

    def __init__(self, encoder: TimmEncoder, channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import ASPP

        self.low = encoder.strides.index(LOW)
        self.scale = encoder.strides[-1] // LOW
        self.pyramid = ASPP(encoder.channels[-1], list(rates), channels)
        self.edges = _block(encoder.channels[self.low], 48, 1)
        self.blocks = nn.Sequential(_block(channels + 48, channels, 3), _block(channels, channels, 3))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        if self.training and len(features[-1]) == 1 and self.pyramid.training:
            raise SpecError(
                "network deeplabv3plus: its pyramid normalises over the batch and cannot train on one image; set "
                "batch_size: 2"
            )
        deep = upsampled(self.pyramid(features[-1]), self.scale)
        decoded: Tensor = self.blocks(torch.cat([deep, self.edges(features[self.low])], dim=1))
        return decoded


class Enlarged(nn.Module):
    """A 1x1 convolution and the way back to the image's size."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, outputs, 1)

    def forward(self, decoded: Tensor) -> Tensor:
        return upsampled(self.convolution(decoded), LOW)


def deeplabv3plus(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    encoder: str = "resnet50",
    output_stride: int = 16,
    channels: int = 256,
) -> Network:
    """DeepLabv3+ for 2-D segmentation.

    Convolutions of the decoder are plain ones, where the paper's are separable; the pyramid is
    torchvision's, with its dropout of 0.5.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the last feature, or both.
        encoder: a timm name whose model can hold its stride: ResNets, for example.
        output_stride: of the last feature, 16 or 8.
        channels: of pyramid and decoder.
    """
    dense = dense_output("deeplabv3plus", outputs)
    if output_stride not in RATES:
        raise SpecError(f"network deeplabv3plus: output_stride is {output_stride}; expected 16 or 8")
    body = created(encoder, in_channels, output_stride=output_stride)
    parts = TimmEncoder(body)
    if LOW not in parts.strides or parts.strides[-1] != output_stride:
        raise SpecError(
            f"network deeplabv3plus: '{encoder}' has strides {parts.strides}; choose one that ends in "
            f"{output_stride}: resnet50"
        )
    decoder = DeepLabDecoder(parts, channels, RATES[output_stride]) if has_decoder(outputs) else None
    head = DenseHead(Enlarged(channels, outputs[dense])) if dense else None
    return Network(
        parts, decoder, heads_of(outputs, parts.channels[-1], head), multiple=output_stride, aliases=aliases(body)
    )


def _block(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())
