"""Histograms of sites from the quantiles of their images."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from allograft.cohort import Case
from allograft.cohort.histograms import BINS, histograms, shares_of
from allograft.cohort.survey import LEVELS, Look, Style, style


def looks(**sites: list[np.ndarray]) -> Any:
    return [
        SimpleNamespace(case=SimpleNamespace(site=site), before=style(image), after=None)
        for site, images in sites.items()
        for image in images
    ]


def test_shares_are_those_of_the_pixels_between_two_percentiles() -> None:
    values = np.random.default_rng(0).gamma(2.0, 100.0, 50_000)
    low, high = np.quantile(values, LEVELS[[0, -1]])
    edges = np.linspace(low, high, 13)
    counted = np.histogram(values, edges)[0] / len(values)
    found = shares_of(np.quantile(values, LEVELS), edges)
    assert found.sum() == pytest.approx(0.96)
    assert np.abs(found - counted).max() < 0.03


def test_a_value_that_many_pixels_have_is_one_bin() -> None:
    edges = np.array([0.0, 1.0, 2.0, 3.0])
    assert shares_of(np.full(25, 1.5), edges).round(6).tolist() == [0.0, 0.96, 0.0]
    assert shares_of(np.full(25, 1.0), edges).round(6).tolist() == [0.0, 0.96, 0.0]  # an edge is the next bin's
    assert shares_of(np.full(25, 3.0), edges).round(6).tolist() == [0.0, 0.0, 0.96]  # the last edge is inside


def test_sites_share_their_bins_and_images_count_alike() -> None:
    rng = np.random.default_rng(1)
    dark, light = (rng.uniform(low, low + 10, (1, 40, 40)) for low in (0, 90))
    (made,) = histograms(looks(a=[dark, light], b=[dark]))
    assert made.when == "before"
    assert len(made.edges) == BINS + 1
    assert set(made.shares) == {"a", "b"}
    half = BINS // 2
    assert sum(made.shares["a"][:half]) == pytest.approx(0.48, abs=1e-3)
    assert sum(made.shares["b"][:half]) == pytest.approx(0.96, abs=1e-3)
    assert histograms([]) == ()


def test_each_site_has_a_histogram_before_and_after_in_the_order_of_their_names() -> None:
    def styled(value: float) -> Style:
        return Style(np.linspace(value, value + 1.0, 25), np.zeros(24), np.zeros((8, 8)), 1.0)

    seen = [
        Look(Case(subject, subject, site, ()), 2, before=styled(value), after=styled(value / 10))
        for subject, site, value in (("1", "b", 40.0), ("2", "b", 60.0), ("3", "a", 50.0))
    ]
    before, after = histograms(seen)
    assert (before.when, after.when) == ("before", "after")
    assert (before.edges[0], before.edges[-1], after.edges[0], after.edges[-1]) == (40.0, 61.0, 4.0, 7.0)
    assert list(before.shares) == list(after.shares) == ["a", "b"]
    assert before.shares["b"][0] == pytest.approx(before.shares["b"][-1], abs=1e-5)
    assert before.shares["a"][0] == before.shares["a"][-1] == 0
