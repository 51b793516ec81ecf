"""Fine-tuning: go on training, all of the network or a part of it, on the labelled target cases."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from allograft.context import Context
from allograft.context.settings import Strength
from allograft.methods.supervised import Supervised
from allograft.networks import trainable
from allograft.networks.scopes import Scope
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train


@dataclass(frozen=True)
class Finetune:
    """Tune all or part of the network on the labelled target cases.

    Frozen parts are in evaluation mode and keep nothing for backward. The learning rate is the study's.

    Args:
        scope: ``full``; ``decoder`` (with the heads); ``top`` (the last tensors up to 10 % of the parameters); ``first`` (the first two
            levels of the encoder, which hold most of what differs between scanners).
        augmentation: none, light or strong; by default the study's.
        first: what the tuning starts from.
    """

    scope: Scope = "full"
    augmentation: Strength | None = None
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="shirokikh2020first",
        authors="Shirokikh, B. and Zakazov, I. and Chernyavskiy, A. and Fedulova, I. and Belyaev, M.",
        title="First U-Net Layers Contain More Domain Specific Information Than The Last Ones",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2020,
    )
    needs: ClassVar[Needs] = Needs(target_labels=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates of the scope on target batches."""
        network = (yield from context.run(self.first, scenario, network)).network
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target", augmentation=self.augmentation)
        with trainable(network, self.scope):
            steps = context.settings.budget.adaptation(batches.epoch)
            step = context.gradient_step(network, steps=steps)
            train(step, batches, steps=steps, context=context)
        yield Stage("tuned", Direct(network), scenario.sites)
        return Carry(network, named_state(step.optimizer, network))
