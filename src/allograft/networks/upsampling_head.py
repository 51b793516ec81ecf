"""A network with an added up-sampling layer in the place of its dense head, for tunings of a
pre-trained body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.deeplab import Enlarged
from allograft.networks.network import Network, build
from allograft.networks.parts import DenseHead

WIDTH = 8
"""Channels at twice the image's resolution."""


class UpsamplingHead(nn.Module):
    """(B, C', *spatial) -> (B, K, *spatial) logits, computed at twice the image's resolution.

    A transposed convolution doubles the decoded feature, and a strided one leads back to the
    image's grid.
    """

    def __init__(self, channels: int, classes: int, spatial_dims: int) -> None:
        super().__init__()
        up = nn.ConvTranspose2d if spatial_dims == 2 else nn.ConvTranspose3d
        down = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        norm = nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d
        self.up = nn.Sequential(up(channels, WIDTH, 2, stride=2), norm(WIDTH, affine=True), nn.LeakyReLU())
        self.down = down(WIDTH, classes, 2, stride=2)

    def forward(self, features: Sequence[Tensor], decoded: Tensor) -> Tensor:
        logits: Tensor = self.down(self.up(decoded))
        return logits


def upsampling_head(
    in_channels: int, outputs: Mapping[str, int], *, network: Mapping[str, Mapping[str, Any] | None]
) -> Network:
    """Another network of the table with an up-sampling layer added for ``mask``, which is tuned,
    with the label's head, under every scope.

    Mamalakis et al. 2024 add "an additional layer of an upsampling network" to a pre-trained body
    and say no more of it; the layer here is ours. Neither it nor the label's head counts in the
    10 % of ``scope: top``. MONAI's U-Net and DeepLab end in an up-sampling of their own, which is
    that layer. A head for images (``paired``) is the network's own.

    Args:
        in_channels: image channels.
        outputs: as the network takes them.
        network: ``{name: arguments}``: ``{swin_unetr: {feature_size: 24}}``.

    Raises:
        SpecError: not one network of the table, or one that does not give these outputs.
    """
    if len(network) != 1 or next(iter(network)) in ("custom", "upsampling_head") or "." in next(iter(network), "."):
        found = ", ".join(network) or "nothing"
        raise SpecError(
            f"network: upsampling_head: network: expected one {{name: {{...}}}} of our table, found {found}"
        )
    ((name, arguments),) = network.items()
    made = build({"build": {name: {"in_channels": in_channels, "outputs": dict(outputs), **(arguments or {})}}})
    assert isinstance(made, Network)
    head = made.heads["mask"] if "mask" in outputs else None
    if isinstance(head, DenseHead) and not isinstance(head.block, Enlarged):
        first = next(module for module in head.modules() if isinstance(module, (nn.Conv2d, nn.Conv3d)))
        dims = 2 if isinstance(first, nn.Conv2d) else 3
        made.heads["mask"] = UpsamplingHead(first.in_channels, outputs["mask"], dims)
        made.aliases = {theirs: ours for theirs, ours in made.aliases.items() if not ours.startswith("heads.mask.")}
    made.heads_are_added = True
    return made
