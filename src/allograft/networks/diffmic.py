"""The networks of DiffMIC around one of our table: guidance by a whole image and its regions, and a
denoiser of class vectors."""

from __future__ import annotations

import copy
from typing import NamedTuple

from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network
from allograft.networks.parts import LabelHead
from allograft.nn.denoiser import Denoiser
from allograft.nn.rois import GatedAttention, crop, select_rois


class Guided(NamedTuple):
    """What the guidance says of B images.

    Args:
        whole, local: (B, K) logits from the whole image, and from its regions.
        saliency: (B, K, h, w), of which ``whole`` is the mean.
        corners: (B, crops, 2), upper left of each region in pixels.
        attention: (B, crops), how much each region counts.
    """

    whole: Tensor
    local: Tensor
    saliency: Tensor
    corners: Tensor
    attention: Tensor

    @property
    def fused(self) -> Tensor:
        """(B, K): the mean of both logits, the guidance's own answer."""
        return (self.whole + self.local) / 2


class Guidance(nn.Module):
    """Dual-granularity guidance (Yang et al. 2023, section 2.1): a saliency map of the whole image,
    and the regions where it is highest, fused by gated attention.

    Regions are cut from all channels of the image, without gradient to the choice.

    Args:
        encoder: (B, C, H, W) -> features; the local stream is a copy with weights of its own.
        channels: of its last feature.
        classes: K.
        crops, crop_size: regions an image, and their side in pixels.
    """

    def __init__(self, encoder: nn.Module, channels: int, classes: int, crops: int, crop_size: int) -> None:
        super().__init__()
        self.whole_encoder, self.local_encoder = copy.deepcopy(encoder), copy.deepcopy(encoder)
        self.saliency = nn.Conv2d(channels, classes, 1)
        self.attention = GatedAttention(channels)
        self.local_head = nn.Linear(channels, classes)
        self.crops, self.crop_size = crops, crop_size

    def forward(self, image: Tensor) -> Guided:
        """(B, C, H, W) -> logits of both streams."""
        saliency = self.saliency(self.whole_encoder(image)[-1])
        height, width = image.shape[2:]
        corners = select_rois(saliency.detach(), (height, width), self.crop_size, self.crops)
        regions = crop(image, corners, (self.crop_size, self.crop_size))
        features = pooled(self.local_encoder, regions.flatten(0, 1)).unflatten(0, regions.shape[:2])
        fused, attention = self.attention(features)
        return Guided(saliency.mean((2, 3)), self.local_head(fused), saliency, corners, attention)


class DiffMicNetwork(Network):
    """A classifier's encoder with guidance and a denoiser, either of which may be absent.

    As a plain network it answers by its guidance alone: {"label": fused logits}.

    Args:
        network: of our table, for labels; its head is not used.
        crops, crop_size: of the guidance; 0 crops = no guidance.
        priors: how many class vectors the denoiser is conditioned on.
        width, steps: of the denoiser; 0 steps = no denoiser.
    """

    def __init__(self, network: Network, *, crops: int, crop_size: int, priors: int, width: int, steps: int) -> None:
        head = dict(network.heads.items()).get("label")
        if not isinstance(head, LabelHead):
            raise SpecError(
                "diffmic: the network has no head for labels; choose resnet, densenet121, vit, swin or unet"
            )
        super().__init__(network.encoder, None, {}, multiple=network.multiple)
        channels, self.classes = head.linear.in_features, head.linear.out_features
        self.guidance = Guidance(network.encoder, channels, self.classes, crops, crop_size) if crops else None
        self.feature = nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width)) if steps else None
        self.denoiser = Denoiser((1 + priors) * self.classes, self.classes, width, steps) if steps else None
        self.steps = steps

    def embed(self, image: Tensor) -> Tensor:
        """The image feature (B, width) by which the denoiser is multiplied."""
        assert self.feature is not None
        embedded: Tensor = self.feature(pooled(self.encoder, image))
        return embedded

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {} if self.guidance is None else {"label": self.guidance(image).fused}


def add_diffmic(
    network: AnyNetwork, *, crops: int, crop_size: int, priors: int, width: int, steps: int
) -> DiffMicNetwork:
    """Surgery: ``DiffMicNetwork`` around the network; both streams of the guidance begin as copies
    of its encoder."""
    if not isinstance(network, Network):
        raise SpecError("diffmic: the network is one opaque module without an encoder; choose a network of our table")
    return DiffMicNetwork(network, crops=crops, crop_size=crop_size, priors=priors, width=width, steps=steps)


def pooled(encoder: nn.Module, image: Tensor) -> Tensor:
    """The encoder's last feature averaged over space: (B, C, H, W) -> (B, channels)."""
    feature: Tensor = encoder(image)[-1].flatten(2).mean(2)
    return feature
