"""One update: what it clips, averages and names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.tiny import case
from torch import nn

from allograft.batch import collate
from allograft.run.fabric import local_fabric
from allograft.schedule import Planned
from allograft.step import GradientStep, average_gradients, named_state

BATCH = collate([case("a", 1.0), case("b", 3.0)])


def a_step(clip: float | None = None, schedule: bool = False) -> GradientStep:
    network = nn.Conv2d(1, 1, 1)
    nn.init.ones_(network.weight)
    nn.init.zeros_(network.bias)
    optimizer = torch.optim.SGD(network.parameters(), 0.5)

    def objective(net: Any, batch: Any) -> dict[str, torch.Tensor]:
        return {"fit": net(batch.image).mean(), "small": 3 * net.weight.sum()}

    stepping = Planned(torch.optim.lr_scheduler.LambdaLR(optimizer, lambda number: 0.1**number)) if schedule else None
    return GradientStep(network, objective, optimizer, local_fabric(accelerator="cpu"), stepping, clip)


def test_the_sum_of_the_terms_is_minimised_and_terms_are_detached() -> None:
    step = a_step()
    terms = step(BATCH)
    assert {key: value.item() for key, value in terms.items()} == {"fit": 2.0, "small": 3.0}
    assert not any(value.requires_grad for value in terms.values())
    assert step.network.weight.item() == 1 - 0.5 * (2 + 3)
    assert step.network.bias.item() == -0.5


def test_gradients_do_not_pile_up() -> None:
    step = a_step()
    step(BATCH)
    step(BATCH)
    assert step.network.weight.item() == 1 - 2 * 0.5 * (2 + 3)


def test_clip_bounds_the_norm_of_all_gradients_together() -> None:
    step = a_step(clip=0.1)
    step(BATCH)
    moved = torch.tensor([1 - step.network.weight.item(), -step.network.bias.item()]) / 0.5
    assert moved.norm().item() == pytest.approx(0.1, rel=1e-3)
    assert (moved[0] / moved[1]).item() == pytest.approx(5, rel=1e-3)


def test_the_schedule_is_told_the_sum_of_the_terms() -> None:
    told: list[float] = []
    step = replace(a_step(), schedule=lambda loss: told.append(loss.item()))
    step(BATCH)
    assert told == [5.0]


def test_the_schedule_steps_after_each_update() -> None:
    step = a_step(schedule=True)
    step(BATCH)
    assert step.network.weight.item() == -1.5  # the first update at the first rate
    step(BATCH)
    assert step.network.weight.item() == pytest.approx(-1.5 - 0.05 * 5)


def test_alone_averaging_changes_nothing() -> None:
    a, b = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    a.grad = torch.tensor([1.0, 2.0])
    kept = a.grad
    average_gradients([a, b])
    assert a.grad is kept
    assert kept.tolist() == [1, 2]
    assert b.grad is None


def test_state_by_name() -> None:
    network = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    outside = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([outside, network[1].weight, network[0].bias])
    (network(torch.ones(1, 1)).sum() * outside).sum().backward()
    optimizer.step()
    named = named_state(optimizer, network)
    assert named["kind"] == "adam"
    assert set(named["state"]) == {"1.weight", "0.bias"}
    assert torch.equal(named["state"]["1.weight"]["exp_avg"], 0.1 * network[1].weight.grad)
