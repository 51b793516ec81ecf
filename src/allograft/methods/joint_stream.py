"""Joint training on all stages of a stream at once: the upper bound of continual learning."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.stream import phases
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class JointStream:
    """Train on all stages of the stream at once, as if the data of earlier stages could be kept.

    As many updates as the stages have together, from scratch, under one schedule; every stage has
    the same share of a batch. No continual method is given as much, so this row is a bound and not
    a rival; it is evaluated once, after all stages.
    """

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(stream=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates for each stage, or as many as its epochs of
        ``budget.steps_per_epoch`` have; an epoch that is one pass is one over all stages."""
        network.train()
        every = phases(scenario)
        batches = context.loader([phase.cohort for phase in every], "joint")
        budget = context.settings.budget
        one_pass = budget.epochs is not None and budget.steps_per_epoch is None
        steps = budget.training(batches.epoch) * (1 if one_pass else len(every))
        step = context.gradient_step(network, steps=steps)
        stage = Stage("trained", Direct(network), every[-1].seen)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
