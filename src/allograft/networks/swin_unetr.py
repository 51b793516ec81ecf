"""Swin UNETR (Hatamizadeh et al. 2022), MONAI's modules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.networks.network import Network
from allograft.networks.parts import DenseHead, SkipDecoder, check_bottom, dense_output, has_decoder, heads_of, renamed

STRIDE = 32


class SwinUnetrEncoder(nn.Module):
    """(B, C, *spatial) -> six features at strides 1, 2, 4, 8, 16, 32.

    A level is a stage of the transformer, if it has one, and the residual block between stage and
    decoder, if it has one. These blocks hold most of the weights; MONAI calls them encoder1 to
    encoder10, and here they belong to the encoder.
    """

    def __init__(self, whole: Any) -> None:
        super().__init__()
        vit = whole.swinViT
        stages = [None, vit.patch_embed, vit.layers1[0], vit.layers2[0], vit.layers3[0], vit.layers4[0]]
        skips = [whole.encoder1, whole.encoder2, whole.encoder3, whole.encoder4, None, whole.encoder10]
        self.levels = nn.ModuleList(
            nn.ModuleDict({name: block for name, block in (("stage", stage), ("skip", skip)) if block is not None})
            for stage, skip in zip(stages, skips, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        check_bottom("swin_unetr", image, STRIDE)
        features, hidden = [], image
        for level in self.levels:
            assert isinstance(level, nn.ModuleDict)
            feature = hidden
            if "stage" in level:
                hidden = run_stage(level["stage"], hidden.contiguous())
                feature = F.layer_norm(hidden.movedim(1, -1), hidden.shape[1:2]).movedim(-1, 1)
            features.append(level["skip"](feature) if "skip" in level else feature)
        return features


def run_stage(stage: Any, hidden: Tensor) -> Tensor:
    """The patch embedding, or a stage of windowed attention, on (B, C, *spatial); as MONAI runs it,
    whose own needs another library."""
    from monai.networks.nets.swin_unetr import BasicLayer, compute_mask, get_window_size

    if not isinstance(stage, BasicLayer):
        embedded: Tensor = stage(hidden)
        return embedded
    frozen = not hidden.requires_grad and not any(parameter.requires_grad for parameter in stage.parameters())
    size = tuple(hidden.shape[2:])
    window, shift = get_window_size(size, stage.window_size, stage.shift_size)
    whole = [math.ceil(length / side) * side for length, side in zip(size, window, strict=True)]
    mask = compute_mask(whole, window, shift, hidden.device)
    tokens = hidden.movedim(1, -1).contiguous()
    with torch.set_grad_enabled(
        torch.is_grad_enabled() and not frozen
    ):  # MONAI's fused attention runs only where autograd is off
        for block in stage.blocks:
            tokens = block(tokens, mask)
        if stage.downsample is not None:
            tokens = stage.downsample(tokens)
    return tokens.movedim(-1, 1)


def swin_unetr(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 3,
    feature_size: int = 24,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
    window_size: int = 7,
    drop_path: float = 0.0,
    use_checkpoint: bool = False,
) -> Network:
    """Swin UNETR for 2-D and 3-D segmentation; images larger than 32 along an axis.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the bottom feature, or both.
        spatial_dims: 2 or 3.
        feature_size: channels of the first level, a multiple of 12.
        depths, num_heads: of each stage of the transformer.
        window_size: of the attention, along each axis.
        drop_path: largest rate of stochastic depth.
        use_checkpoint: compute the transformer twice to save memory.
    """
    from monai.networks.nets import SwinUNETR

    dense = dense_output("swin_unetr", outputs)
    whole = SwinUNETR(
        in_channels=in_channels,
        out_channels=outputs[dense] if dense else 1,
        spatial_dims=spatial_dims,
        feature_size=feature_size,
        depths=tuple(depths),
        num_heads=tuple(num_heads),
        window_size=window_size,
        dropout_path_rate=drop_path,
        use_checkpoint=use_checkpoint,
        use_flash_attention=True,
    )
    ups = [whole.decoder5, whole.decoder4, whole.decoder3, whole.decoder2, whole.decoder1]
    heads = heads_of(outputs, 16 * feature_size, DenseHead(whole.out))
    network = Network(
        SwinUnetrEncoder(whole), SkipDecoder(ups) if has_decoder(outputs) else None, heads, multiple=STRIDE
    )
    network.aliases = renamed(whole, network)
    return network
