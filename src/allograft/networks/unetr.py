"""UNETR (Hatamizadeh et al. 2022), MONAI's modules: a vision transformer under a convolutional
decoder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.network import Network
from allograft.networks.parts import DenseHead, SkipDecoder, dense_output, has_decoder, heads_of, renamed

TOKEN = 16
"""Pixels of a patch along every axis; the decoder doubles four times."""
LAST = (3, 6, 9, 11)
"""The last block of the transformer in each level after the first."""


class UnetrEncoder(nn.Module):
    """(B, C, *spatial) -> five features at strides 1, 2, 4, 8, 16.

    The first is of the image itself; the others are of the transformer's tokens after its blocks 4,
    7, 10 and 12, the last one with the transformer's norm and as it is, those between brought up to
    their stride by convolutions. MONAI calls these blocks between encoder1 to encoder4, and here
    they belong to the encoder.

    Args:
        whole: MONAI's ``UNETR``.
        grid: of the tokens that its position table is made for; the table is resampled for others.
        width: channels of the first feature.
    """

    token_size = TOKEN
    strides: ClassVar[list[int]] = [1, 2, 4, 8, TOKEN]

    def __init__(self, whole: Any, grid: Sequence[int], width: int) -> None:
        super().__init__()
        vit = whole.vit
        begins = (0, *(last + 1 for last in LAST))
        stages = [nn.Sequential(*vit.blocks[a:b]) for a, b in itertools.pairwise(begins)]
        stages[-1].append(vit.norm)
        skips = [whole.encoder2, whole.encoder3, whole.encoder4]
        self.grid = tuple(grid)
        self.token_channels = int(whole.hidden_size)
        self.channels = [width, 2 * width, 4 * width, 8 * width, self.token_channels]
        self.levels = nn.ModuleList(
            [
                nn.ModuleDict({"embedding": vit.patch_embedding, "skip": whole.encoder1}),
                *(nn.ModuleDict({"stage": stage, "skip": skip}) for stage, skip in zip(stages, skips, strict=False)),
                nn.ModuleDict({"stage": stages[-1]}),
            ]
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        first, *others = self.levels
        assert isinstance(first, nn.ModuleDict)
        tokens = self.encode(self.embed(image))
        features = [first["skip"](image)]
        for level, feature in zip(others, tokens, strict=True):
            assert isinstance(level, nn.ModuleDict)
            features.append(level["skip"](feature) if "skip" in level else feature)
        return features

    def embed(self, image: Tensor) -> Tensor:
        """See ``TokenEncoder``."""
        if any(side < TOKEN for side in image.shape[2:]):
            size = "x".join(map(str, image.shape[2:]))
            raise SpecError(
                f"network unetr: an image of {size} is smaller than a patch of {TOKEN}; set preprocessing: size, or "
                "patch"
            )
        embedding: Any = self.levels[0]
        tokens: Tensor = embedding["embedding"].patch_embeddings(image)
        return tokens.movedim(1, -1)

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """The tokens (B, C, *grid) at the end of each level after the first, the last one
        normalised; see ``TokenEncoder``."""
        embedding: Any = self.levels[0]
        grid, features = tokens.shape[1:-1], []
        row = embedding["embedding"].dropout(tokens.flatten(1, -2) + self._positions(grid))
        for level in list(self.levels)[1:]:
            assert isinstance(level, nn.ModuleDict)
            row = level["stage"](row)
            features.append(row.mT.unflatten(2, grid))
        return features

    def _positions(self, grid: Sequence[int]) -> Tensor:
        embedding: Any = self.levels[0]
        table: Tensor = embedding["embedding"].position_embeddings
        if tuple(grid) == self.grid:
            return table
        mode = "bicubic" if len(grid) == 2 else "trilinear"
        laid = table.mT.unflatten(2, self.grid)
        return F.interpolate(laid, size=tuple(grid), mode=mode, align_corners=False).flatten(2).mT


def unetr(
    in_channels: int,
    outputs: Mapping[str, int],
    *,
    spatial_dims: int = 3,
    image_size: int | Sequence[int] = 96,
    feature_size: int = 16,
    hidden_size: int = 768,
    mlp_dim: int = 3072,
    num_heads: int = 12,
    dropout: float = 0.0,
) -> Network:
    """UNETR for 2-D and 3-D segmentation: patches of 16, twelve blocks; images of any size from 16
    on.

    Args:
        in_channels: image channels.
        outputs: ``{"mask": K}``, ``{"label": K}`` from the last tokens, or both.
        spatial_dims: 2 or 3.
        image_size: the size, or sizes, its position table is made for; multiples of 16. The table
            is resampled for others.
        feature_size: channels of the first level.
        hidden_size, mlp_dim, num_heads: of the transformer.
        dropout: rate in the transformer.
    """
    from monai.networks.nets import UNETR

    dense = dense_output("unetr", outputs)
    size = (image_size,) * spatial_dims if isinstance(image_size, int) else tuple(image_size)
    if len(size) != spatial_dims or any(side % TOKEN or not side for side in size):
        raise SpecError(
            f"network unetr: image_size is {image_size}; expected {spatial_dims} multiples of {TOKEN}, or one number"
        )
    whole = UNETR(
        in_channels=in_channels,
        out_channels=outputs[dense] if dense else 1,
        img_size=size,
        feature_size=feature_size,
        hidden_size=hidden_size,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        dropout_rate=dropout,
        spatial_dims=spatial_dims,
    )
    ups = [whole.decoder5, whole.decoder4, whole.decoder3, whole.decoder2]
    heads = heads_of(outputs, hidden_size, DenseHead(whole.out))
    encoder = UnetrEncoder(whole, [side // TOKEN for side in size], feature_size)
    network = Network(encoder, SkipDecoder(ups) if has_decoder(outputs) else None, heads, multiple=TOKEN)
    network.aliases = renamed(whole, network)
    return network
