"""LDAM: rare classes keep a wider margin, and weigh more at the end of the training (Cao et al.
2019)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.networks.network import operate
from allograft.networks.parts import LabelHead
from allograft.nn.processes import mean_over_processes
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.tasks.classification import Classification
from allograft.train import train_with_checkpoints


def class_margins(counts: Tensor, largest: float) -> Tensor:
    """``C / n_j^(1/4)``, the rarest class at ``largest`` (eq. 13): (K,) counts -> (K,).

    >>> class_margins(torch.tensor([16.0, 256.0]), 0.5)
    tensor([0.5000, 0.2500])
    """
    margins = counts**-0.25
    return largest * margins / margins.max()


def effective_weights(counts: Tensor, beta: float) -> Tensor:
    """``(1 - beta) / (1 - beta^n_j)``, their mean 1 (Cui et al. 2019): (K,) counts -> (K,).

    >>> effective_weights(torch.tensor([5.0, 5.0]), 0.9)
    tensor([1., 1.])
    """
    weights = (1 - beta) / (1 - beta**counts)
    return weights * len(counts) / weights.sum()


def margin_loss(logits: Tensor, label: Tensor, margins: Tensor, scale: float, weights: Tensor) -> Tensor:
    """Weighted cross-entropy of ``logits`` with the true class's lowered by ``scale * margin`` (eq.
    11), divided by the sum of the weights.

    Args:
        logits: (B, K), ``scale`` times a cosine.
        label: (B,) int64, -100 = not labelled.
        margins, weights: (K,).

    Returns:
        (); 0 when no case is labelled.
    """
    known = label >= 0
    logits, label = logits[known], label[known]
    lowered = logits - scale * margins[label][:, None] * F.one_hot(label, logits.shape[1]).to(logits)
    losses = F.cross_entropy(lowered, label, reduction="none")
    total = mean_over_processes(weights[label].sum())
    return (weights[label] * losses).sum() / total.clamp_min(torch.finfo(total.dtype).tiny)


class CosineHead(nn.Module):
    """``scale`` times the cosine of the pooled last feature to a vector a class: (B, K) logits."""

    def __init__(self, channels: int, classes: int, scale: float) -> None:
        super().__init__()
        self.vectors, self.scale = nn.Parameter(torch.randn(classes, channels)), scale

    def forward(self, features: Sequence[Tensor], decoded: Tensor | None) -> Tensor:
        pooled = F.normalize(features[-1].flatten(2).mean(2), dim=1)
        return self.scale * F.linear(pooled, F.normalize(self.vectors, dim=1))


def add_cosine_head(network: AnyNetwork, *, scale: float) -> Network:
    """Surgery: a ``CosineHead``, drawn anew, in the place of the head for labels."""
    head = dict(network.heads.items()).get("label") if isinstance(network, Network) else None
    if not isinstance(head, LabelHead) or not isinstance(network, Network):
        raise SpecError("ldam: the network has no head for labels; choose resnet, densenet121, vit, swin or unet")
    network.heads["label"] = CosineHead(head.linear.in_features, head.linear.out_features, scale)
    return network


@dataclass
class MarginObjective:
    """``margin_loss``, by step: weights are even up to ``defer``.

    Args:
        margins, weights: (K,).
        number: of the step.
    """

    margins: Tensor
    weights: Tensor
    scale: float
    defer: int
    number: int = 0

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        label = batch.labels["label"]
        assert isinstance(label, Tensor)
        weights = self.weights if self.number >= self.defer else torch.ones_like(self.weights)
        self.number += 1
        logits = network(batch.image)["label"].float()
        margins, weights = self.margins.to(logits), weights.to(logits)
        return {"margin": margin_loss(logits, label, margins, self.scale, weights)}


@dataclass(frozen=True)
class Ldam:
    """Train a classifier on the source sites with margins that grow as classes get rarer, and
    classes weighted by their effective number from late in the training on (LDAM-DRW).

    The head is replaced by a cosine to one vector a class, as in the released code. Optimizer and
    schedule are the study's.

    Args:
        margin: of the rarest class, as a cosine.
        scale: s.
        defer: share of the training without weights; the paper's 160 of 200 epochs. 1 = never
            weighted.
        beta: of the effective number.
        first: what the training begins with; None = the study's start.
    """

    margin: Annotated[float, Ge(0)] = 0.5
    scale: Annotated[float, Gt(0)] = 30.0
    defer: Annotated[float, Ge(0), Le(1)] = 0.8
    beta: Annotated[float, Ge(0), Lt(1)] = 0.9999
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="cao2019learning",
        authors="Cao, K. and Wei, C. and Gaidon, A. and Arechiga, N. and Ma, T.",
        title="Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss",
        venue="Advances in Neural Information Processing Systems",
        year=2019,
    )
    needs: ClassVar[Needs] = Needs(source_images=True)
    own_loss: ClassVar[str] = "a margin loss"

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without a class an image, or a class without a source
        case."""
        if not isinstance(context.task, Classification):
            raise SpecError("ldam: margins are those of classes; expected task: {classification: {classes: [...]}}")
        counts = class_counts(scenario.source, context.task.classes)
        if missing := [name for name, count in zip(context.task.classes, counts.tolist(), strict=True) if not count]:
            raise SpecError(f"ldam: no source image is {missing[0]}, so it has no margin; add cases or drop it")
        if not isinstance(network, Network) or "label" not in network.heads:
            raise SpecError("ldam: the network has no head for labels; choose resnet, densenet121, vit, swin or unet")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches (algorithm 1)."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network = operate(network, "cosine_head", scale=self.scale).to(context.fabric.device).train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        task = context.supervised_task
        assert isinstance(task, Classification)
        counts = class_counts(scenario.source, task.classes).clamp_min(1)
        objective = MarginObjective(
            class_margins(counts, self.margin),
            effective_weights(counts, self.beta),
            self.scale,
            int(self.defer * steps),
        )
        step = context.gradient_step(network, objective, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))


def class_counts(cohorts: Sequence[Cohort], classes: Sequence[str]) -> Tensor:
    """How many images there are of each class: (K,) float64."""
    counts = Counter(
        str(cohort.cases[case_index].labels.get("label", "")) for cohort in cohorts for case_index, _ in cohort.items
    )
    return torch.tensor([counts[name] for name in classes], dtype=torch.float64)
