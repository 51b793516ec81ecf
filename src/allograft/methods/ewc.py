"""Elastic weight consolidation: weights that mattered to earlier stages are held
(Kirkpatrick et al. 2017)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.importance import Weights, check_likelihood, fisher_diagonal, quadratic_pull
from allograft.parts.stream import phases, train_stage
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe
from allograft.step import Objective, named_state


@dataclass(frozen=True)
class Consolidated:
    """An objective, and for each earlier stage a pull towards where it ended (equation 3).

    Args:
        inner: the supervised loss.
        anchors: (weights at the end, Fisher information) of each earlier stage.
        strength: lambda; the term is lambda / 2 sum_i F_i (w_i - w*_i)^2.
    """

    inner: Objective
    anchors: tuple[tuple[Weights, Weights], ...]
    strength: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The inner terms and ``consolidation``; the inner terms alone where nothing pulls."""
        terms = self.inner(network, batch)
        if not (self.anchors and self.strength):
            return terms
        moving = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        pull = torch.stack([quadratic_pull(moving, centre, fisher) for centre, fisher in self.anchors]).sum()
        return {**terms, "consolidation": self.strength / 2 * pull}


@dataclass(frozen=True)
class Ewc:
    """Sequential training in which each weight is held to its values after earlier stages, by how
    much it mattered there (EWC).

    One penalty for each earlier stage, as the paper has it. Fisher information: see
    ``parts.importance.fisher_diagonal``, whose scale is such that strength 1 is the Laplace
    approximation of two stages of one size. Where we differ: the paper sets the strength for each
    experiment; ours is that of the framework in which ODEx was compared, whose Fisher information
    has another scale.

    Args:
        strength: lambda of equation 3; 0 is sequential training.
    """

    strength: Annotated[float, Ge(0)] = 0.4

    paper: ClassVar[Paper | None] = Paper(
        key="kirkpatrick2017overcoming",
        authors="Kirkpatrick, J. and Pascanu, R. and Rabinowitz, N. and Veness, J. and others",
        title="Overcoming Catastrophic Forgetting in Neural Networks",
        venue="Proceedings of the National Academy of Sciences",
        year=2017,
        doi="10.1073/pnas.1611835114",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe | None:
        """At strength 0 sequential training."""
        return None if self.strength else parse_recipe("sequential")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without class probabilities."""
        check_likelihood(context.task, "ewc")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage; then its Fisher information on the stage is kept."""
        anchors: list[tuple[Weights, Weights]] = []
        every = phases(scenario)
        for phase in every:
            objective = Consolidated(context.supervised_task.objective, tuple(anchors), self.strength)
            stage = Stage(phase.name, Direct(network), phase.seen)
            step = yield from train_stage(network, phase, context, objective, stage)
            yield stage
            if self.strength and phase is not every[-1]:
                fisher = fisher_diagonal(network, phase.cohort, context)
                anchors.append(({name: p.detach().clone() for name, p in network.named_parameters()}, fisher))
        return Carry(network, named_state(step.optimizer, network))
