"""Joint training on source and target labels at once."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from allograft.context import Context
from allograft.context.settings import Strength
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class Joint:
    """Train on source and target labels together, from scratch; every site has the same share of a
    batch.

    Args:
        augmentation: none, light or strong; by default the study's.
    """

    augmentation: Strength | None = None

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True, target_labels=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """As many updates as the source model had, ``budget.steps``."""
        network.train()
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader((*scenario.source, *labelled), "joint", augmentation=self.augmentation)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
