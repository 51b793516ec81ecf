"""NT-Xent against a loop in float64 and another library."""

from __future__ import annotations

import math

import pytest
import torch
from monai.losses import ContrastiveLoss

from allograft.errors import SpecError
from allograft.nn.contrastive import nt_xent


def loop(first: torch.Tensor, second: torch.Tensor, temperature: float) -> float:
    """Eq. 7, pair by pair."""
    every = torch.cat([first, second]).double()
    count, total = len(first), 0.0

    def alike(a: int, b: int) -> float:
        return math.exp(float(every[a] @ every[b] / (every[a].norm() * every[b].norm())) / temperature)

    for i in range(2 * count):
        j = i + count if i < count else i - count
        total -= math.log(alike(i, j) / sum(alike(i, k) for k in range(2 * count) if k != i))
    return total / (2 * count)


@pytest.mark.parametrize(("count", "temperature"), [(2, 0.5), (5, 0.1), (3, 2.0)])
def test_it_is_the_papers_sum_and_monais(count: int, temperature: float) -> None:
    rng = torch.Generator().manual_seed(count)
    first, second = torch.randn(2, count, 7, generator=rng).unbind()
    ours = nt_xent(first, second, temperature)
    assert ours.item() == pytest.approx(loop(first, second, temperature), rel=1e-5)
    assert ours.item() == pytest.approx(ContrastiveLoss(temperature)(first, second).item(), rel=1e-4)


def test_both_directions_count_and_length_does_not() -> None:
    first, second = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).unbind()
    torch.testing.assert_close(nt_xent(first, second, 0.5), nt_xent(second, first, 0.5))
    torch.testing.assert_close(nt_xent(3 * first, second, 0.5), nt_xent(first, second, 0.5))


def test_alike_views_cost_less_than_exchanged_ones() -> None:
    views = torch.eye(4)
    assert nt_xent(views, views, 0.1) < 0.01 < nt_xent(views, views.roll(1, 0), 0.1)


def test_what_it_refuses() -> None:
    with pytest.raises(SpecError, match="no negatives"):
        nt_xent(torch.ones(1, 3), torch.ones(1, 3), 0.5)
    with pytest.raises(SpecError, match="temperature is 0"):
        nt_xent(torch.ones(2, 3), torch.ones(2, 3), 0)
    with pytest.raises(SpecError, match="views have shapes"):
        nt_xent(torch.ones(2, 3), torch.ones(3, 3), 0.5)
