"""Temperature and reliability: what is known beforehand comes back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from allograft.errors import SpecError
from allograft.metrics.calibration import LARGEST, reliability, temperature_of
from allograft.metrics.classification import expected_calibration_error


def drawn(count: int = 4000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose softmax is the true distribution of the labels."""
    rng = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(count, 3, generator=rng, dtype=torch.float64)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


@pytest.mark.parametrize("factor", [0.3, 1.0, 4.0])
def test_logits_that_are_too_large_by_a_factor_have_that_temperature(factor: float) -> None:
    logits, label = drawn()
    assert temperature_of(factor * logits, label) == pytest.approx(factor, rel=0.06)


def test_the_temperature_is_the_minimum_of_a_grid() -> None:
    logits, label = drawn(60)
    found = temperature_of(3 * logits, label)
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64).exp()
    losses = torch.stack([F.cross_entropy(3 * logits / each, label) for each in grid])
    assert found == pytest.approx(float(grid[losses.argmin()]), rel=2e-3)


def test_two_logits_with_a_zero_are_a_sigmoid() -> None:
    rng = torch.Generator().manual_seed(1)
    logit = torch.randn(50, generator=rng, dtype=torch.float64)
    label = (torch.rand(50, generator=rng) < (logit / 2).sigmoid()).long()
    found = temperature_of(torch.stack([torch.zeros_like(logit), logit], 1), label)
    grid = torch.linspace(-3, 3, 6001, dtype=torch.float64).exp()
    losses = torch.stack([F.binary_cross_entropy_with_logits(logit / each, label.double()) for each in grid])
    assert found == pytest.approx(float(grid[losses.argmin()]), rel=2e-3)


def test_answers_that_are_always_right_stop_at_the_bound() -> None:
    logits, label = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    assert temperature_of(logits, label) == pytest.approx(1 / LARGEST, rel=1e-3)
    with pytest.raises(SpecError, match="no answer to fit it on"):
        temperature_of(logits[:0], label[:0])


def test_the_diagram_adds_up_to_the_calibration_error() -> None:
    logits, label = drawn(500)
    confidence, found = logits.softmax(1).max(1)
    bins = reliability(confidence, found == label, 10)
    assert sum(one.count for one in bins) == 500
    gap = sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / 500
    assert gap == pytest.approx(expected_calibration_error(confidence, found == label, 10))
