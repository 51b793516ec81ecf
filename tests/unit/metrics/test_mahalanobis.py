"""Distances to training features, against a loop from the paper and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from allograft.errors import SpecError
from allograft.metrics.mahalanobis import TiedGaussian


def features(count: int, size: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    return torch.randn(count, size, generator=rng, dtype=torch.float64) @ torch.diag(
        torch.arange(1.0, size + 1).double()
    )


def test_one_gaussian_is_scikit_learns() -> None:
    known, new = features(12, 20), features(15, 20)[12:]  # fewer cases than features
    reference = LedoitWolf().fit(known.numpy()).mahalanobis(new.numpy())
    np.testing.assert_allclose(TiedGaussian.fit(known).distance(new), reference, rtol=1e-9)


def test_several_classes_share_a_covariance_and_the_nearest_counts() -> None:
    known, label = features(30, 4), torch.tensor([0, 2, 5] * 10)
    known[label == 2] += 8
    new = features(34, 4)[30:]
    # equations 1 and 2, as a loop
    means = {c: known[label == c].mean(0).numpy() for c in (0, 2, 5)}
    apart = np.stack([row.numpy() - means[int(c)] for row, c in zip(known, label, strict=True)])
    precision = np.linalg.inv(LedoitWolf(assume_centered=True).fit(apart).covariance_)
    expected = [min((row - m) @ precision @ (row - m) for m in means.values()) for row in new.numpy()]
    np.testing.assert_allclose(TiedGaussian.fit(known, label).distance(new), expected, rtol=1e-9)
    assert float(TiedGaussian.fit(known, label).distance(torch.from_numpy(means[2]))) == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(SpecError, match="needs at least 2 of them, found 1"):
        TiedGaussian.fit(features(1, 3))
    with pytest.raises(SpecError, match="are the same"):
        TiedGaussian.fit(torch.ones(4, 3))
