"""A predictor of networks that are told the site of each image."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from allograft.batch import Batch
from allograft.networks.dsbn import SiteNetwork
from allograft.predictor import Prediction, evaluation_mode
from allograft.predictor.direct import padded


@dataclass(frozen=True)
class SitePredictor:
    """A ``SiteNetwork`` on images of known sites and of others."""

    network: SiteNetwork

    def __call__(self, batch: Batch) -> Prediction:
        with evaluation_mode(self.network):
            return padded(_At(self.network, batch.site), batch.image)


@dataclass(frozen=True)
class _At:
    network: SiteNetwork
    site: Tensor

    @property
    def multiple(self) -> int:
        return self.network.multiple

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network(image, self.site)
        return outputs
