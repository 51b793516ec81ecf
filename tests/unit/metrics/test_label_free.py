"""Label-free scores: what they must be equal to, and what they must not be fooled by."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allograft.metrics.label_free import (
    PIXELS,
    class_probabilities,
    information,
    pixel_density,
    soft_neighbourhood_density,
)


def clusters(sizes: list[int], classes: int) -> torch.Tensor:
    return torch.cat([torch.eye(classes)[[k]].expand(size, classes) for k, size in enumerate(sizes)])


def test_density_counts_the_neighbours() -> None:
    """A point with m equal neighbours and all others at a right angle has log m, but for exp(-1 /
    0.05)."""
    expected = (6 * math.log(5) + 3 * math.log(2)) / 9
    assert soft_neighbourhood_density(clusters([6, 3], 2)) == pytest.approx(expected, abs=1e-6)


def test_density_cannot_tell_a_collapse_from_one_class() -> None:
    """Why it stands beside information: predictions that are all alike, or all equally far apart,
    are as dense as can be."""
    assert soft_neighbourhood_density(clusters([30], 3)) == pytest.approx(math.log(29))
    assert soft_neighbourhood_density(clusters([1] * 30, 30)) == pytest.approx(math.log(29))
    assert soft_neighbourhood_density(clusters([10, 10, 10], 3)) == pytest.approx(math.log(9), abs=1e-6)


def test_density_does_not_depend_on_order_or_length() -> None:
    shares = class_probabilities(torch.randn(12, 4, generator=torch.Generator().manual_seed(1)))
    lengths = torch.linspace(0.1, 3, 12)[:, None]
    assert soft_neighbourhood_density(shares.flip(0)) == pytest.approx(soft_neighbourhood_density(shares), abs=1e-12)
    assert soft_neighbourhood_density(shares * lengths) == pytest.approx(soft_neighbourhood_density(shares), abs=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_too_few_points_have_no_density(rows: int) -> None:
    assert math.isnan(soft_neighbourhood_density(torch.full((rows, 2), 0.5)))


def test_density_of_an_image_is_that_of_its_drawn_pixels() -> None:
    logits = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(2))
    drawn = torch.randperm(800, generator=torch.Generator().manual_seed(7))[:PIXELS].tolist()
    pixels = [logits[at // 400, :, at % 400 // 20, at % 20] for at in drawn]
    expected = soft_neighbourhood_density(class_probabilities(torch.stack(pixels)))
    assert pixel_density(logits, torch.Generator().manual_seed(7)) == pytest.approx(expected, abs=1e-12)
    assert math.isnan(pixel_density(logits[:1, :, :1, :2], torch.Generator()))


def test_information_is_not_fooled_by_a_collapse() -> None:
    sure = torch.zeros(6)
    assert information(clusters([6], 3), sure) == 0.0
    assert information(clusters([2, 2, 2], 3), sure) == pytest.approx(1.0)
    assert information(torch.full((6, 3), 1 / 3), torch.ones(6)) == pytest.approx(0.0, abs=1e-7)


@given(st.integers(1, 6), st.integers(2, 5), st.booleans(), st.integers(0, 99))
def test_information_lies_between_0_and_1(rows: int, classes: int, several: bool, seed: int) -> None:
    from allograft.metrics.label_free import entropy

    logits = 3 * torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shares = class_probabilities(logits, several=several)
    assert -1e-9 <= information(shares, entropy(shares, several=several), several=several) <= 1 + 1e-9
