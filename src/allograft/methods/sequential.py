"""Sequential training along a stream: each stage is trained on in turn, and nothing is done against
forgetting."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.stream import phases, train_stage
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state


@dataclass(frozen=True)
class Sequential:
    """Train on each stage of the stream in turn, from where the last one ended: the row that every
    continual method is compared with.

    Each stage has ``budget.steps`` updates, and an optimizer and a schedule of its own.
    """

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(stream=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage."""
        for phase in phases(scenario):
            stage = Stage(phase.name, Direct(network), phase.seen)
            step = yield from train_stage(network, phase, context, None, stage)
            yield stage
        return Carry(network, named_state(step.optimizer, network))
