"""Every network of the table, small enough to train in a moment, in 2-D and 3-D, and images to go
with each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allograft.networks import Network, build
from allograft.phantoms.brain import SHIFTS, acquire, anatomy
from allograft.seeds import Seeds

BOTH = {"mask": 2, "label": 3}


@dataclass(frozen=True)
class Tiny:
    """A network small enough to train in a moment."""

    name: str
    arguments: dict[str, Any]
    outputs: dict[str, int]
    size: tuple[int, ...]
    channels: tuple[int, ...]


DIFFUSION = {"channels": [4, 8], "attention": [False, True], "num_res_blocks": 1, "head_channels": 8, "norm_groups": 4}

TINY = {
    "unet": Tiny("unet", {"channels": [4, 8, 8]}, BOTH, (16, 16), (4, 8, 8)),
    "unet-3d": Tiny("unet", {"spatial_dims": 3, "channels": [4, 8, 8]}, BOTH, (8, 8, 8), (4, 8, 8)),
    "dynunet": Tiny("dynunet", {"channels": [4, 8, 8]}, BOTH, (16, 16), (4, 8, 8)),
    "dynunet-3d": Tiny(
        "dynunet", {"spatial_dims": 3, "channels": [4, 8, 8], "residual": True}, BOTH, (8, 8, 8), (4, 8, 8)
    ),
    "segresnet": Tiny(
        "segresnet", {"init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}, BOTH, (16, 16), (8, 16)
    ),
    "segresnet-3d": Tiny(
        "segresnet",
        {"spatial_dims": 3, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]},
        BOTH,
        (8,) * 3,
        (8, 16),
    ),
    "diffusion_unet": Tiny("diffusion_unet", {"spatial_dims": 2, **DIFFUSION}, BOTH, (16, 16), (4, 4, 4, 8, 8)),
    "diffusion_unet-3d": Tiny("diffusion_unet", {"spatial_dims": 3, **DIFFUSION}, BOTH, (8, 8, 8), (4, 4, 4, 8, 8)),
    "upsampling_head": Tiny(
        "upsampling_head", {"network": {"dynunet": {"channels": [4, 8, 8]}}}, BOTH, (16, 16), (4, 8, 8)
    ),
    "upsampling_head-3d": Tiny(
        "upsampling_head",
        {"network": {"segresnet": {"spatial_dims": 3, "init_filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}},
        BOTH,
        (8,) * 3,
        (8, 16),
    ),
    "swin_unetr": Tiny(
        "swin_unetr",
        {"spatial_dims": 2, "feature_size": 12, "depths": [2, 1, 1, 1], "window_size": 3},
        BOTH,
        (64, 64),
        (12, 12, 24, 48, 96, 192),
    ),
    "swin_unetr-3d": Tiny(
        "swin_unetr",
        {"feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 2},
        BOTH,
        (64, 32, 32),
        (12, 12, 24, 48, 96, 192),
    ),
    "unetr": Tiny(
        "unetr",
        {"spatial_dims": 2, "image_size": 32, "feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
        BOTH,
        (48, 32),
        (4, 8, 16, 32, 12),
    ),
    "unetr-3d": Tiny(
        "unetr",
        {"image_size": [32, 16, 16], "feature_size": 4, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2},
        BOTH,
        (32, 16, 16),
        (4, 8, 16, 32, 12),
    ),
    "transformer_unet": Tiny(
        "transformer_unet",
        {"channels": [4, 8, 8], "image_size": 16, "hidden_size": 12, "mlp_dim": 12, "num_heads": 2, "depth": 2},
        BOTH,
        (16, 24),
        (4, 8, 8),
    ),
    "transformer_unet-3d": Tiny(
        "transformer_unet",
        {
            "spatial_dims": 3,
            "channels": [4, 8, 8],
            "image_size": [8, 8, 16],
            "hidden_size": 12,
            "mlp_dim": 12,
            "num_heads": 2,
            "depth": 1,
        },
        BOTH,
        (8, 8, 16),
        (4, 8, 8),
    ),
    "deeplabv3plus": Tiny(
        "deeplabv3plus", {"encoder": "resnet18", "channels": 8}, BOTH, (32, 32), (64, 64, 128, 256, 512)
    ),
    "timm_unet": Tiny("timm_unet", {"decoder_channels": [8, 8, 4, 4, 4]}, BOTH, (64, 32), (64, 64, 128, 256, 512)),
    "resnet": Tiny("resnet", {"small_stem": True}, {"label": 3}, (12, 12), (64, 64, 128, 256, 512)),
    "resnet-3d": Tiny("resnet", {"spatial_dims": 3}, {"label": 3}, (12, 12, 12), (64, 64, 128, 256, 512)),
    "densenet121": Tiny("densenet121", {}, {"label": 3}, (32, 32), (64, 256, 512, 1024, 1024)),
    "densenet121-3d": Tiny("densenet121", {"spatial_dims": 3}, {"label": 3}, (32, 32, 32), (64, 256, 512, 1024, 1024)),
    "vit": Tiny(
        "vit",
        {"image_size": 16, "patch_size": 4, "embed_dim": 8, "depth": 3, "num_heads": 2},
        {"label": 3},
        (14, 18),
        (8, 8, 8),
    ),
    "swin": Tiny(
        "swin",
        {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4},
        {"label": 3},
        (14, 18),
        (8, 16),
    ),
    "stain_cnn": Tiny("stain_cnn", {"channels": [4, 8, 8]}, {"label": 3}, (16, 16), (4, 8, 8)),
    "timm": Tiny("timm", {"name": "mobilenetv3_small_050"}, {"label": 3}, (32, 32), (16, 8, 16, 24, 288)),
}


@cache
def made(key: str) -> Network:
    tiny = TINY[key]
    with Seeds(0).everything():
        network = build({"build": {tiny.name: {"in_channels": 1, "outputs": tiny.outputs, **tiny.arguments}}})
    assert isinstance(network, Network)
    return network


def images(key: str, cases: int = 2) -> Tensor:
    """Phantoms of the brain, z-scored."""
    scans = []
    for number in range(cases):
        rng = np.random.default_rng(number)
        scans.append(torch.from_numpy(acquire(anatomy(rng, TINY[key].size), SHIFTS["none"], rng)))
    stacked = torch.stack(scans)[:, None]
    return (stacked - stacked.mean()) / stacked.std()
