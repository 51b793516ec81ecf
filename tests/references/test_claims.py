"""The probability of a false claim, and power, against the papers' formulas and other packages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats
from statsmodels.stats.power import TTestPower

from allograft.results.claims import false_claim, false_claim_of_accuracy, shrinkage
from allograft.results.power import power, sd_limits, smallest_difference, subjects_needed
from allograft.results.ranks import signed_rank_p


@pytest.mark.parametrize(
    ("mean_a", "mean_b", "sd_a", "sd_b", "r", "n"), [(0.86, 0.85, 0.08, 0.09, 0.7, 50), (0.8, 0.74, 0.1, 0.2, 0.2, 12)]
)
def test_a_claim_about_dice_is_that_of_false_promises(
    mean_a: float, mean_b: float, sd_a: float, sd_b: float, r: float, n: int
) -> None:
    """arXiv 2505.04720: P(A <= B) = t(n - 1) at sqrt(n) (B - A) / sqrt(s_A^2 + s_B^2 - 2 s_A s_B
    r), from what papers print."""
    spread = math.sqrt(sd_a**2 + sd_b**2 - 2 * sd_a * sd_b * r)
    expected = stats.t.cdf(math.sqrt(n) * (mean_b - mean_a) / spread, n - 1)
    assert false_claim(mean_a - mean_b, spread / math.sqrt(n), n - 1) == pytest.approx(expected, rel=1e-12)


def test_from_scores_per_case_it_is_the_one_sided_p() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.beta(6, 1.2, 25), rng.beta(5, 1.2, 25)
    error = stats.sem(a - b)
    assert false_claim((a - b).mean(), error, 24) == pytest.approx(stats.ttest_rel(a, b, alternative="greater").pvalue)
    # and the formula from means, deviations and correlation gives the same
    r = np.corrcoef(a, b)[0, 1]
    spread = math.sqrt(a.var(ddof=1) + b.var(ddof=1) - 2 * r * a.std(ddof=1) * b.std(ddof=1))
    assert spread / 5 == pytest.approx(error)


@pytest.mark.parametrize(("only_a", "only_b", "rest"), [(7, 3, 90), (12, 10, 200), (4, 0, 20)])
def test_a_claim_about_accuracy_is_that_of_false_promises(only_a: int, only_b: int, rest: int) -> None:
    """The integral as it stands in the paper: a Dirichlet posterior with a flat prior, over the
    half where A is not better."""
    posterior = stats.dirichlet([only_a + 1, only_b + 1, rest + 2])  # both right and both wrong: two shares in one

    def density(p_a: float, p_b: float) -> float:
        return float(posterior.pdf([p_a, p_b, 1 - p_a - p_b])) if p_a > 0 and p_b > 0 and p_a + p_b < 1 else 0.0

    expected, _ = integrate.dblquad(
        density, 0, 0.5, lambda p_a: p_a, lambda p_a: 1 - p_a, epsabs=1e-7
    )  # inner: p_b above p_a
    mirrored, _ = integrate.dblquad(
        lambda p_b, p_a: density(p_a, p_b), 0, 0.5, lambda p_a: p_a, lambda p_a: 1 - p_a, epsabs=1e-7
    )
    assert false_claim_of_accuracy(only_a, only_b) == pytest.approx(mirrored, abs=1e-5)
    assert false_claim_of_accuracy(only_b, only_a) == pytest.approx(expected, abs=1e-5)
    draws = posterior.rvs(100_000, random_state=1)
    assert false_claim_of_accuracy(only_a, only_b) == pytest.approx(np.mean(draws[:, 0] <= draws[:, 1]), abs=0.005)


PUBLISHED_FILE = {
    "alg_01": (0.9254, 0.6753, 0.8120, 0.9012),
    "alg_02": (0.8712, 0.7330, 0.7991, 0.8450),
    "alg_03": (0.9701, 0.8902, 0.9405, 0.9603),
}


@pytest.mark.parametrize(
    ("best", "other", "expected"),
    [("alg_03", "alg_01", 0.0319), ("alg_03", "alg_02", 0.0011), ("alg_01", "alg_02", 0.2909)],
)
def test_the_published_example_file(best: str, other: str, expected: float) -> None:
    """The four cases of Dice that Claims Reloaded, the tool of arXiv 2505.04720, shows as its file
    format. It prints no result for them; ``expected`` is the posterior of mean and variance (flat
    prior, 1 / variance) drawn four million times, and the formula for printed means, deviations
    and their correlation agrees."""
    a, b = (np.array(PUBLISHED_FILE[name]) for name in (best, other))
    r, n = float(np.corrcoef(a, b)[0, 1]), len(a)
    spread = math.sqrt(a.var(ddof=1) + b.var(ddof=1) - 2 * a.std(ddof=1) * b.std(ddof=1) * r)
    printed = stats.t.cdf(math.sqrt(n) * (b.mean() - a.mean()) / spread, n - 1)
    claim = float(false_claim((a - b).mean(), stats.sem(a - b), n - 1))
    assert claim == pytest.approx(printed, rel=1e-9)
    assert claim == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("a", "b", "both", "n"), [(0.86, 0.85, 0.80, 100), (0.91, 0.84, 0.79, 200)])
def test_accuracies_as_papers_print_them(a: float, b: float, both: float, n: int) -> None:
    """With accuracies and congruence (the share that both get right) as the paper has them:
    x_a = n (a - both), x_b = n (b - both), and the integral of Dirichlet(x_a + 1, x_b + 1,
    n - x_a - x_b + 2) over p_a <= p_b, drawn from gamma variables."""
    only_a, only_b = round(n * (a - both)), round(n * (b - both))
    rng = np.random.default_rng(4)
    shares = rng.gamma([only_a + 1, only_b + 1, n - only_a - only_b + 2], size=(400_000, 3))
    assert false_claim_of_accuracy(only_a, only_b) == pytest.approx(np.mean(shares[:, 0] <= shares[:, 1]), abs=0.003)


def test_shrinkage_by_hand() -> None:
    # mean of d^2 - e^2 = ((0.09 - 0.01) + (0.04 - 0.01) + (0 - 0.01)) / 3 = 0.1 / 3
    factors = shrinkage([0.3, -0.2, 0.0], [0.1, 0.1, 0.1])
    assert factors == pytest.approx([0.1 / 3 / (0.1 / 3 + 0.01)] * 3)
    assert shrinkage([0.1, 0.1], [0.2, 0.2]).tolist() == [0.0, 0.0]
    uneven = shrinkage([0.3, 0.3], [0.01, 0.2])
    assert uneven[0] > uneven[1]  # the surer row is shrunk less
    assert false_claim(0.3, 0.1, 9, 0.0) == 0.5
    assert false_claim(0.3, 0.1, 9, 0.5) > false_claim(0.3, 0.1, 9)
    assert false_claim(-0.3, 0.1, 9, 0.5) < false_claim(-0.3, 0.1, 9)
    assert false_claim(0.0, 0.0, 9) == 0.5
    assert false_claim(0.1, 0.0, 9) == pytest.approx(0.0, abs=1e-12)


def test_the_best_of_rows_without_any_gain_is_claimed_falsely_half_of_the_time() -> None:
    """Of eight rows that all do nothing the best looks good by itself, and like a coin with the
    others beside it."""
    rng = np.random.default_rng(2)
    flat, shrunk = [], []
    for _ in range(300):
        gains = rng.normal(0, 0.05, (12, 8))
        mean, error = gains.mean(0), stats.sem(gains)
        best = int(mean.argmax())
        flat.append(float(false_claim(mean[best], error[best], 11)))
        shrunk.append(float(false_claim(mean, error, 11, shrinkage(mean, error))[best]))
    assert np.median(flat) < 0.15
    assert np.median(shrunk) > 0.3


@pytest.mark.parametrize("effect", [0.2, 0.5, 0.9, 2.0])
@pytest.mark.parametrize("level", [0.05, 0.05 / 7])
def test_power_against_statsmodels(effect: float, level: float) -> None:
    theirs = TTestPower()
    assert power(effect, 12, level) == pytest.approx(theirs.power(effect, 12, level), abs=1e-9)
    assert subjects_needed(effect, 1.0, level) == math.ceil(theirs.solve_power(effect, alpha=level, power=0.8))
    assert smallest_difference(2.0, 12, level) == pytest.approx(
        2 * theirs.solve_power(nobs=12, alpha=level, power=0.8), rel=1e-5
    )


def test_extremes_of_power() -> None:
    assert subjects_needed(0.02, 0.0) == 2
    assert subjects_needed(0.02, 1e-5) == 2
    assert subjects_needed(1e-6, 1.0) is None
    assert smallest_difference(0.0, 8) == 0.0
    assert [subjects_needed(0.02, sd) for sd in (0.01, 0.02, 0.04)] == sorted(
        subjects_needed(0.02, sd) or 0 for sd in (0.01, 0.02, 0.04)
    )
    low, high = sd_limits(0.05, 10)
    squares = 9 * 0.05**2
    assert (squares / high**2, squares / low**2) == (
        pytest.approx(stats.chi2.ppf(0.025, 9)),
        pytest.approx(stats.chi2.ppf(0.975, 9)),
    )


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_many_signed_ranks_are_those_of_each(alternative: str) -> None:
    rng = np.random.default_rng(3)
    samples = (rng.normal(0.1, 0.2, (30, 9)) * 10).round() / 10  # with ties and zeros
    samples[4] = 0
    every = stats.PermutationMethod(n_resamples=10_000)
    expected = [
        stats.wilcoxon(row[row != 0], method=every, alternative=alternative).pvalue if row.any() else np.nan
        for row in samples
    ]
    assert signed_rank_p(samples, alternative) == pytest.approx(expected, rel=1e-9, nan_ok=True)  # type: ignore[arg-type]
    many = rng.integers(-4, 6, (5, 80)).astype(float)
    theirs = [stats.wilcoxon(row, alternative=alternative, method="asymptotic").pvalue for row in many]
    assert signed_rank_p(many, alternative) == pytest.approx(theirs, rel=1e-9)  # type: ignore[arg-type]
