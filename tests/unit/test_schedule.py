"""Schedules: known values, and that a step follows them."""

from __future__ import annotations

import pytest
import torch

from allograft.errors import SpecError
from allograft.schedule import cosine, make_schedule, poly, step


def rates(request, steps, losses=None):
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = make_schedule(request, optimizer, steps)
    found = []
    for number in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule(torch.tensor(1.0 if losses is None else losses[number]))
    return found


def test_the_first_update_has_the_first_rate_and_the_last_comes_before_zero():
    assert rates({"poly": {"power": 1.0}}, 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_steps_fall_where_they_are_set():
    assert rates({"step": {"at": [0.5, 0.75], "factor": 0.1}}, 4) == pytest.approx([1.0, 1.0, 0.1, 0.01])


def test_a_warm_up_rises_and_then_half_a_cosine_falls():
    assert rates({"cosine": {"warmup": 0.5}}, 4) == pytest.approx([0.0, 0.5, 1.0, 0.5])


def test_a_plateau_is_left_after_the_patience():
    falling = rates({"plateau": {"every": 1, "patience": 0}}, 4, [4.0, 3.0, 2.0, 1.0])
    flat = rates({"plateau": {"every": 1, "patience": 0, "factor": 0.5}}, 4, [1.0, 1.0, 1.0, 1.0])
    assert falling == [1.0] * 4
    assert flat == [1.0, 1.0, 0.5, 0.25]


def test_a_plateau_looks_at_the_mean_of_a_window():
    saw = [3.0, 1.0, 3.0, 0.9, 3.0, 0.8, 3.0, 0.7]  # each second value rises, the means of two fall
    assert rates({"plateau": {"every": 2, "patience": 0}}, 8, saw) == [1.0] * 8


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.999])
def test_a_constant_start_is_the_same_in_all(progress):
    assert step(0.0) == poly(0.0) == cosine(0.0) == 1.0
    assert 0 <= cosine(progress) <= 1
    assert 0 <= poly(progress) <= 1


@pytest.mark.parametrize(
    "request_", [{"pol": {}}, {"poly": {"powr": 2}}, {"step": {"at": 3}}, {"plateau": {"factor": 2.0}}]
)
def test_a_slip_names_the_schedule(request_):
    with pytest.raises(SpecError, match="schedule"):
        make_schedule(request_, torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0), 10)
