"""The signed-rank test of many samples at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from allograft.results.intervals import Floats

if TYPE_CHECKING:
    from allograft.study.keys import Alternative

EXACT = 50
"""Up to so many differences p is exact."""
CHUNK = 4_000_000
"""Numbers held at once while chances are counted."""


def signed_rank_p(differences: ArrayLike, alternative: Alternative = "two-sided") -> Floats:
    """P of the signed-rank test (Wilcoxon 1945) of each sample; zeros are dropped, and what is
    equal to 1e-12 is tied.

    Exact for up to 50 differences other than zero: the distribution of the sum of the (mid-)ranks
    over all 2^n signs, counted rather than listed. Beyond, the normal approximation with its
    correction for ties.

    Args:
        differences: (D, N).
        alternative: "greater": the differences tend to be above zero.

    Returns:
        (D,); nan where no difference is other than zero.

    >>> signed_rank_p([[0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.1, 0.0], [0.0, 0.0, 0.0, 0.0]]).tolist()
    [0.125, 0.25, nan]
    """
    from scipy.stats import rankdata

    values = np.round(np.asarray(differences, np.float64), 12)  # 0.8 - 0.7 and 0.3 - 0.2 are tied
    if not values.size:
        return np.full(len(values), np.nan)
    kept = (values != 0).sum(1)
    ranks = np.where(values != 0, rankdata(np.abs(values), axis=1) - (values == 0).sum(1, keepdims=True), 0.0)
    plus, total = np.where(values > 0, ranks, 0.0).sum(1), ranks.sum(1)
    greater, less = np.ones(len(values)), np.ones(len(values))
    few, many = np.flatnonzero((kept > 0) & (kept <= EXACT)), np.flatnonzero(kept > EXACT)
    step = max(1, CHUNK // (int(2 * total.max()) + 1))
    for part in (few[start : start + step] for start in range(0, len(few), step)):
        greater[part], less[part] = _counted(ranks[part], plus[part])
    greater[many], less[many] = _approximated(ranks[many], plus[many], kept[many])
    p = {"greater": greater, "less": less, "two-sided": np.minimum(1, 2 * np.minimum(greater, less))}[alternative]
    return np.asarray(np.where(kept, p, np.nan), np.float64)


def _counted(ranks: Floats, plus: Floats) -> tuple[Floats, Floats]:
    """Chance of a sum of ranks at least, and at most, as large as found."""
    doubled, observed = np.rint(2 * ranks).astype(int), np.rint(2 * plus).astype(int)
    sums = np.arange(int(doubled.sum(1).max()) + 1)
    chances = np.zeros((len(ranks), len(sums)))
    chances[:, 0] = 1.0
    for rank in doubled.T[..., None]:  # with chance one half the sum grows by the rank
        shifted = np.take_along_axis(chances, np.maximum(sums - rank, 0), 1)
        chances = (chances + np.where(sums >= rank, shifted, 0.0)) / 2
    at_most = np.where(sums <= observed[:, None], chances, 0.0).sum(1)
    return np.where(sums >= observed[:, None], chances, 0.0).sum(1), at_most


def _approximated(ranks: Floats, plus: Floats, kept: np.ndarray) -> tuple[Floats, Floats]:
    """The same by the normal distribution with the variance of the ranks as they are, sum of rank^2
    / 4, which holds ties."""
    from scipy.special import ndtr

    z = (plus - kept * (kept + 1) / 4) / np.sqrt((ranks**2).sum(1) / 4) if len(ranks) else plus
    return np.asarray(ndtr(-z)), np.asarray(ndtr(z))
