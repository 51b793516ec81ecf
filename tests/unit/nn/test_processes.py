"""Counts and means over processes, told by a group of two of which the other is written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allograft.nn import processes as shared
from allograft.nn.processes import by_itself, count_over_processes, follow_first, mean_over_processes

Two = Callable[[float], None]


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    """Makes this process one of two; the other holds so much."""

    def with_other(value: float) -> None:
        monkeypatch.setattr(shared.dist, "is_available", lambda: True)
        monkeypatch.setattr(shared.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(shared.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(shared.dist, "all_reduce", lambda total: total.add_(value))

    return with_other


@pytest.mark.parametrize(
    ("here", "other", "count"),
    [([1, 1, 1], 1, 2), ([0, 1], 0, 0.5), ([0], 1, 0.5), ([0, 0], 0, 0.5), ([1, 0, 1], 3, 2.5)],
)
def test_the_count_of_two_processes_is_their_mean_and_of_one_label_among_both_a_half(
    here: list[int], other: int, count: float, two: Two
) -> None:
    """Both losses over that mean add up to twice the undivided loss, whose count is one at least."""
    two(other)
    known = torch.tensor(here) > 0
    assert float(count_over_processes(known)) == count
    assert float(count_over_processes(known[None, :, None])) == count
    with by_itself():
        assert float(count_over_processes(known)) == max(1, sum(here))


def test_a_process_alone_counts_what_it_knows_and_one_at_least() -> None:
    counts = [int(count_over_processes(torch.tensor(known))) for known in ([True, True], [False], [False, True])]
    assert counts == [2, 1, 1]


def test_a_mean_over_processes_leaves_the_values_and_has_no_gradient(two: Two) -> None:
    two(5.0)
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    mean = mean_over_processes(values)
    assert (mean.tolist(), values.tolist(), mean.requires_grad) == ([3.0, 4.0], [1.0, 3.0], False)


def test_buffers_follow_the_first_process_too(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two(0.0)
    followed: list[tuple[Tensor, int]] = []
    monkeypatch.setattr(shared.dist, "broadcast", lambda value, source: followed.append((value, source)))
    layer: Any = nn.BatchNorm2d(2)
    follow_first(layer)
    assert {source for _, source in followed} == {0}
    every = (layer.weight, layer.bias, layer.running_mean, layer.running_var, layer.num_batches_tracked)
    assert all(any(value is one for value, _ in followed) for one in every)
