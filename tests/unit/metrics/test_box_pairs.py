"""Pairs of boxes at one threshold: by hand, and as the matching of all thresholds has them."""

from __future__ import annotations

import pytest
import torch

from allograft.metrics.detection import match, pairs


def test_a_box_is_used_once_and_only_by_its_class() -> None:
    true = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 5], [40, 0, 50, 4.9], [20, 0, 30, 10]])
    one = torch.ones(5, dtype=torch.int64)
    # the second finds its cell taken, the third overlaps by exactly a half, the fourth by less, the fifth comes late
    assert pairs(boxes, one, true, one[:3]) == 2
    assert pairs(boxes, 2 * one, true, one[:3]) == 0
    assert pairs(boxes[:0], one[:0], true, one[:3]) == pairs(boxes, one, true[:0], one[:0]) == 0
    assert pairs(true, one[:3], true, one[:3]) == 3


@pytest.mark.parametrize("seed", range(8))
def test_pairs_are_those_of_the_matching(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    corner = (torch.rand(24, 2, generator=rng) * 6).round()  # ties and crowds
    boxes = torch.cat([corner, corner + torch.randint(5, 12, (24, 2), generator=rng)], 1)
    label = torch.randint(1, 3, (24,), generator=rng)
    detected, true = (boxes[:14], label[:14]), (boxes[14:], label[14:])
    both = match(detected[0], detected[1], torch.ones(14), true[0], true[1])
    assert pairs(*detected, *true) == int(both.matched[:, 0].sum())
    assert 0 < pairs(*detected, *true) < 10
