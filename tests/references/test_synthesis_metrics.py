"""Metrics of made images against other libraries, a slow loop from the equation, and what must be
equal."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from allograft.errors import SpecError
from allograft.metrics.synthesis import REACH, mean_absolute_error, structural_similarity


def pair(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(len(shape))
    target = torch.rand(shape, generator=rng, dtype=torch.float64)
    return (0.7 * target + 0.2 * torch.rand(shape, generator=rng, dtype=torch.float64)), target


def slow_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> np.ndarray:
    """Equation 13 place by place, where the window of 11 pixels fits: (*spatial) -> (*spatial -
    10)."""
    offsets = np.arange(-REACH, REACH + 1)
    line = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.ones(())
    for _ in range(x.ndim):
        window = np.multiply.outer(window, line / line.sum())
    first, second = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    found = np.zeros([size - 2 * REACH for size in x.shape])
    for place in itertools.product(*map(range, found.shape)):
        cut = tuple(slice(start, start + 2 * REACH + 1) for start in place)
        a, b = x[cut], y[cut]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        both = (window * (a - mean_a) * (b - mean_b)).sum()
        above = (2 * mean_a * mean_b + first) * (2 * both + second)
        found[place] = above / ((mean_a**2 + mean_b**2 + first) * (var_a + var_b + second))
    return found


@pytest.mark.parametrize("shape", [(16, 20), (13, 12, 14)])
@pytest.mark.parametrize("data_range", [1.0, 3.0])
def test_ssim_is_the_equation(shape: tuple[int, ...], data_range: float) -> None:
    made, target = pair(1, *shape)
    slow = slow_ssim(made[0].numpy(), target[0].numpy(), data_range)
    assert structural_similarity(made, target, data_range=data_range) == pytest.approx(slow.mean(), abs=1e-9)
    region = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    inside = region.numpy()[(slice(REACH, -REACH),) * len(shape)]
    found = structural_similarity(made, target, data_range=data_range, region=region)
    assert found == pytest.approx(slow[inside].mean(), abs=1e-9)
    assert found != pytest.approx(slow.mean(), abs=1e-4)


def test_ssim_is_that_of_torchmetrics() -> None:
    made, target = pair(3, 24, 18)
    _, places = structural_similarity_index_measure(made[None], target[None], data_range=1.0, return_full_image=True)
    inside = places[
        ..., REACH:-REACH, REACH:-REACH
    ]  # its mean counts windows that reach over the border too, where it mirrors
    assert structural_similarity(made, target) == pytest.approx(inside.mean().item(), abs=1e-6)


def test_channels_are_averaged() -> None:
    made, target = pair(2, 16, 16)
    each = [structural_similarity(made[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert structural_similarity(made, target) == pytest.approx(np.mean(each), abs=1e-12)


def test_what_ssim_must_be() -> None:
    made, target = pair(1, 16, 16)
    assert structural_similarity(target, target) == 1
    assert structural_similarity(made, target) == pytest.approx(structural_similarity(target, made), abs=1e-12)
    assert structural_similarity(5 * made, 5 * target, data_range=5) == pytest.approx(
        structural_similarity(made, target), abs=1e-9
    )
    assert structural_similarity(1 - target, target) < 0
    assert math.isnan(structural_similarity(made[:, :10], target[:, :10]))
    assert math.isnan(structural_similarity(made, target, region=torch.zeros(16, 16, dtype=torch.bool)))


def test_absolute_error() -> None:
    made, target = pair(2, 5, 6)
    region = torch.rand(5, 6, generator=torch.Generator().manual_seed(2)) < 0.5
    places = [(c, i, j) for c in range(2) for i in range(5) for j in range(6)]
    assert mean_absolute_error(made, target) == pytest.approx(
        sum(abs(made[p] - target[p]).item() for p in places) / 60, abs=1e-12
    )
    chosen = [abs(made[p] - target[p]).item() for p in places if region[p[1:]]]
    assert mean_absolute_error(made, target, region) == pytest.approx(sum(chosen) / len(chosen), abs=1e-12)
    assert mean_absolute_error(made, made + 2) == pytest.approx(2)
    assert math.isnan(mean_absolute_error(made, target, torch.zeros(5, 6, dtype=torch.bool)))


@pytest.mark.parametrize("metric", [mean_absolute_error, structural_similarity])
def test_shapes_that_differ(metric: object) -> None:
    made, target = pair(1, 16, 16)
    with pytest.raises(SpecError, match="bring them to one grid"):
        metric(made, target[:, :12])  # type: ignore[operator]
    with pytest.raises(SpecError, match="region"):
        metric(made, target, region=torch.ones(4, 4, dtype=torch.bool))  # type: ignore[operator]
