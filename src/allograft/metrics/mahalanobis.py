"""How far features lie from those of the training images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.errors import SpecError


@dataclass(frozen=True)
class TiedGaussian:
    """One Gaussian per class with a covariance that all share (Lee et al. 2018, section 2.1).

    Where we differ: the covariance is shrunk towards a multiple of the identity (Ledoit and Wolf
    2004), since there are often fewer cases than features; the features are those of one layer.

    Args:
        means: (C, D).
        precision: (D, D), the inverse of the shared covariance.
    """

    means: Tensor
    precision: Tensor

    @staticmethod
    def fit(features: Tensor, label: Tensor | None = None) -> TiedGaussian:
        """Fit to (N, D) features, in float64.

        Args:
            label: (N,) int64; None = a single Gaussian.

        Raises:
            SpecError: fewer than two features to fit, or features that are all the same.
        """
        from sklearn.covariance import ledoit_wolf

        features = features.double()
        label = torch.zeros(len(features), dtype=torch.int64) if label is None else label
        present = label.unique()
        if len(features) < 2:
            raise SpecError(f"a distance to the training images needs at least 2 of them, found {len(features)}")
        means = torch.stack([features[label == one].mean(0) for one in present])
        apart = features - means[torch.searchsorted(present, label)]
        covariance = torch.from_numpy(ledoit_wolf(apart.numpy(), assume_centered=True)[0])
        if not float(covariance.trace()) > 0:
            raise SpecError("the features of all training images are the same, so nothing is far from them")
        return TiedGaussian(means, torch.linalg.inv(covariance))

    def distance(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distance to the nearest class (Lee et al. 2018, equation 2, without
        its sign): (..., D) -> (...), float64.

        >>> square = TiedGaussian(torch.zeros(1, 2).double(), torch.diag(torch.tensor([1.0, 0.25])).double())
        >>> square.distance(torch.tensor([[3.0, 4.0]])).tolist()
        [13.0]
        """
        apart = features.double().cpu()[..., None, :] - self.means
        return torch.einsum("...cd,de,...ce->...c", apart, self.precision, apart).amin(-1)
