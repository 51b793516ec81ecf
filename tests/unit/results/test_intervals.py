"""Intervals of means: how often they cover, what must be equal, and where nothing can cover."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from scipy.special import expit, logit

from allograft.results.areas import area, area_limits
from allograft.results.intervals import score_limits, t_limits

SAMPLES, SIZES = 4000, (4, 8, 20, 100)
Draw = Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]
SHAPES: dict[str, tuple[float, Draw]] = {
    "good Dice, Beta(6, 1.2)": (6 / 7.2, lambda rng, size: rng.beta(6, 1.2, size)),
    "middling, Beta(2, 2)": (0.5, lambda rng, size: rng.beta(2, 2, size)),
    "poor, Beta(1.2, 4)": (1.2 / 5.2, lambda rng, size: rng.beta(1.2, 4, size)),
}


def covered(draw: Draw, truth: float, subjects: int) -> float:
    low, high = score_limits(draw(np.random.default_rng(subjects), (SAMPLES, subjects)))
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("subjects", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_interval_of_a_score_covers_at_every_size(shape: str, subjects: int) -> None:
    truth, draw = SHAPES[shape]
    found = covered(draw, truth, subjects)
    print(f"{shape}, {subjects} subjects: {found:.3f}")
    assert 0.93 <= found <= 0.97  # standard error 0.0034


@pytest.mark.parametrize(("subjects", "most"), [(4, 0.93), (8, 0.93)])
def test_with_many_exact_zeros_nothing_covers_below_twenty(subjects: int, most: float) -> None:
    def draw(rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.float64]:
        return np.where(rng.random(size) < 0.2, 0.0, rng.beta(6, 1.2, size))

    found = covered(draw, 0.8 * 6 / 7.2, subjects)
    print(f"a fifth exact zeros, {subjects} subjects: {found:.3f}")
    assert 0.8 < found < most  # the table's note says so
    for enough in (20, 100):
        print(f"a fifth exact zeros, {enough} subjects: {covered(draw, 0.8 * 6 / 7.2, enough):.3f}")
        assert covered(draw, 0.8 * 6 / 7.2, enough) >= 0.93


def test_limits_by_hand_and_against_scipy() -> None:
    values = np.random.default_rng(0).beta(5, 2, 9)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.99)
    assert t_limits(values, 0.99) == (pytest.approx(expected.low), pytest.approx(expected.high))
    centre, error = values.mean(), stats.sem(values)
    half = stats.t.ppf(0.975, 8) * error / (centre * (1 - centre))
    assert score_limits(values) == (
        pytest.approx(expit(logit(centre) - half)),
        pytest.approx(expit(logit(centre) + half)),
    )


def test_limits_of_many_are_those_of_each() -> None:
    many = np.random.default_rng(1).beta(5, 2, (3, 4, 9))
    for limits in (t_limits, score_limits):
        low, high = limits(many)
        assert low.shape == high.shape == (3, 4)
        assert (low[1, 2], high[1, 2]) == limits(many[1, 2])


def test_limits_stay_inside_and_mirror() -> None:
    values = np.array([0.9, 1.0, 1.0, 0.3])
    low, high = score_limits(values)
    assert 0 < low < values.mean() < high < 1
    mirrored = score_limits(1 - values)
    assert mirrored == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert score_limits([1.0, 1.0, 1.0]) == (1.0, 1.0)
    for level in (0.5, 0.8):
        reach = [float(logit(limit)) for limit in score_limits([0.7, 0.8, 0.9], level)]
        usual = [float(logit(limit)) for limit in score_limits([0.7, 0.8, 0.9])]
        share = float(stats.t.ppf((1 + level) / 2, 2) / stats.t.ppf(0.975, 2))
        assert reach[1] - reach[0] == pytest.approx(share * (usual[1] - usual[0]))
    assert score_limits([0.0, 0.0]) == (0.0, 0.0)
    assert t_limits(values)[1] > 1  # which is why a score has the other


@pytest.mark.parametrize(("positive", "negative", "shift"), [(5, 5, 1.0), (10, 10, 1.5), (5, 40, 1.5), (30, 30, 2.0)])
def test_an_interval_of_an_area_covers(positive: int, negative: int, shift: float) -> None:
    rng, truth = np.random.default_rng(positive), stats.norm.cdf(shift / np.sqrt(2))
    flags, names, hits = np.arange(positive + negative) < positive, [f"{n:03d}" for n in range(positive + negative)], 0
    for _ in range(500):
        found = area(rng.normal(shift * flags, 1), flags, names)
        assert found is not None
        low, high = area_limits(found) or (0, 0)
        hits += low <= truth <= high
    assert hits / 500 >= 0.92  # of few the rank-based limit is wider than it need be
