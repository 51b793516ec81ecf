"""The plain convolutional classifier of computational pathology that Stain-AgLr and its rivals are
compared on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.network import Network
from allograft.networks.parts import ChainEncoder, dense_output


def convolutions(channels: int, out: int, *, stride: int = 1, running: bool = True) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU; the second one strides: (B,
    C, H, W) -> (B, out, H', W').

    Args:
        running: whether running statistics are kept, for layers that are used after the training.
    """
    layers: list[nn.Module] = []
    for into, step in ((channels, 1), (out, stride)):
        norm = nn.BatchNorm2d(out, track_running_stats=running)
        layers += [nn.Conv2d(into, out, 3, step, 1, bias=False), norm, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class DenseLabelHead(nn.Module):
    """Global average pooling, dropout, a hidden layer with ReLU and the classes: (B, C, *spatial)
    -> (B, K) logits."""

    def __init__(self, channels: int, hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, classes)
        )

    def forward(self, features: Sequence[Tensor], decoded: Tensor | None) -> Tensor:
        logits: Tensor = self.layers(features[-1].flatten(2).mean(2))
        return logits


def stain_cnn(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    channels: Sequence[int] = (32, 64, 128, 256, 512),
    hidden: int = 256,
    dropout: float = 0.5,
) -> Network:
    """Five stages of two convolutions that halve the image, pooling, dropout, two dense layers
    (Raipuria et al. 2022, table 3), 2-D.

    How a stage halves the image is not stated; here its second convolution has stride 2.

    Args:
        in_channels: image channels.
        outputs: ``{"label": K}``.
        channels: of each stage, finest first.
        hidden: units of the hidden dense layer.
        dropout: share of the pooled features dropped in training.
    """
    dense_output("stain_cnn", outputs, ("label",))
    if not channels or min(*channels, hidden, 1) < 1 or not 0 <= dropout < 1:
        found = f"channels {list(channels)}, hidden {hidden}, dropout {dropout}"
        raise SpecError(
            f"network stain_cnn: found {found}; expected numbers of at least 1, and a dropout from 0 to below 1"
        )
    stages = [convolutions(into, out, stride=2) for into, out in pairwise((in_channels, *channels))]
    heads = {key: DenseLabelHead(channels[-1], hidden, count, dropout) for key, count in outputs.items()}
    return Network(ChainEncoder(stages), None, heads, multiple=2 ** len(channels))


class StainDecoder(nn.Module):
    """The encoder's last feature -> colours: in each stage two convolutions and a doubling, (B, C,
    h, w) -> (B, 3, H, W) at ``size``.

    Args:
        channels: of the feature; each stage halves them, down to 16.
        doublings: log2 of the encoder's stride; rounded to stages, at least one.
    """

    def __init__(self, channels: int, doublings: float) -> None:
        super().__init__()
        widths = [channels, *(max(channels // 2**stage, 16) for stage in range(max(1, round(doublings))))]
        # running statistics would be of no use: it is never run in evaluation
        self.stages = nn.ModuleList(convolutions(a, b, running=False) for a, b in pairwise(widths))
        self.colours = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, feature: Tensor, size: Sequence[int]) -> Tensor:
        for stage in self.stages:
            feature = F.interpolate(stage(feature), scale_factor=2, mode="bilinear", align_corners=False)
        if feature.shape[2:] != torch.Size(size):
            feature = F.interpolate(feature, size=tuple(size), mode="bilinear", align_corners=False)
        colours: Tensor = self.colours(feature)
        return colours
