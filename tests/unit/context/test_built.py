"""What a context builds steps from: loaders, optimizers and the default step, as settings and
recipe ask, and what it counts of them."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.context.test_context import a_network, cut, manifest  # noqa: F401 - a fixture
from tests.unit.tiny import a_context
from torch import nn

from allograft.cohort.orders import Turns, by_cohort
from allograft.context import Budget
from allograft.figure import Lines
from allograft.transforms.sample import Sample


def test_a_loader_is_as_settings_and_recipe_ask(manifest: Path) -> None:  # noqa: F811
    cohorts = cut(manifest).source
    context = replace(a_context(patch=(8, 8), clip=None), workers=3)
    plain = context.loader(cohorts, "source")
    assert (plain.workers, plain.transform) == (3, Sample("none", (8, 8)))
    assert context.loader(cohorts, "source", augmentation="strong").transform == Sample("strong", (8, 8))

    def own(batch: Any, rng: Any) -> Any:
        return batch

    assert context.loader(cohorts, "source", transform=own).transform is own
    order = Turns(by_cohort(cohorts), 1, context.loader_seeds("other"))
    assert context.loader(cohorts, "source", order=order).order is order
    assert plain.seeds == context.seeds.child("loader", "source") == context.loader_seeds("source")


@pytest.mark.parametrize(("steps_per_epoch", "batch_size", "epoch"), [(None, 2, 3), (None, 8, 1), (7, 2, 7)])
def test_an_epoch_is_one_pass_or_as_long_as_the_study_says(
    steps_per_epoch: int | None,
    batch_size: int,
    epoch: int,
    manifest: Path,  # noqa: F811
) -> None:
    scenario = cut(manifest)  # three cases of the source, two and one of the target
    context = a_context(budget=Budget(batch_size=batch_size, steps_per_epoch=steps_per_epoch))
    assert context.batch_size == batch_size
    assert context.loader((*scenario.source, *scenario.target), "all").epoch == epoch


def test_a_loader_is_divided_among_processes_unless_asked_otherwise(manifest: Path) -> None:  # noqa: F811
    context: Any = replace(a_context(), fabric=SimpleNamespace(global_rank=1, world_size=2))  # type: ignore[arg-type]
    made = context.loader(cut(manifest).source, "source")
    whole = context.loader(cut(manifest).source, "source", divided=False)
    assert [(one.rank, one.world) for one in (made, whole)] == [(1, 2), (0, 1)]


def test_an_optimizer_is_the_studys_or_the_one_that_is_asked_for() -> None:
    context = a_context(optimizer={"sgd": {"lr": 0.3}})
    made = context.optimizer(a_network().parameters())
    assert (type(made), made.param_groups[0]["lr"]) == (torch.optim.SGD, 0.3)
    asked = context.optimizer(a_network().parameters(), {"adam": {"lr": 0.04}})
    assert (type(asked), asked.param_groups[0]["lr"]) == (torch.optim.Adam, 0.04)


def test_the_most_parameters_that_one_optimizer_moves_are_counted() -> None:
    context = a_context()
    large, small = nn.Linear(4, 4), nn.Linear(2, 2)
    context.optimizer(large.parameters())
    context.optimizer(small.parameters())
    assert context.meter.trainable_parameters == 20
    network = a_network()
    optimizer = context.optimizer(small.parameters())
    optimizer.add_param_group({"params": list(large.parameters())})
    context.gradient_step(network, optimizer=optimizer)  # counted again: it has more groups now
    assert context.meter.cost()["trainable_parameters"] == 26


class Headed(nn.Module):
    """An objective with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)

    def forward(self, network: Any, batch: Any) -> Any:
        """Nothing."""
        return {}


def test_the_default_step_moves_what_requires_gradients_of_network_and_objective() -> None:
    network, objective = a_network(), Headed()
    for p in network.encoder.parameters():
        p.requires_grad_(False)
    step = a_context(clip=0.7, schedule={"cosine": {}}).gradient_step(network, objective, steps=10)
    moving = {id(p) for group in step.optimizer.param_groups for p in group["params"]}
    expected = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    assert moving == {id(p) for p in (*expected, *objective.parameters())}
    assert (step.clip, step.objective) == (0.7, objective)
    assert step.schedule is not None
    assert a_context(schedule={"cosine": {}}).gradient_step(network).schedule is None
    assert a_context().gradient_step(network, steps=10).schedule is None


def test_the_task_of_a_recipe_has_the_loss_that_the_study_names() -> None:
    context = a_context(loss={"monai.DiceLoss": {}})
    assert context.supervised_task != context.task
    assert "Dice" in repr(context.supervised_task) + repr(context.gradient_step(a_network()).objective)


def test_what_is_computed_once_leaves_the_generators_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seeds = a_context().seeds
    with seeds.everything("here"):
        expected = drawn()
    with seeds.everything("here"):
        made = a_context().once("draws", lambda: {"x": torch.tensor(drawn())})
        assert drawn() == expected
    assert made["x"].tolist() == pytest.approx(expected)


def test_what_a_recipe_shows_is_named_as_it_says() -> None:
    context = a_context()
    figure = Lines("a curve", (0.0, 1.0), {"x": (1.0, 2.0)}, "step", "value")
    context.show("mine", figure)
    assert context.meter.figures == {"mine": figure}
