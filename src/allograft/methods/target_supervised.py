"""Supervised training on the target alone: what the target's labels are worth without any
source."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar, Literal

from allograft.context import Context
from allograft.context.settings import Strength
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class TargetSupervised:
    """Train on target labels alone, from the same start as the source model.

    Args:
        labels: ``budget`` for the labels that every row may use; ``all`` for every labelled
            training case of the target, the upper bound.
        augmentation: none, light or strong; by default the study's.
    """

    labels: Literal["budget", "all"] = "budget"
    augmentation: Strength | None = None

    paper: ClassVar[Paper | None] = None

    @property
    def needs(self) -> Needs:
        """The budget's labels, or all."""
        return Needs(target_labels=self.labels == "budget", all_target_labels=self.labels == "all")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """As many updates as the source model had, ``budget.steps``."""
        network.train()
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target", augmentation=self.augmentation)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
