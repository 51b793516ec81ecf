"""Online hard example mining: each step learns from the cases of its batch that are hardest now
(Shrivastava et al. 2016)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F
from annotated_types import Gt, Le
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.tasks.classification import Classification
from allograft.train import train_with_checkpoints


def hardest_loss(logits: Tensor, label: Tensor, share: float) -> Tensor:
    """The mean cross-entropy of the hardest cases: the largest losses of ``ceil(share * n)`` of the
    n labelled ones, equal in number whatever their class.

    Args:
        logits: (B, K).
        label: (B,) int64, -100 = not labelled.
        share: above 0, at most 1.

    Returns:
        (); 0 when no case is labelled.

    Example:
        >>> import torch
        >>> logits, label = torch.tensor([[9.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 0])
        >>> round(hardest_loss(logits, label, 0.5).item(), 4)
        0.6931
    """
    losses = F.cross_entropy(logits[label >= 0], label[label >= 0], reduction="none")
    count = int(-(-len(losses) * share // 1))
    return losses.topk(count).values.mean() if count else logits.sum() * 0


@dataclass(frozen=True)
class HardestCases:
    """``hardest_loss`` of the network's output, as an objective."""

    share: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        label = batch.labels["label"]
        assert isinstance(label, Tensor)
        return {"hardest": hardest_loss(network(batch.image)["label"], label, self.share)}


@dataclass(frozen=True)
class Ohem:
    """Train a classifier on the source sites by the hardest cases of each batch alone, which lets
    rare classes count for more.

    The paper mines regions of a detector; for complete images each step passes the batch once, and
    the easier cases have no gradient. Of several processes, each mines its own share of a batch.

    Args:
        share: of a batch that counts. The paper keeps 64 of about 2000 regions, and says nothing of
            images.
        first: what the training begins with; None = the study's start.
    """

    share: Annotated[float, Gt(0), Le(1)] = 0.5
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="shrivastava2016training",
        authors="Shrivastava, A. and Gupta, A. and Girshick, R.",
        title="Training Region-Based Object Detectors with Online Hard Example Mining",
        venue="Computer Vision and Pattern Recognition",
        year=2016,
        doi="10.1109/CVPR.2016.89",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)
    own_loss: ClassVar[str] = "the cross-entropy of the hardest cases"

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without a class an image."""
        if not isinstance(context.task, Classification):
            raise SpecError("ohem: mines images by their class; expected task: {classification: {classes: [...]}}")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, HardestCases(self.share), steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
