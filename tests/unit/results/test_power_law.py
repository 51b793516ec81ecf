"""Learning curves: planted ones are found, other ways of fitting agree, intervals hold what they
should, and what cannot be told is said."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import curve_fit

from allograft.results import power_law
from allograft.results.intervals import Floats
from allograft.results.power_law import expected_gain, fit_curve, fit_power

BUDGETS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])


def planted(a: float, b: float, c: float, n: Floats = BUDGETS) -> Floats:
    return a - b * n**-c


def a_world(rng: np.random.Generator, curve: Floats, seeds: int, subjects: int) -> Floats:
    """(seeds, budgets, subjects): subjects are harder or easier, and gain more or less; seeds differ
    less the more is labelled."""
    level = rng.normal(0, 0.08, subjects)
    gains = (curve - curve[-1])[None, :, None] * rng.normal(1, 0.3, subjects)
    drawn = rng.normal(0, 0.02, (seeds, 1)) * BUDGETS**-0.5 + rng.normal(0, 0.01, (seeds, len(BUDGETS)))
    return curve[-1] + level + gains + drawn[:, :, None] + rng.normal(0, 0.03, (seeds, len(BUDGETS), subjects))


@pytest.mark.parametrize(
    "truth", [(0.8, 0.3, 0.7), (0.9, 0.05, 1.8), (0.7, 0.6, 0.15), (0.6, -0.1, 0.9), (0.5, 0.4, 3.1)]
)
def test_a_planted_curve_is_found(truth: tuple[float, float, float]) -> None:
    found = fit_curve(BUDGETS, planted(*truth))
    assert (found.ceiling, found.drop, found.rate) == pytest.approx(truth, abs=2e-5)
    assert found(20) == pytest.approx(float(planted(*truth, np.array([20.0]))[0]), abs=1e-6)


@pytest.mark.parametrize("seed", range(6))
def test_no_other_fit_has_a_smaller_error_than_scipys_or_ours(seed: int) -> None:
    y = planted(0.8, 0.3, 0.8) + np.random.default_rng(seed).normal(0, 0.004, 5)
    ours = fit_curve(BUDGETS, y)
    theirs, _ = curve_fit(lambda n, a, b, c: a - b * n**-c, BUDGETS, y, p0=(0.7, 0.2, 0.5), maxfev=20_000)
    assert (ours.ceiling, ours.drop, ours.rate) == pytest.approx(theirs, rel=2e-3)


def test_the_grid_against_a_loop_of_least_squares_in_float64() -> None:
    """A loop over the same rates, each a linear least squares of numpy's, one curve at a time."""
    rng = np.random.default_rng(3)
    curves = planted(0.8, 0.3, 0.8) + rng.normal(0, 0.03, (12, 5))
    found = np.stack(fit_power(BUDGETS, curves), -1)
    for y, ours in zip(curves, found, strict=True):
        best = (np.inf, 0.0, 0.0, 0.0)
        for rate in power_law.RATES:
            design = np.stack([np.ones(5), -(BUDGETS**-rate)], -1)
            (a, b), *_ = np.linalg.lstsq(design, y, rcond=None)
            best = min(best, (float(((y - design @ np.array([a, b])) ** 2).sum()), a, b, rate))
        assert ours == pytest.approx(best[1:], abs=1e-9)


def test_a_rising_curve_has_no_ceiling_above_the_largest_score_there_is() -> None:
    y = planted(1.3, 0.9, 0.2)
    free, held = fit_curve(BUDGETS, y), fit_curve(BUDGETS, y, most=1.0)
    assert free.ceiling == pytest.approx(1.3, abs=1e-4)
    assert held.ceiling == 1.0
    assert fit_power(BUDGETS, y, most=1.0)[0] <= 1.0 < fit_power(BUDGETS, y)[0]
    x = BUDGETS**-held.rate
    # with the ceiling given the drop is the only number left: no other has a smaller error
    errors = [((y - 1.0 + b * x) ** 2).sum() for b in (held.drop - 1e-4, held.drop, held.drop + 1e-4)]
    assert errors[1] == min(errors)


@pytest.mark.parametrize("truth", [(1.3, 0.9, 0.2), (1.05, 0.5, 0.6)])
def test_under_a_ceiling_scipys_bounded_search_finds_the_same_curve(truth: tuple[float, float, float]) -> None:
    y = planted(*truth) + np.random.default_rng(5).normal(0, 0.003, 5)
    ours = fit_curve(BUDGETS, y, most=1.0)
    bounds = ([-1.0, 0.0, 0.05], [1.0, 3.0, 4.0])
    theirs, _ = curve_fit(lambda n, a, b, c: a - b * n**-c, BUDGETS, y, p0=(0.9, 0.5, 0.5), bounds=bounds)
    assert (ours.ceiling, ours.drop, ours.rate) == pytest.approx(theirs, rel=2e-3)


def test_resampled_means_vary_as_a_mean_does() -> None:
    """Of four subjects three are drawn: drawing four would give three quarters of the variance."""
    rng = np.random.default_rng(6)
    subjects, seeds = rng.normal(size=4), rng.normal(size=3)
    for values, table in ((subjects, subjects[None, None, :]), (seeds, seeds[:, None, None])):
        drawn = power_law._means(table, *power_law._weights(table, 20_000))
        assert drawn.var() == pytest.approx(values.var(ddof=1) / len(values), rel=0.05)


def test_the_gain_is_the_curves_from_the_largest_budget_on() -> None:
    found = expected_gain(BUDGETS, planted(0.8, 0.3, 0.7)[None, :, None].repeat(3, 0).repeat(4, 2), more=4)
    assert found.gain == pytest.approx(0.3 * (16**-0.7 - 20**-0.7), abs=1e-6)
    # nothing varies, so nothing is uncertain but the rounding of the grid
    assert (found.low, found.high) == pytest.approx((found.gain, found.gain), abs=2e-5)
    assert (found.over, found.unclear) == ("subjects and seeds", "")


def test_subjects_and_seeds_that_are_better_throughout_change_neither_gain_nor_interval() -> None:
    rng = np.random.default_rng(0)
    table = a_world(rng, planted(0.7, 0.3, 0.7), 3, 8)
    shifted = table + rng.normal(0, 0.05, 8) + rng.normal(0, 0.05, (3, 1, 1))
    ends = [
        (one.gain, one.low, one.high) for one in (expected_gain(BUDGETS, each, draws=99) for each in (table, shifted))
    ]
    assert ends[0] == pytest.approx(ends[1], abs=1e-6)


@pytest.mark.parametrize(("drop", "rate"), [(0.3, 0.7), (0.15, 0.4), (0.0, 1.0)])
def test_the_interval_covers_at_least_what_it_says(drop: float, rate: float) -> None:
    """Sixty worlds of three seeds and ten subjects; resampling both counts their common noise twice,
    so it covers more than 95 %."""
    rng, curve = np.random.default_rng(1), planted(0.8, drop, rate)
    truth = drop * (16**-rate - 20**-rate)
    found = [expected_gain(BUDGETS, a_world(rng, curve, 3, 10), most=1.0, draws=99) for _ in range(60)]
    held = sum(one.low <= truth <= one.high for one in found if one.low is not None and one.high is not None)
    assert held >= 55
    if drop == 0:
        assert sum(bool(one.unclear) for one in found) >= 55


def test_with_one_seed_the_interval_leaves_out_which_patients_are_labelled_and_is_too_narrow() -> None:
    rng, curve = np.random.default_rng(1), planted(0.8, 0.3, 0.7)
    truth = 0.3 * (16**-0.7 - 20**-0.7)
    found = [expected_gain(BUDGETS, a_world(rng, curve, 1, 10), most=1.0, draws=99) for _ in range(60)]
    held = sum(one.low <= truth <= one.high for one in found if one.low is not None and one.high is not None)
    assert 40 <= held < 55
    assert {one.over for one in found} == {"subjects"}


@pytest.mark.parametrize(
    ("curve", "words"),
    [
        (np.full(5, 0.7), "do not change"),
        (0.5 + 0.02 * np.log(BUDGETS), "no ceiling is in sight"),
        (np.array([0.5, 0.7, 0.7, 0.7, 0.7]), "only between the first budgets"),
    ],
)
def test_a_curve_that_cannot_be_told_is_said_to_be(curve: Floats, words: str) -> None:
    noise = np.random.default_rng(2).normal(0, 0.001, (4, 5, 12))
    assert words in expected_gain(BUDGETS, curve[None, :, None] + noise, draws=199).unclear


def test_one_seed_and_no_single_subjects_leave_no_interval() -> None:
    alone = expected_gain(BUDGETS, planted(0.8, 0.3, 0.7)[None, :, None])
    assert (alone.low, alone.high, alone.over) == (None, None, "")
    assert "nothing to resample" in alone.unclear
    assert expected_gain(BUDGETS, planted(0.8, 0.3, 0.7)[None, :, None].repeat(3, 0), draws=9).over == "seeds"


def test_a_ceilings_interval_ends_at_the_largest_score_there_is() -> None:
    table = a_world(np.random.default_rng(7), planted(0.9, 0.3, 0.3), 3, 6)
    free, held = (expected_gain(BUDGETS, table, most=most, draws=199).ceiling for most in (np.inf, 1.0))
    assert free is not None
    assert held is not None
    assert held[1] <= 1.0 < free[1]


def test_undefined_scores_are_left_out() -> None:
    table = a_world(np.random.default_rng(4), planted(0.8, 0.3, 0.7), 2, 6)
    with_gap = np.concatenate([table, np.full((2, 5, 1), np.nan)], -1)
    assert expected_gain(BUDGETS, with_gap, draws=9).gain == pytest.approx(expected_gain(BUDGETS, table, draws=9).gain)
