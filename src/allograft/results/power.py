"""How many subjects a difference needs, and how small a difference so many subjects can show; never
power at the observed effect."""

from __future__ import annotations

import math

import numpy as np

from allograft.results.intervals import Floats

MOST = 100_000
"""Subjects beyond which nobody looks."""


def power(effect: float | Floats, subjects: int | Floats, level: float = 0.05) -> Floats:
    """Power of the two-sided paired t-test at ``level``, for a mean difference of ``effect``
    standard deviations of the differences.

    >>> round(float(power(0.5, 34)), 3)  # Cohen (1988): 34 pairs for 80 %
    0.808
    """
    from scipy.special import nctdtr, stdtrit

    n = np.asarray(subjects, np.float64)
    reach, shift = stdtrit(n - 1, 1 - level / 2), np.abs(effect) * np.sqrt(n)
    # SciPy has no number where it is below 1e-12
    wrong_sign = np.nan_to_num(nctdtr(n - 1, shift, -reach))
    return np.asarray(1 - nctdtr(n - 1, shift, reach) + wrong_sign, np.float64)


def subjects_needed(margin: float, sd: float, level: float = 0.05, wanted: float = 0.8) -> int | None:
    """Subjects with which a paired t-test at ``level`` finds a mean difference of ``margin`` with
    the power ``wanted``.

    Args:
        margin: the difference that matters, named beforehand.
        sd: standard deviation of the paired differences over subjects.

    Returns:
        At least 2; None beyond a hundred thousand.

    >>> subjects_needed(0.5, 1.0), subjects_needed(0.02, 0.01)
    (34, 5)
    """
    if sd <= 0:
        return 2
    high = 2
    while power(margin / sd, high, level) < wanted:
        if high > MOST:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(margin / sd, middle, level) >= wanted else (middle, high)
    return high


def smallest_difference(sd: float, subjects: int, level: float = 0.05, wanted: float = 0.8) -> float:
    """The smallest mean difference that a paired t-test on so many subjects finds with the power
    ``wanted``.

    >>> round(smallest_difference(1.0, 34), 3)
    0.495
    """
    from scipy.optimize import brentq

    if sd <= 0:
        return 0.0
    high = 1.0
    while power(high, subjects, level) < wanted:
        high *= 2
    return float(sd * brentq(lambda effect: float(power(effect, subjects, level)) - wanted, 0.0, high))


def sd_limits(sd: float, subjects: int, level: float = 0.95) -> tuple[float, float]:
    """Limits of a standard deviation over so many subjects, by chi-square.

    >>> [round(limit, 3) for limit in sd_limits(1.0, 8)]
    [0.661, 2.035]
    """
    from scipy.special import chdtri

    dof = subjects - 1
    low, high = (1 - level) / 2, (1 + level) / 2
    return sd * math.sqrt(dof / chdtri(dof, low)), sd * math.sqrt(dof / chdtri(dof, high))
