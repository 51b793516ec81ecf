"""Between embedding and body: transformers whose tokens can be changed before the first block."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network


@runtime_checkable
class TokenEncoder(Protocol):
    """An encoder that embeds patches of an image and then works on the tokens:
    ``encode(embed(image))`` computes what the encoder does.

    Args:
        channels, strides: of the features, finest first.
    """

    channels: list[int]
    strides: list[int]

    @property
    def token_size(self) -> int:
        """Pixels of a patch along every axis."""

    @property
    def token_channels(self) -> int:
        """Channels of a token."""

    def embed(self, image: Tensor) -> Tensor:
        """(B, C, *spatial) -> tokens (B, *grid, token_channels), without positions."""

    def encode(self, tokens: Tensor) -> list[Tensor]:
        """Tokens -> features (B, C', *spatial'), finest first; the last is the encoder's last."""


def token_encoder(network: AnyNetwork, who: str) -> TokenEncoder:
    """The encoder of a network whose tokens can be changed.

    Raises:
        SpecError: a network without such an encoder; ``who`` is named as asking for it.
    """
    encoder: object = network.encoder if isinstance(network, Network) else None
    if isinstance(encoder, TokenEncoder) and encoder.token_size:
        return encoder
    name = next(iter(network.spec["build"]))
    raise SpecError(f"{who}: network '{name}' embeds no patches as tokens; choose vit, swin or unetr")
