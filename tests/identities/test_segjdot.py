"""What must be equal in Seg-JDOT: plans of equal, permuted and few images. (Training at weight 0:
see test_aiva.)"""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allograft.methods.segjdot import coupling, feature_distance, label_loss

pytest.importorskip("ot")


def test_permuted_features_are_coupled_with_themselves_at_no_cost() -> None:
    rng = torch.Generator().manual_seed(0)
    features, order = torch.randn(6, 9, generator=rng), torch.randperm(6, generator=rng)
    cost = feature_distance(features, features[order])
    plan = coupling(cost)
    assert torch.equal(plan.argmax(0), order)
    torch.testing.assert_close((plan * cost).sum(), torch.tensor(0.0))
    assert coupling(-cost).argmax(0).tolist() != order.tolist()  # the nearest, not the farthest


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 6))
def test_every_image_gives_and_takes_its_share(seed: int, s: int, t: int) -> None:
    cost = torch.rand(s, t, generator=torch.Generator().manual_seed(seed), dtype=torch.float64, requires_grad=True)
    plan = coupling(cost)
    assert not plan.requires_grad
    assert (plan >= 0).all()
    torch.testing.assert_close(plan.sum(1), torch.full((s,), 1 / s, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((t,), 1 / t, dtype=torch.float64))


def test_sure_and_right_costs_nothing_and_what_does_not_count_is_not_read() -> None:
    mask = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    sure = 60.0 * torch.nn.functional.one_hot(mask, 3).movedim(-1, 1).float()
    counts = torch.ones_like(mask, dtype=torch.bool)
    found = label_loss(mask, sure, counts)
    torch.testing.assert_close(found.diagonal(), torch.zeros(2), atol=1e-6, rtol=0)
    assert (found[[0, 1], [1, 0]] > 5).all()
    counts[:, 2:] = False
    other = mask.clone()
    other[:, 2:] = -100
    assert torch.equal(label_loss(other, sure, counts), label_loss(mask, sure, counts))
    assert label_loss(other, sure, torch.zeros_like(counts)).tolist() == [[0.0, 0.0], [0.0, 0.0]]
