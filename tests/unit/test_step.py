"""One update: what it clips, averages and names."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from tests.unit.tiny import case
from torch import nn

from allograft.batch import collate
from allograft.run.fabric import local_fabric
from allograft.schedule import Planned
from allograft.step import GradientStep, average_buffers, average_gradients, descend, named_state

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


# ---------------------------------------------------------- two processes, the other of which is played
@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What the other process hands in to one reduction after another."""
    handed: list[torch.Tensor] = []

    def all_reduce(tensor: torch.Tensor, op: Any = dist.ReduceOp.SUM) -> None:
        theirs = handed.pop(0)
        tensor.copy_(torch.maximum(tensor, theirs) if op == dist.ReduceOp.MAX else tensor + theirs)

    monkeypatch.setattr("allograft.step.processes", lambda: 2)
    monkeypatch.setattr("allograft.step.dist.all_reduce", all_reduce)
    return handed


def test_a_gradient_is_the_mean_over_processes_and_zero_where_one_had_none(other: list[torch.Tensor]) -> None:
    ours, theirs, both, nobody = (nn.Parameter(torch.ones(2)) for _ in range(4))
    ours.grad, both.grad = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    other += [torch.tensor([0, 1, 1, 0], dtype=torch.uint8), torch.tensor([0.0, 0.0, 5.0, 6.0, 7.0, 8.0])]
    average_gradients([ours, theirs, both, nobody])
    assert [p.grad.tolist() for p in (ours, theirs, both) if p.grad is not None] == [[0.5, 1.0], [2.5, 3.0], [5.0, 6.0]]
    assert nobody.grad is None
    assert other == []


def test_running_statistics_are_the_mean_and_counts_stay(other: list[torch.Tensor]) -> None:
    layer = nn.BatchNorm1d(1)
    layer.running_mean.fill_(1.0)  # type: ignore[union-attr]
    layer.num_batches_tracked.fill_(3)  # type: ignore[union-attr]
    other += [torch.tensor([4.0]), torch.tensor([2.0])]
    average_buffers(layer)
    assert layer.running_mean.tolist() == [2.5]  # type: ignore[union-attr]
    assert layer.running_var.tolist() == [1.5]  # type: ignore[union-attr]
    assert layer.num_batches_tracked.item() == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("what", ["average_gradients", "average_buffers"])
def test_every_step_averages(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(f"allograft.step.{what}", told.append)
    step = a_step()
    step(BATCH)
    (averaged,) = told
    assert averaged is step.network if what == "average_buffers" else len(averaged) == 2


def test_the_objective_is_computed_in_the_precision_of_the_fabric() -> None:
    seen: list[torch.dtype] = []

    def objective(net: Any, batch: Any) -> dict[str, torch.Tensor]:
        made = net(batch.image)
        seen.append(made.dtype)
        return {"fit": made.float().mean()}

    for precision in ("32-true", "bf16-mixed"):
        fabric = local_fabric(accelerator="cpu", precision=precision)
        replace(a_step(), objective=objective, fabric=fabric)(BATCH)
    assert seen == [torch.float32, torch.bfloat16]


def test_what_another_loss_left_is_dropped_and_gradients_of_others_stay() -> None:
    moving, beside = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    moving.grad = torch.tensor([100.0])
    descend((moving * beside * 2).sum(), torch.optim.SGD([moving], 1.0), local_fabric(accelerator="cpu"))
    assert (moving.item(), beside.item()) == (-1.0, 1.0)
    assert beside.grad is not None
    assert beside.grad.item() == 2.0
