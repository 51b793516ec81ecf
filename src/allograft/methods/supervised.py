"""Supervised training on the source sites: the model that every other row is compared with."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, ClassVar

from allograft.context import Context
from allograft.context.settings import Strength
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train


@dataclass(frozen=True)
class Supervised:
    """Train on the source sites and do nothing else: the lower bound of every study.

    Args:
        augmentation: none, light or strong; by default the study's. Strong augmentation is the simplest answer to a shift.
    """

    augmentation: Strength | None = None

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        network.train()
        batches = context.loader(scenario.source, "source", augmentation=self.augmentation)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        train(step, batches, steps=steps, context=context)
        yield Stage("trained", Direct(network), scenario.sites)
        return Carry(network, named_state(step.optimizer, network))
