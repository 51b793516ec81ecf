"""How likely a row that looks better is not: the probability of a false claim."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from allograft.results.intervals import Floats


def false_claim(difference: ArrayLike, error: ArrayLike, dof: ArrayLike, shrinkage: ArrayLike = 1.0) -> Floats:
    """Probability that a row is no better than the one it is compared with, given a mean paired
    difference.

    With a flat prior (``shrinkage`` 1) it is t(n - 1) at - difference / error, the formula of
    Christodoulou et al. (False Promises in Medical Imaging AI, arXiv 2505.04720) for scores per
    case: error = sqrt(s_a^2 + s_b^2 - 2 s_a s_b r) / sqrt(n) is the standard error of the paired
    difference. That is the one-sided p of the paired t-test, and says nothing more.

    With the normal prior of ``shrinkage`` the difference is pulled towards 0 by the factor B, and
    its error by sqrt(B), so that the argument is sqrt(B) times as large.

    Args:
        difference, error: of the mean over subjects, (...).
        dof: degrees of freedom of the error.

    Returns:
        (...) in [0, 1]; one half where shrinkage is 0, or where there is neither difference nor
        error.

    >>> round(float(false_claim(0.02, 0.01, 9)), 4)
    0.0383
    """
    from scipy.special import stdtr

    gap, scale = np.asarray(difference, np.float64), np.asarray(error, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where((scale == 0) & (gap == 0), 0.0, gap / scale) * np.sqrt(shrinkage)
    return np.asarray(stdtr(dof, -np.nan_to_num(t, posinf=1e9, neginf=-1e9)), np.float64)


def shrinkage(differences: ArrayLike, errors: ArrayLike) -> Floats:
    """How much of each row's difference is signal, judged from all rows of a table together
    (empirical Bayes).

    Each row's true difference is taken as drawn from a normal distribution about 0, with the
    variance that the rows show beyond their errors: tau^2 = max(0, mean(d^2 - e^2)) (Morris 1983,
    by moments). About 0 and not about the rows' mean, since all rows are compared with one and the
    same, whose own error moves them all.

    Args:
        differences, errors: (K,).

    Returns:
        (K,) tau^2 / (tau^2 + e^2) in [0, 1]; 0 for all where the rows vary no more than their
        errors.

    >>> shrinkage([0.3, 0.1, 0.0], [0.1, 0.1, 0.1]).round(2).tolist(), shrinkage([0.05, -0.05], [0.1, 0.1]).tolist()
    ([0.7, 0.7, 0.7], [0.0, 0.0])
    """
    d, e = np.asarray(differences, np.float64), np.asarray(errors, np.float64)
    signal = max(0.0, float((d**2 - e**2).mean()))
    return np.asarray(signal / (signal + e**2) if signal > 0 else np.zeros_like(e), np.float64)


def false_claim_of_accuracy(only_a: int, only_b: int) -> float:
    """Probability that a classifier that is right more often than another is not, from the cases on
    which one of them alone is right.

    Of n cases both are right on some and neither on others. With a flat Dirichlet prior on these
    four shares (Christodoulou et al., arXiv 2505.04720) the posterior of "a alone", "b alone" and
    the rest is Dirichlet(only_a + 1, only_b + 1, n - only_a - only_b + 2), and P(a <= b) depends on
    the discordant cases alone: it is the share of Beta(only_a + 1, only_b + 1) below one half.

    >>> false_claim_of_accuracy(3, 0)  # (1 / 2) ** 4
    0.0625
    """
    from scipy.special import betainc

    return float(betainc(only_a + 1, only_b + 1, 0.5))
