"""Surgery that gives every batch normalisation of a network a branch for each site."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network
from allograft.nn.dsbn import DomainBatchNorm, at_domains

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class SiteNetwork(Network):
    """A network that is told its images' sites.

    An image of another site gets the mean of what it would get at each known one; of logits that is
    the geometric mean of the probabilities. So does one without a site, for methods that know
    nothing of sites.

    Args:
        network: what is taken apart; its batch normalisations are ``DomainBatchNorm`` already.
        sites: names, in the order of the branches.
    """

    def __init__(self, network: Network, sites: Sequence[str]) -> None:
        super().__init__(
            network.encoder, network.decoder, dict(network.heads), multiple=network.multiple, aliases=network.aliases
        )
        self.sites = tuple(sites)

    def forward(self, image: Tensor, site: Tensor | None = None) -> dict[str, Tensor]:
        """Images (B, C, *spatial) and the index of each one's site (B,), -1 for an unknown one ->
        outputs, keyed like labels."""
        if site is None:
            site = torch.full((len(image),), -1, device=image.device)
        known = site >= 0
        if bool(known.all()):
            return self._at(image, site)
        strange = [
            self._at(image[~known], torch.full_like(site[~known], site_index)) for site_index in range(len(self.sites))
        ]
        outputs = {key: torch.stack([each[key] for each in strange]).mean(0) for key in strange[0]}
        if not bool(known.any()):
            return outputs
        order = torch.cat([known.nonzero()[:, 0], (~known).nonzero()[:, 0]]).argsort()
        return {
            key: torch.cat([value, outputs[key]])[order] for key, value in self._at(image[known], site[known]).items()
        }

    def _at(self, image: Tensor, site: Tensor) -> dict[str, Tensor]:
        with at_domains(self, site):
            return super().forward(image)


def add_dsbn(network: AnyNetwork, *, sites: Sequence[str]) -> SiteNetwork:
    """Replace each batch normalisation by a ``DomainBatchNorm`` whose branches begin with its
    weights and statistics.

    Raises:
        SpecError: no site, an opaque network, or one without plain batch normalisations.
    """
    if not sites or not isinstance(network, Network):
        raise SpecError(
            f"dsbn: {len(sites)} sites and a {type(network).__name__}; expected at least one, and a network of our "
            "table"
        )
    places = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if type(child) in PLAIN
    ]
    if not places:
        raise SpecError(
            "dsbn: the network has no plain batch normalisation; choose one that has, e.g. network: {unet: {norm: "
            "batch}}"
        )
    for parent, name, child in places:
        setattr(parent, name, DomainBatchNorm(child, len(sites)))  # type: ignore[arg-type]
    return SiteNetwork(network, sites)
