"""Bias tuning: on the labelled target cases only the biases of a network move (Ben Zaken et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train


@dataclass(frozen=True)
class Biases:
    """Tune only the biases of the network on the labelled target cases.

    The paper tunes a transformer for text and learns a new classification head; here any network with
    biases is tuned, and its head starts from the source's. The learning rate is the study's.

    Args:
        heads: tune the weights of the heads too, as the paper does.
        first: what the tuning starts from.
    """

    heads: bool = True
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="benzaken2022bitfit",
        authors="Ben Zaken, E. and Goldberg, Y. and Ravfogel, S.",
        title="BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
        venue="Annual Meeting of the Association for Computational Linguistics",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(target_labels=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without biases, before anything is trained."""
        if not any(is_tuned(name, heads=False) for name, _ in network.named_parameters()):
            raise SpecError("biases: the network has no parameter called 'bias'; choose another network or recipe")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates on target batches."""
        network = (yield from context.run(self.first, scenario, network)).network
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target")
        steps = context.settings.budget.adaptation(batches.epoch)
        with biases_alone(network, self.heads):
            step = context.gradient_step(network, steps=steps)
            train(step, batches, steps=steps, context=context)
        yield Stage("tuned", Direct(network), scenario.sites)
        return Carry(network, named_state(step.optimizer, network))


def is_tuned(name: str, *, heads: bool) -> bool:
    """Whether the parameter of this name is tuned.

    >>> is_tuned("encoder.levels.0.conv.bias", heads=False), is_tuned("heads.mask.weight", heads=False)
    (True, False)
    """
    return name.rpartition(".")[2] == "bias" or (heads and name.startswith("heads."))


@contextmanager
def biases_alone(network: AnyNetwork, heads: bool) -> Iterator[None]:
    """Inside, all other parameters are frozen, and so are running statistics (evaluation mode)."""
    frozen = [p for name, p in network.named_parameters() if p.requires_grad and not is_tuned(name, heads=heads)]
    network.eval()
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)
