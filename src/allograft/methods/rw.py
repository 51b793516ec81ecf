"""Riemannian walk: weights are held by their Fisher information and by what they gained on the way
(Chaudhry et al. 2018)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.importance import Weights, quadratic_pull
from allograft.parts.stream import phases, stage_training
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe
from allograft.step import GradientStep, Objective, Terms, named_state
from allograft.train import train_with_checkpoints


def path_score(gain: Tensor, fisher: Tensor, moved: Tensor, epsilon: float = 1e-8) -> Tensor:
    """How much of the loss each weight saved per distance in distribution, at least 0 (equation 8):
    gain / (F moved^2 / 2 + epsilon).

    Args:
        gain: - (slope of the loss) * (movement), summed over the steps of an interval.
        fisher: the running Fisher information at its end.
        moved: the movement over the interval.

    Example:
        >>> path_score(torch.tensor([1.0, -1.0]), torch.ones(2), torch.tensor([2.0, 2.0]), 0.0).tolist()
        [0.5, 0.0]
    """
    return (gain / (fisher * moved.square() / 2 + epsilon)).clamp_min(0)


def to_unit_range(values: Weights) -> dict[str, Tensor]:
    """All values of all parameters together brought to [0, 1] by their least and their largest."""
    low = torch.stack([value.min() for value in values.values()]).min()
    high = torch.stack([value.max() for value in values.values()]).max()
    width = (high - low).clamp_min(torch.finfo(high.dtype).tiny)
    return {name: (value - low) / width for name, value in values.items()}


@dataclass
class Walked:
    """What is kept of the way, by parameter: the running Fisher information, the score of the stage
    so far, the gain in the present interval, and where that began. It is restored with the
    training."""

    fisher: dict[str, Tensor]
    score: dict[str, Tensor]
    gain: dict[str, Tensor]
    start: dict[str, Tensor]

    @staticmethod
    def from_network(network: nn.Module) -> Walked:
        """Nothing walked yet."""
        here = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
        fisher, score, gain = ({name: torch.zeros_like(value) for name, value in here.items()} for _ in range(3))
        return Walked(fisher, score, gain, here)

    def next_stage(self, network: nn.Module) -> Walked:
        """The running Fisher information goes on, all else begins again."""
        return replace(Walked.from_network(network), fisher=self.fisher)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Copies of all four."""
        return {
            kind: {name: value.clone() for name, value in getattr(self, kind).items()}
            for kind in ("fisher", "score", "gain", "start")
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """As ``state_dict`` gave them."""
        for kind, values in state.items():
            for name, value in getattr(self, kind).items():
                value.copy_(values[name])


@dataclass
class WalkingStep:
    """A gradient step that also measures the way (algorithm 1).

    Slopes are those of the whole loss, its pull included, as the optimizer sees them.

    Args:
        inner: the update.
        walked: what it adds to.
        momentum: alpha of the running Fisher information, F = alpha g^2 + (1 - alpha) F.
        every: updates in an interval.
    """

    inner: GradientStep
    walked: Walked
    momentum: float
    every: int
    number: int = 0

    def __call__(self, batch: Batch) -> Terms:
        parameters = {n: p for n, p in self.inner.network.named_parameters() if n in self.walked.fisher}
        before = {name: p.detach().clone() for name, p in parameters.items()}
        terms = self.inner(batch)
        self.number += 1
        with torch.no_grad():
            for name, p in parameters.items():
                slope = torch.zeros_like(p) if p.grad is None else p.grad
                self.walked.gain[name] -= slope * (p - before[name])
                self.walked.fisher[name].lerp_(slope.square(), self.momentum)
                if self.number % self.every == 0:
                    moved = p - self.walked.start[name]
                    self.walked.score[name] += path_score(self.walked.gain[name], self.walked.fisher[name], moved)
                    self.walked.gain[name].zero_()
                    self.walked.start[name].copy_(p)
        return terms


@dataclass(frozen=True)
class Held:
    """An objective and the pull to where the last stage ended (equation 10).

    Args:
        inner: the supervised loss.
        centre: weights at the end of the last stage; {} on the first.
        weight: normalised Fisher information plus normalised score.
        strength: lambda; there is no half in it.
    """

    inner: Objective
    centre: Weights
    weight: Weights
    strength: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The inner terms and ``walk``; the inner terms alone where nothing pulls."""
        terms = self.inner(network, batch)
        if not (self.centre and self.strength):
            return terms
        moving = [(name, p) for name, p in network.named_parameters() if name in self.weight]
        return {**terms, "walk": self.strength * quadratic_pull(moving, self.centre, self.weight)}


@dataclass(frozen=True)
class Rw:
    """Sequential training in which each weight is held by how much the output depends on it and how
    much it gained on the way (Riemannian walk, RWalk).

    The Fisher information is a running mean of squared slopes of batches over all stages; the score
    sums, over intervals, the loss that a weight saved per distance in distribution, and is halved
    with each stage. Both are brought to [0, 1] before they weigh. The paper's stored examples are
    left out: no data of an earlier stage is kept.

    Args:
        strength: lambda; 0 is sequential training. 0.4 as in the framework in which ODEx was
            compared.
        momentum: alpha of the running Fisher information, 0.9 in the paper.
        every: updates in an interval, 10.
    """

    strength: Annotated[float, Ge(0)] = 0.4
    momentum: Annotated[float, Gt(0), Le(1)] = 0.9
    every: Annotated[int, Ge(1)] = 10

    paper: ClassVar[Paper | None] = Paper(
        key="chaudhry2018riemannian",
        authors="Chaudhry, A. and Dokania, P. K. and Ajanthan, T. and Torr, P. H. S.",
        title="Riemannian Walk for Incremental Learning: Understanding Forgetting and Intransigence",
        venue="European Conference on Computer Vision",
        year=2018,
        doi="10.1007/978-3-030-01252-6_33",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe | None:
        """At strength 0 sequential training."""
        return None if self.strength else parse_recipe("sequential")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage."""
        walked = Walked.from_network(network)
        centre: Weights = {}
        weight: Weights = {}
        score: Weights = {}
        for phase in phases(scenario):
            objective = Held(context.supervised_task.objective, centre, weight, self.strength)
            inner, batches, steps = stage_training(network, phase, context, objective)
            step = WalkingStep(inner, walked, self.momentum, self.every)
            stage = Stage(phase.name, Direct(network), phase.seen)
            yield from train_with_checkpoints(
                step, batches, steps=steps, context=context, along=[stage], name=phase.name
            )
            yield stage
            centre = {name: p.detach().clone() for name, p in network.named_parameters()}
            score = halved(score, walked.score)
            fisher, gained = to_unit_range(walked.fisher), to_unit_range(score)
            weight = {name: fisher[name] + gained[name] for name in fisher}
            walked = walked.next_stage(network)
        return Carry(network, named_state(inner.optimizer, network))


def halved(earlier: Weights, newest: Weights) -> dict[str, Tensor]:
    """The score after a stage: the mean of the score before it and the stage's own; that of the
    first is its own."""
    if not earlier:
        return {name: value.clone() for name, value in newest.items()}
    return {name: (earlier[name] + value) / 2 for name, value in newest.items()}
