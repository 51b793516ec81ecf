"""The losses of MetaMedSeg's table 2 against slow loops over pixels, written from their papers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allograft.nn.overlap_losses import LOSSES


@settings(max_examples=25)
@given(st.integers(2, 30), st.integers(0, 10**6))
def test_losses_are_their_sums_over_pixels(count: int, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(count, generator=rng, dtype=torch.float64)
    mask = (torch.rand(count, generator=rng) < 0.4).double()
    mask[0] = 1.0
    p, y = [1 / (1 + math.exp(-z)) for z in logits.tolist()], mask.tolist()
    weight = sum(v == 0 for v in y) / sum(v == 1 for v in y)  # negatives / positives
    bce = -sum(weight * v * math.log(q) + (1 - v) * math.log(1 - q) for q, v in zip(p, y, strict=True)) / count
    hits = sum(q * v for q, v in zip(p, y, strict=True))
    union = sum(q + v - q * v for q, v in zip(p, y, strict=True))
    false = sum(q * (1 - v) for q, v in zip(p, y, strict=True))
    missed = sum((1 - q) * v for q, v in zip(p, y, strict=True))
    iou = (hits + 1) / (union + 1)
    expected = {
        "bce": bce,
        "iou": 1 - iou,
        "bce_iou": bce - math.log(2 * iou / (iou + 1)),  # equation 4
        "dice": 1 - (2 * hits + 1) / (sum(p) + sum(y) + 1),
        "focal-tversky": (1 - (hits + 1) / (hits + 0.2 * false + 0.8 * missed + 1)) ** (3 / 4),
    }
    assert set(expected) == set(LOSSES)
    for name, value in expected.items():
        assert float(LOSSES[name](logits, mask)) == pytest.approx(value, rel=1e-9, abs=1e-12), name


def test_no_foreground_and_nothing_else_have_a_loss() -> None:
    for mask in (torch.zeros(6), torch.ones(6)):
        for name, loss in LOSSES.items():
            logits = torch.linspace(-3, 3, 6).requires_grad_()
            value = loss(logits, mask)
            value.backward()
            assert value.isfinite(), name
            assert logits.grad is not None
            assert logits.grad.isfinite().all(), name
