"""L2-SP: fine-tuning that is pulled back to where it started (Li, Grandvalet and Davoine 2018)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import Objective, named_state
from allograft.train import train_with_checkpoints


def starting_point_penalty(network: nn.Module, start: Mapping[str, Tensor], alpha: float) -> Tensor:
    """The squared distance of the parameters from where they started, times alpha / 2 (equation 2
    of the paper): a scalar.

    Args:
        start: parameter name -> its value at the start; parameters that are not named are free.

    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> start_at = {"weight": layer.weight.detach() - 2.0}
        >>> round(starting_point_penalty(layer, start_at, 0.1).item(), 4)
        0.2
    """
    parts = [(p - start[name]).square().sum() for name, p in network.named_parameters() if name in start]
    return alpha / 2 * torch.stack(parts).sum()


@dataclass(frozen=True)
class Anchored:
    """An objective and the pull towards the starting point.

    Args:
        inner: the supervised loss.
        start: parameter name -> its value at the start.
        alpha: strength of the pull.
    """

    inner: Objective
    start: Mapping[str, Tensor]
    alpha: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The inner terms, and ``starting_point``; at strength 0 the inner terms alone."""
        terms = self.inner(network, batch)
        return (
            {**terms, "starting_point": starting_point_penalty(network, self.start, self.alpha)}
            if self.alpha
            else terms
        )


@dataclass(frozen=True)
class L2sp:
    """Tune the whole network on the labelled target cases, each weight pulled back to its value at
    the source.

    The paper pulls the layers that source and target task share, and decays those that are new
    towards zero (its beta). Source and target have one task here, so all layers are shared and beta
    has nothing to act on. The learning rate is the study's.

    Args:
        alpha: strength of the pull; 0 is plain fine-tuning. The paper picks it by cross-validation
            for each target; 0.1 is the value of its released training script, which pulls kernels
            alone and leaves biases and norms free.
        first: what the tuning starts from.
    """

    alpha: Annotated[float, Ge(0)] = 0.1
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="li2018explicit",
        authors="Li, X. and Grandvalet, Y. and Davoine, F.",
        title="Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
        venue="International Conference on Machine Learning",
        year=2018,
    )
    needs: ClassVar[Needs] = Needs(target_labels=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates on target batches."""
        network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        start = {name: p.detach().clone() for name, p in network.named_parameters()}
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target")
        steps = context.settings.budget.adaptation(batches.epoch)
        step = context.gradient_step(
            network, Anchored(context.supervised_task.objective, start, self.alpha), steps=steps
        )
        stage = Stage("tuned", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
