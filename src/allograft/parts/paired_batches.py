"""Labelled source and unlabelled target side by side: what the unsupervised methods share."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from allograft.batch import Batch, collate
from allograft.cohort import Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.nn.processes import processes
from allograft.predictor import Direct
from allograft.recipe import Carry, Recipe, Scenario, Stage
from allograft.step import Objective, named_state
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class PairedBatches:
    """Batches of as many target images as source cases, the source first; ``halves`` takes them
    apart.

    A batch holds twice the study's batch size, so that the supervised part of a method sees what
    ``supervised`` sees.
    """

    source: Loader
    target: Loader

    @staticmethod
    def from_scenario(scenario: Scenario, context: Context) -> PairedBatches:
        """Those of a scenario, cropped and augmented as the study says; the sites of either side
        take turns."""
        return PairedBatches(context.loader(scenario.source, "source"), context.loader(scenario.target, "target"))

    @property
    def epoch(self) -> int:
        """Steps of a pass over the source."""
        return self.source.epoch

    def __call__(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on; the target's hold no label."""
        for source, target in zip(self.source(start), self.target(start), strict=True):
            yield collate([source, target.unlabelled()])


def adapt_in_pairs(
    first: Recipe, objective: Objective, scenario: Scenario, network: AnyNetwork, context: Context
) -> Generator[Stage, None, Carry]:
    """Continue from ``first`` by ``budget.adapt_steps`` updates of one objective on paired batches;
    an epoch of ``budget.adapt_epochs`` is one pass over the source."""
    network = (yield from context.run(first, scenario, network)).network
    network.train()
    pairs = PairedBatches.from_scenario(scenario, context)
    steps = context.settings.budget.adaptation(pairs.epoch)
    step = context.gradient_step(network, objective, steps=steps)
    stage = Stage("adapted", Direct(network), scenario.sites)
    yield from train_with_checkpoints(step, pairs, steps=steps, context=context, along=[stage])
    yield stage
    return Carry(network, named_state(step.optimizer, network))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """A batch of ``PairedBatches`` -> the labelled source cases and the target images.

    >>> batch = Batch(torch.zeros(4, 1, 2, 2), torch.tensor([0, 0, 1, 1]), ("a", "b", "c", "d"))
    >>> [part.cases for part in halves(batch)]
    [('a', 'b'), ('c', 'd')]
    """
    middle = len(batch) // 2
    return batch[:middle], batch[middle:].unlabelled()


def require_encoder(network: AnyNetwork, method: str) -> None:
    """Raise ``SpecError`` for a network that is one opaque module."""
    if not isinstance(network, Network):
        raise SpecError(f"{method}: the network is one opaque module without an encoder; choose a network of our table")


def last_feature(features: Tensor | Sequence[Tensor]) -> Tensor:
    """What an encoder returns -> its bottleneck, one row an image: (B, D), with its place in the
    image kept."""
    last = features if isinstance(features, Tensor) else features[-1]
    return last.flatten(1)


def gathered(values: Tensor) -> Tensor:
    """(B, ...) of this process -> (processes * B, ...) of all. Gradients flow into this process's
    own rows: see ``of_all``."""
    if processes() == 1:
        return values
    every = [torch.empty_like(values) for _ in range(processes())]
    dist.all_gather(every, values.detach().contiguous())
    every[dist.get_rank()] = values
    return torch.cat(every)


def of_all(loss: Tensor) -> Tensor:
    """A loss of ``gathered`` values: its value stays, and the mean of the processes' gradients
    becomes the gradient of the whole."""
    return loss if processes() == 1 else loss.detach() + processes() * (loss - loss.detach())
