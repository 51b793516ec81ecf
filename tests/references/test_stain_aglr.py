"""Stain-AgLr's losses against loops in float64 written from the paper's equations, values and
gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allograft.methods.stain_aglr import consistency_loss, regeneration_loss


def softmax(row: list[float]) -> list[float]:
    powers = [math.exp(value) for value in row]
    return [power / sum(powers) for power in powers]


def test_consistency_is_the_divergence_of_the_altered_from_the_raw_prediction() -> None:
    """Eq. 2: D(P(y|x) || P(y|x')) = sum_k p_k log(p_k / q_k), raw first; and the mean over the
    batch."""
    rng = torch.Generator().manual_seed(0)
    raw, altered = (2 * torch.randn(5, 3, generator=rng, dtype=torch.float64) for _ in range(2))
    raw, altered = raw.requires_grad_(), altered.requires_grad_()
    loss, to_raw, to_altered = 0.0, torch.zeros(5, 3).double(), torch.zeros(5, 3).double()
    for b in range(5):
        p, q = softmax(raw[b].tolist()), softmax(altered[b].tolist())
        each = sum(p[k] * math.log(p[k] / q[k]) for k in range(3))
        loss += each / 5
        # d/d raw_k = p_k (log p_k/q_k - D), d/d altered_k = q_k - p_k: neither side is held fixed
        for k in range(3):
            to_raw[b, k] = p[k] * (math.log(p[k] / q[k]) - each) / 5
            to_altered[b, k] = (q[k] - p[k]) / 5
    found = consistency_loss(raw, altered)
    assert found.item() == pytest.approx(loss, rel=1e-12)
    found.backward()
    torch.testing.assert_close(raw.grad, to_raw)
    torch.testing.assert_close(altered.grad, to_altered)
    assert consistency_loss(altered, raw).item() != pytest.approx(loss, rel=1e-3)


def test_regeneration_is_the_squared_distance_of_each_pixels_colour() -> None:
    """Eq. 3: 1 / (W H) sum_i || restored_i - x_i ||^2, and the mean over the batch."""
    rng = torch.Generator().manual_seed(1)
    restored, raw = (torch.rand(2, 3, 4, 5, generator=rng, dtype=torch.float64) for _ in range(2))
    loss = 0.0
    for b in range(2):
        for i in range(4):
            for j in range(5):
                loss += sum(float(restored[b, c, i, j] - raw[b, c, i, j]) ** 2 for c in range(3)) / (4 * 5) / 2
    assert float(regeneration_loss(restored, raw)) == pytest.approx(loss, rel=1e-12)


def test_gradients() -> None:
    rng = torch.Generator().manual_seed(2)
    pair: list[Tensor] = [torch.randn(3, 4, generator=rng, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(consistency_loss, pair)
