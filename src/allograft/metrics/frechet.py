"""The Fréchet distance of two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from allograft.errors import SpecError


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), of normal distributions with the sets' means and
    covariances (over N - 1); in float64.

    Sets of fewer features than dimensions give a singular covariance, for which the distance is
    defined too; with few features it is biased upwards, so compare sets of the same size.

    Args:
        first, second: (N, C), (M, C), of at least two features each.

    Example:
        >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
        9.0
    """
    if min(len(first), len(second)) < 2 or first.shape[1:] != second.shape[1:]:
        raise SpecError(
            f"frechet_distance: found features of {tuple(first.shape)} and {tuple(second.shape)}; expected (N, C) and "
            "(M, C) with at least 2 rows"
        )
    means = [each.double().mean(0) for each in (first, second)]
    centred, other = ((each.double() - mean) for each, mean in zip((first, second), means, strict=True))
    centred, other = centred / (len(centred) - 1) ** 0.5, other / (len(other) - 1) ** 0.5
    # with S1 = a^T a and S2 = b^T b, the singular values of a b^T are the roots of S1 S2's
    # eigenvalues
    crossed = torch.linalg.svdvals(centred @ other.T).sum()
    distance = (means[0] - means[1]).square().sum() + centred.square().sum() + other.square().sum() - 2 * crossed
    return max(0.0, float(distance))
