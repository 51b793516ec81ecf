"""Supervised training on the source sites: the model that every other row is compared with."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge

from allograft.context import Context
from allograft.context.settings import Strength
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.table import find
from allograft.train import train_with_checkpoints
from allograft.updates import UpdateMagnitudes

OptimizerRequest = dict[str, dict[str, object]]
MEASURED = 100
"""Updates of a training whose magnitude is measured, about."""


@dataclass(frozen=True)
class Supervised:
    """Train on the source sites and do nothing else: the lower bound of every study.

    Args:
        augmentation: none, light or strong; by default the study's. Strong augmentation is the
            simplest answer to a shift.
        optimizer: one ``{name: arguments}``; by default the study's. For tables that compare
            optimizers.
        epochs: how long; by default the budget's. The study's schedule spans them.
        show_updates: show how far the layers of encoder, decoder and heads move in an update, for
            networks of our table.
        first: what the training begins with, such as a pre-training; None = the study's start.
    """

    augmentation: Strength | None = None
    optimizer: OptimizerRequest | None = None
    epochs: Annotated[int, Ge(1)] | None = None
    show_updates: bool = False
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, "supervised")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        batches = context.loader(scenario.source, "source", augmentation=self.augmentation)
        steps = context.settings.budget.training(batches.epoch) if self.epochs is None else self.epochs * batches.epoch
        optimizer = context.optimizer([p for p in network.parameters() if p.requires_grad], self.optimizer)
        plain = context.gradient_step(network, optimizer=optimizer, steps=steps)
        measured = UpdateMagnitudes(plain, network, max(1, steps // MEASURED)) if self.show_updates else None
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(measured or plain, batches, steps=steps, context=context, along=[stage])
        if measured is not None:
            context.show("updates", measured.figure())
        yield stage
        return Carry(network, named_state(optimizer, network))


def check_optimizer(request: OptimizerRequest | None, where: str) -> None:
    """Raise ``SpecError`` for what is not one ``{name: arguments}`` that the table of optimizers
    makes; None is none."""
    if request is None:
        return
    if len(request) != 1:
        raise SpecError(f"{where}: optimizer: expected one {{name: {{...}}}}, found {', '.join(request) or 'nothing'}")
    ((name, arguments),) = request.items()
    try:
        find("optimizer", name)([torch.zeros(1, requires_grad=True)], **arguments)
    except (TypeError, ValueError) as error:
        raise SpecError(f"{where}: optimizer: {name}: {error}") from error
