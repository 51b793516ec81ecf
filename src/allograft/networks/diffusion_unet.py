"""The U-Net of denoising diffusion, MONAI's modules as encoder, decoder and head: it is told a time
step, by default 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allograft.errors import SpecError, require_extra
from allograft.networks.network import Network
from allograft.networks.parts import DenseHead, dense_output, has_decoder, heads_of, renamed

HEAD_CHANNELS = 64
"""Channels of one attention head."""


class DiffusionLevel(nn.Module):
    """What leads to one skip feature: a convolution, a residual block with its attention, if it has
    any, or a step down."""

    def __init__(self, block: nn.Module, attention: nn.Module | None = None, *, is_timed: bool = True) -> None:
        super().__init__()
        self.block = block
        self.attention = attention
        self.is_timed = is_timed

    def forward(self, hidden: Tensor, code: Tensor) -> Tensor:
        hidden = self.block(hidden, code) if self.is_timed else self.block(hidden)
        return hidden if self.attention is None else self.attention(hidden).contiguous()


class DiffusionEncoder(nn.Module):
    """(B, C, *spatial) and time steps -> every skip feature, finest first, and the bottleneck."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.time_embed = whole.time_embed
        levels = [DiffusionLevel(whole.conv_in, is_timed=False)]
        for down in whole.down_blocks:
            attentions = getattr(down, "attentions", [None] * len(down.resnets))
            levels += [DiffusionLevel(block, each) for block, each in zip(down.resnets, attentions, strict=True)]
            levels += [] if down.downsampler is None else [DiffusionLevel(down.downsampler)]
        self.levels = nn.ModuleList([*levels, DiffusionLevel(whole.middle_block)])

    def embedded(self, time: Tensor) -> Tensor:
        """(B,) time steps -> (B, D)."""
        from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

        width = self.time_embed[0].in_features
        code: Tensor = self.time_embed(get_timestep_embedding(time, width).to(self.time_embed[0].weight.dtype))
        return code

    def forward(self, image: Tensor, time: Tensor | None = None) -> list[Tensor]:
        """``time`` is (B,) int64, the step of the diffusion of each image; None = 0, an image as it
        is."""
        code = self.embedded(image.new_zeros(len(image), dtype=torch.int64) if time is None else time)
        features, hidden = [], image
        for level in self.levels:
            hidden = level(hidden, code)
            features.append(hidden)
        return features


class DiffusionDecoder(nn.Module):
    """Features and time steps -> (B, channels[0], *spatial).

    The embedding of time is the encoder's; it is held in a tuple, so that its weights are listed
    once.
    """

    def __init__(self, whole: Any, encoder: DiffusionEncoder) -> None:
        super().__init__()
        self.ups = whole.up_blocks
        self.encoders = (encoder,)

    def forward(self, features: Sequence[Tensor], time: Tensor | None = None) -> Tensor:
        hidden, skips = features[-1], list(features[:-1])
        code = self.encoders[0].embedded(hidden.new_zeros(len(hidden), dtype=torch.int64) if time is None else time)
        for up in self.ups:
            count = len(up.resnets)
            hidden = up(hidden_states=hidden, res_hidden_states_list=skips[-count:], temb=code, context=None)
            skips = skips[:-count]
        return hidden


def diffusion_unet(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 3,
    channels: Sequence[int] = (32, 32, 64),
    attention: Sequence[bool] = (False, False, True),
    num_res_blocks: int = 2,
    head_channels: int = HEAD_CHANNELS,
    norm_groups: int = 32,
) -> Network:
    """The U-Net that denoising diffusion trains (Ho et al. 2020; MONAI's ``DiffusionModelUNet``),
    for 2-D and 3-D.

    Defaults are those of Mamalakis et al. 2024, but for two: their 64 attention heads would have
    one channel each, so that 64 is taken for the channels of one head; and their cross-attention of
    32 has no condition to attend to, and is left out. As a network of another task the time step
    is 0.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the bottom feature, or both.
        spatial_dims: 2 or 3.
        channels: of each level, finest first, multiples of ``norm_groups``.
        attention: which levels have it.
        num_res_blocks: of each level.
        head_channels: channels of one attention head.
        norm_groups: of the group normalisations.

    Raises:
        MissingExtraError: einops is not installed.
        SpecError: channels and attention of different length, channels that groups or heads do not
            divide.
    """
    require_extra("einops", "diffusion")
    from monai.networks.nets import DiffusionModelUNet

    dense = dense_output("diffusion_unet", outputs)
    if len(channels) != len(attention) or any(count % norm_groups for count in channels):
        raise SpecError(
            f"network: diffusion_unet: channels {list(channels)} and attention {list(attention)} with norm_groups "
            f"{norm_groups}; expected as many of both, and multiples of norm_groups"
        )
    wrong = [count for count, has in zip((*channels, channels[-1]), (*attention, True), strict=True) if has]
    if any(count % head_channels for count in wrong):
        raise SpecError(
            f"network: diffusion_unet: head_channels {head_channels} do not divide {wrong}, the channels of levels "
            "with attention and of the bottom; lower head_channels"
        )
    whole = DiffusionModelUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=outputs[dense] if dense else 1,
        num_res_blocks=num_res_blocks,
        channels=tuple(channels),
        attention_levels=tuple(attention),
        norm_num_groups=norm_groups,
        num_head_channels=head_channels,
    )
    encoder = DiffusionEncoder(whole)
    decoder = DiffusionDecoder(whole, encoder) if has_decoder(outputs) else None
    heads = heads_of(outputs, channels[-1], DenseHead(whole.out))
    network = Network(encoder, decoder, heads, multiple=2 ** (len(channels) - 1))
    network.aliases = renamed(whole, network)
    return network
