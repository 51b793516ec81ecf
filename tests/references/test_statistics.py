"""Statistics against SciPy, statsmodels and scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from allograft.results.statistics import adjust, bootstrap_pooled, effect_size, wilcoxon


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("count", [3, 6, 11, 25, 50])
@pytest.mark.parametrize("zeros", [0, 2])
def test_signed_rank_against_scipy(count: int, zeros: int, alternative: Any) -> None:
    values = np.random.default_rng(count).normal(0.3, 1.0, count)
    expected = stats.wilcoxon(values, zero_method="wilcox", method="exact", alternative=alternative).pvalue
    assert wilcoxon([*values, *[0.0] * zeros], alternative) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize("seed", range(4))
def test_ties_against_every_permutation_of_scipy(seed: int, alternative: Any) -> None:
    values = np.random.default_rng(seed).integers(-3, 6, 11).astype(float)
    values = values[values != 0]
    every = stats.PermutationMethod(n_resamples=2 ** len(values) + 1)
    expected = stats.wilcoxon(values, method=every, alternative=alternative).pvalue
    assert wilcoxon(values, alternative) == pytest.approx(expected, rel=1e-9)


def test_ties_of_many_are_close_to_the_normal_approximation() -> None:
    values = np.random.default_rng(0).integers(-4, 6, 60).astype(float)
    values = values[values != 0][:50]
    assert len(values) == 50
    expected = stats.wilcoxon(values, method="asymptotic", correction=True).pvalue
    assert wilcoxon(values) == pytest.approx(expected, rel=0.05)


def test_more_than_fifty_are_scipys_approximation() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, 80)
    assert wilcoxon(values) == pytest.approx(stats.wilcoxon(values, method="asymptotic").pvalue, rel=1e-9)
    assert wilcoxon(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, rel=0.02)


@pytest.mark.parametrize("method", ["holm", "bonferroni"])
@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_adjusted_against_statsmodels(method: Any, count: int) -> None:
    p = np.random.default_rng(count).uniform(0, 0.3, count).round(2)  # with ties
    assert adjust(list(p), method) == pytest.approx(multipletests(p, method=method)[1].tolist(), abs=1e-15)


def test_effect_size_against_the_t_statistic() -> None:
    values = np.random.default_rng(4).normal(0.4, 1.0, 17)
    d_z, correlation = effect_size(values)
    assert d_z == pytest.approx(stats.ttest_1samp(values, 0).statistic / np.sqrt(17))
    # the rank sum of the positive
    positive = stats.wilcoxon(values, alternative="greater").statistic
    assert correlation == pytest.approx(2 * positive / (17 * 18 / 2) - 1)


def aggregate(cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    labels = [case["label"] for case in cases]
    return {
        "auroc": float(roc_auc_score(labels, [case["score"] for case in cases]))
        if 0 < sum(labels) < len(labels)
        else None
    }


def a_row(seed: int, shift: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {
            "subject": f"p{n // 2:02d}",
            "label": (n // 2) % 3 == 0,
            "score": float(rng.normal(shift * ((n // 2) % 3 == 0))),
        }
        for n in range(40)
    ]


def test_auroc_against_a_slow_loop() -> None:
    """20 subjects of two images, 2 seeds a row: draw subjects by number, rank all pairs of a
    positive and a negative image."""
    ours, theirs = [a_row(0, 1.5), a_row(1, 1.5)], [a_row(2, 0.5), a_row(3, 0.5)]
    rng, expected = np.random.default_rng(0), []
    for _ in range(60):
        picked = rng.integers(20, size=20)
        areas = []
        for row in (*ours, *theirs):
            images = [row[2 * number + side] for number in picked for side in (0, 1)]
            positive = [image["score"] for image in images if image["label"]]
            negative = [image["score"] for image in images if not image["label"]]
            if not positive or not negative:
                areas.append(float("nan"))
                continue
            areas.append(
                sum((p > n) + 0.5 * (p == n) for p in positive for n in negative) / (len(positive) * len(negative))
            )
        expected.append((areas[0] + areas[1]) / 2 - (areas[2] + areas[3]) / 2)
    low, high = np.nanpercentile(expected, [2.5, 97.5])
    assert bootstrap_pooled(ours, theirs, aggregate, draws=60)["auroc"] == pytest.approx((low, high), rel=1e-12)
    alone = bootstrap_pooled(ours, None, aggregate, draws=60)["auroc"]
    assert 0.6 < alone[0] < np.mean([aggregate(row)["auroc"] or 0 for row in ours]) < alone[1] < 1
