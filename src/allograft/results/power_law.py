"""A learning curve fitted to a few budgets, and what the next labels are expected to bring, with an
interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from allograft.results.intervals import Floats, quantile

FEWEST = 5
"""Budgets below which a curve of three parameters is not fitted."""
RATES = np.geomspace(0.05, 4.0, 200)
"""The rates that are tried. Below the first a curve is a logarithm without a ceiling, above the
last all of it is gained between the first two budgets."""
DRAWS, NORMAL = 999, 1.959964
"""Resamples of an interval, and the normal quantile that its percentiles stand for."""
MOST_AT_AN_END = 0.1
"""Share of resamples that may lie at either end of ``RATES`` before a curve counts as not
identifiable."""


@dataclass(frozen=True)
class Power:
    """``score = ceiling - drop * n ** -rate``."""

    ceiling: float
    drop: float
    rate: float

    def __call__(self, n: float) -> float:
        """The score at ``n`` labels."""
        return float(self.ceiling - self.drop * n**-self.rate)


@dataclass(frozen=True)
class Fit:
    """A learning curve, and what ``more`` labels beyond the largest budget are expected to bring.

    Args:
        curve: the least-squares fit.
        more: how many labels more.
        gain: the score of the curve there less that at the largest budget.
        low, high: its 95 % interval; None where nothing can be resampled.
        over: what was resampled: "subjects and seeds", "subjects", "seeds", or "".
        ceiling: 95 % interval of the ceiling, or None.
        unclear: why the curve is not identifiable, as a clause; "" where it is.
    """

    curve: Power
    more: float
    gain: float
    low: float | None = None
    high: float | None = None
    over: str = ""
    ceiling: tuple[float, float] | None = None
    unclear: str = ""


def fit_power(budgets: ArrayLike, scores: ArrayLike, *, most: float = math.inf) -> tuple[Floats, Floats, Floats]:
    """Least squares of ``score = a - b n^-c`` for many curves at once, over the rates of ``RATES``.

    Given c the curve is a straight line in n^-c, so a and b are in closed form and only c is
    searched. A rising curve (b > 0) has a ceiling of at most ``most``: where the line would pass
    it, a is ``most`` and b is fitted alone.

    Args:
        budgets: (K,) numbers of labels, K >= 3, above 0.
        scores: (..., K).
        most: the largest value that the score can have.

    Returns:
        a, b and c, (...) each.

    >>> budgets = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    >>> [round(float(value), 2) for value in fit_power(budgets, 0.8 - 0.3 / budgets)]
    [0.8, 0.3, 1.0]
    """
    a, b, error = _lines(np.asarray(budgets, np.float64), np.asarray(scores, np.float64), RATES, most)
    at = error.argmin(-1)[..., None]
    return np.take_along_axis(a, at, -1)[..., 0], np.take_along_axis(b, at, -1)[..., 0], RATES[at[..., 0]]


def _lines(n: Floats, y: Floats, rates: Floats, most: float) -> tuple[Floats, Floats, Floats]:
    """For each of G rates the line y = a - b x in x = n^-rate, and its sum of squares: (K,), (...,
    K) -> (..., G) each."""
    x = n ** -rates[:, None]
    centred, rest = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    square = (centred**2).sum(-1)
    product = rest @ centred.T
    b = -product / square
    a = y.mean(-1)[..., None] + b * x.mean(-1)
    error = (rest**2).sum(-1)[..., None] - product**2 / square
    passes = (b > 0) & (a > most)
    if passes.any():
        below, square = most - y, (x**2).sum(-1)
        held = below @ x.T / square
        error = np.where(passes, (below**2).sum(-1)[..., None] - held**2 * square, error)
        a, b = np.where(passes, most, a), np.where(passes, held, b)
    return a, b, error


def fit_curve(budgets: ArrayLike, scores: ArrayLike, *, most: float = math.inf) -> Power:
    """The same of one curve, (K,), with the rate searched between the points of the grid
    (``scipy.optimize.minimize_scalar``)."""
    from scipy.optimize import minimize_scalar

    n, y = np.asarray(budgets, np.float64), np.asarray(scores, np.float64)

    def line(rate: float) -> tuple[float, float, float]:
        a, b, error = _lines(n, y, np.array([rate]), most)
        return float(a[0]), float(b[0]), float(error[0])

    at = int(_lines(n, y, RATES, most)[2].argmin())
    ends = (math.log(RATES[max(at - 1, 0)]), math.log(RATES[min(at + 1, len(RATES) - 1)]))
    searched = minimize_scalar(
        lambda log: line(math.exp(log))[2], bounds=ends, method="bounded", options={"xatol": 1e-9}
    )
    rate = min((float(RATES[at]), math.exp(searched.x)), key=lambda rate: line(rate)[2])
    return Power(*line(rate)[:2], rate)


def expected_gain(
    budgets: ArrayLike, scores: ArrayLike, *, more: float = 4, most: float = math.inf, draws: int = DRAWS
) -> Fit:
    """Fit a learning curve to the mean scores, and say what ``more`` labels bring by it.

    The interval resamples test subjects and, apart from them, seeds, each with all its budgets,
    since budgets are nested and tested alike. Of N one draws N - 1, which makes the variance of a
    mean unbiased (Rao and Wu 1988), and the quantiles are widened from the normal to Student's t
    (``_dof``). It holds for a curve of this form; whether the form holds beyond the largest
    budget no interval can say.

    Args:
        budgets: (K,) numbers of labels, rising; K >= ``FEWEST``.
        scores: (seeds, K, subjects); nan = undefined. One subject stands for scores that only a
            complete test set has.
        more: labels beyond the largest budget.
        most: the largest value that the score can have.
    """
    n, table = np.asarray(budgets, np.float64), np.asarray(scores, np.float64)
    plain = _means(table, np.ones((1, table.shape[0])), np.ones((1, table.shape[2])))
    curve = fit_curve(n, plain[0], most=most)
    gain = curve(n[-1] + more) - curve(n[-1])
    sizes = {name: size for name, size in (("subjects", table.shape[2]), ("seeds", table.shape[0])) if size > 1}
    if not sizes:
        return Fit(curve, more, gain, unclear="one seed and no score of single subjects leave nothing to resample")
    drawn = fit_power(n, np.concatenate([plain, _means(table, *_weights(table, draws))]), most=most)
    wider = float(quantile(0.95, _dof(table, n, more, most, draws))) / NORMAL
    lowest, highest = _limits(drawn[0], curve.ceiling, wider)
    rise = _limits(_rise(*drawn[1:], n[0], n[-1]), curve(n[-1]) - curve(n[0]), wider)
    return Fit(
        curve,
        more,
        gain,
        *_limits(_rise(*drawn[1:], n[-1], n[-1] + more), gain, wider),
        " and ".join(sizes),
        (lowest, min(highest, max(most, curve.ceiling))),
        _unclear(drawn[2][1:], rise),
    )


def _rise(drop: Floats, rate: Floats, start: float, end: float) -> Floats:
    """What curves gain from one number of labels to another."""
    return drop * (start**-rate - end**-rate)


def _dof(table: Floats, n: Floats, more: float, most: float, draws: int) -> float:
    """Degrees of freedom of the gain (Satterthwaite 1946) from what subjects alone and seeds alone
    add to its variance."""
    drawn, parts = _weights(table, draws), []
    for axis, size in ((0, table.shape[0]), (1, table.shape[2])):
        weights = [each if at == axis else np.ones_like(each) for at, each in enumerate(drawn)]
        _, drop, rate = fit_power(n, _means(table, *weights), most=most)
        if size > 1:
            parts.append((float(_rise(drop, rate, n[-1], n[-1] + more).var()), size - 1))
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return float(min(dof for _, dof in parts))
    return total**2 / sum(variance**2 / dof for variance, dof in parts)


def _weights(table: Floats, draws: int) -> list[Floats]:
    """How often each seed (D, S) and each subject (D, I) is drawn: of N one less than N."""
    rng = np.random.default_rng(0)
    sizes = (table.shape[0], table.shape[2])
    return [rng.multinomial(max(size - 1, 1), np.full(size, 1 / size), draws).astype(np.float64) for size in sizes]


def _means(table: Floats, seeds: Floats, subjects: Floats) -> Floats:
    """Means over subjects of each seed, then over seeds, by weights (D, S) and (D, I); undefined
    scores are left out. (S, K, I) -> (D, K)."""
    known = ~np.isnan(table)
    total = np.einsum("di,ski->dsk", subjects, np.where(known, table, 0.0))
    count = np.einsum("di,ski->dsk", subjects, known.astype(np.float64))
    # a seed none of whose drawn subjects is defined has its mean over all
    plain = np.where(known, table, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)
    means = np.where(count > 0, total / np.where(count > 0, count, 1.0), plain)
    return np.einsum("ds,dsk->dk", seeds / seeds.sum(-1, keepdims=True), means)


def _limits(values: Floats, centre: float, wider: float) -> tuple[float, float]:
    """Percentiles of resampled values about the estimate, their distance from it made larger.

    Args:
        values: (1 + D,) of the data as they are, on the grid of rates, then resampled.
        centre: the estimate.
    """
    low, high = np.quantile(values[1:], [0.025, 0.975]) - values[0]
    return centre + min(float(low), 0.0) * wider, centre + max(float(high), 0.0) * wider


def _unclear(rates: Floats, rise: tuple[float, float]) -> str:
    if rise[0] <= 0 <= rise[1]:
        return "the scores do not change beyond their noise from the smallest to the largest budget"
    if float((rates == RATES[0]).mean()) > MOST_AT_AN_END:
        return "no ceiling is in sight: the scores still change like a logarithm"
    if float((rates == RATES[-1]).mean()) > MOST_AT_AN_END:
        return "the scores change only between the first budgets, so the rate cannot be determined"
    return ""
