"""MoCo v3: two views of an image are alike, and unlike those of the batch's other images (Chen, Xie
and He 2021)."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.networks.tokens import TokenEncoder
from allograft.nn.processes import processes
from allograft.parts.paired_batches import gathered, require_encoder
from allograft.parts.pool import (
    TwoViews,
    check_several,
    chosen_pool,
    last_channels,
    mean_of_last,
    pool_loader,
    steps_of,
)
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import GradientStep
from allograft.train import train
from allograft.transforms.sample import Sample


@dataclass(frozen=True)
class MocoV3:
    """Pre-train on images of the pool: from one view of an image predict what a slow copy of the
    encoder makes of the other one, among all images of the batch.

    An embedding is the mean over the encoder's last feature, through a projector. The slow copy of
    encoder and projector follows by ``momentum``, which rises to 1 along half a cosine. Both views
    take either part. Of a transformer the embedding of patches stays as it was drawn, which the
    paper needs for a stable training.

    Optimizer, schedule and budget are the study's; the paper: AdamW, weight decay 0.1, 300 epochs
    of 4096 images. Negatives come from the batch alone, so a small one gives few. Where we differ:
    the heads have layer normalisation in the place of batch normalisation, so that two processes
    train as one, and are narrower.

    Args:
        temperature: tau.
        momentum: m at the first step.
        width, dimension: of the heads' hidden layers, and of an embedding.
        augmentation: light or strong, of the views.
        freeze_patches: whether a transformer's embedding of patches is left as it is.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
    """

    temperature: Annotated[float, Gt(0)] = 0.2
    momentum: Annotated[float, Ge(0), Le(1)] = 0.99
    width: Annotated[int, Ge(1)] = 512
    dimension: Annotated[int, Ge(1)] = 256
    augmentation: Literal["light", "strong"] = "strong"
    freeze_patches: bool = True
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()

    paper: ClassVar[Paper | None] = Paper(
        key="chen2021empirical",
        authors="Chen, X. and Xie, S. and He, K.",
        title="An Empirical Study of Training Self-Supervised Vision Transformers",
        venue="ICCV",
        year=2021,
        doi="10.1109/ICCV48922.2021.00950",
    )
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for an opaque network, a pool of one image, and a batch without
        negatives."""
        require_encoder(network, "moco_v3")
        check_several(chosen_pool(scenario.pool, self.pool, "moco_v3"), "moco_v3")
        if context.batch_size < 2:
            raise SpecError("moco_v3: a batch of one image has no negatives; set budget.batch_size to 2 or more")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1 of the paper."""
        assert isinstance(network, Network)
        network.train()
        pool = chosen_pool(scenario.pool, self.pool, "moco_v3")
        views = TwoViews(Sample(self.augmentation, context.settings.patch))
        batches = pool_loader(pool, context, views)
        steps = steps_of(context, self.epochs, batches.epoch)
        channels = last_channels(network, pool, context)
        objective = Contrast(network, channels, views.name, self).to(context.fabric.device)
        moving = [p for p in (*network.parameters(), *objective.parameters()) if p.requires_grad]
        inner = context.gradient_step(network, objective, context.optimizer(moving), steps=steps)
        history = train(
            Following(inner, objective, network, self.momentum, steps), batches, steps=steps, context=context
        )
        reached = mean_of_last(history, batches.epoch)
        yield Stage("pretrained", seen=scenario.sites, facts={"steps": steps, **reached})
        return Carry(network)


def contrast(query: Tensor, keys: Tensor, temperature: float, *, offset: int = 0) -> Tensor:
    """2 tau times the cross-entropy of each query over all keys, its own being the positive
    (algorithm 1).

    Args:
        query: (B, C).
        keys: (N, C), N >= B; row ``offset + i`` is of the image of query i. They are given no
            gradient.
        temperature: tau.

    Example:
        >>> round(float(contrast(torch.eye(2), torch.eye(2), 1.0)), 4)
        0.6265
    """
    logits = F.normalize(query, dim=1) @ F.normalize(keys.detach(), dim=1).T / temperature
    own = torch.arange(len(query), device=query.device) + offset
    return 2 * temperature * F.cross_entropy(logits.float(), own)


def momentum_at(step: int, steps: int, start: float) -> float:
    """From ``start`` to 1 along half a cosine.

    >>> momentum_at(0, 10, 0.9), momentum_at(10, 10, 0.9)
    (0.9, 1.0)
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / steps) + 1) / 2


class Contrast(nn.Module):
    """The loss, projector and predictor, and the slow copies of encoder and projector.

    Args:
        network: whose encoder is trained.
        channels: of its last feature.
        second: name of the second view.
        recipe: sizes and temperature.
    """

    def __init__(self, network: Network, channels: int, second: str, recipe: MocoV3) -> None:
        super().__init__()
        self.recipe, self.second = recipe, second
        self.projector = perceptron(channels, recipe.width, recipe.width, recipe.dimension)
        self.predictor = perceptron(recipe.dimension, recipe.width, recipe.dimension)
        self.slow_encoder = copy.deepcopy(network.encoder).requires_grad_(False)
        self.slow_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Both views predict the other's key."""
        assert isinstance(network, Network)
        images = torch.cat([batch.image, batch.views[self.second]])
        queries = self.predictor(self.projector(self.embedding(network.encoder, images))).chunk(2)
        with torch.no_grad():
            keys = self.slow_projector(self.embedding(self.slow_encoder, images)).chunk(2)
        offset = dist.get_rank() * len(batch) if processes() > 1 else 0
        losses = [
            contrast(query, gathered(key), self.recipe.temperature, offset=offset)
            for query, key in zip(queries, reversed(keys), strict=True)
        ]
        return {"contrast": losses[0] + losses[1]}

    def embedding(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """(B, C): the mean over the last feature."""
        if self.recipe.freeze_patches and isinstance(encoder, TokenEncoder) and encoder.token_size:
            feature = encoder.encode(encoder.embed(images).detach())[-1]
        else:
            feature = encoder(images)[-1]
        return feature.flatten(2).mean(2)

    @torch.no_grad()
    def follow(self, network: Network, momentum: float) -> None:
        """One step of the average: momentum * slow + (1 - momentum) * fast; running statistics are
        taken over."""
        for slow, fast in ((self.slow_encoder, network.encoder), (self.slow_projector, self.projector)):
            for mine, theirs in zip(slow.parameters(), fast.parameters(), strict=True):
                mine.lerp_(theirs, 1 - momentum)
            for own, other in zip(slow.buffers(), fast.buffers(), strict=True):
                own.copy_(other)


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers with layer normalisation and ReLU between them, and normalisation at the
    end."""
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(itertools.pairwise(widths)):
        layers += [
            nn.Linear(before, after, bias=False),
            nn.LayerNorm(after, elementwise_affine=number + 2 < len(widths)),
        ]
        layers += [nn.ReLU()] if number + 2 < len(widths) else []
    return nn.Sequential(*layers)


@dataclass
class Following:
    """An update, before which the slow copies follow.

    Args:
        inner: the update.
        objective: holds the slow copies.
        network: what they follow.
        momentum: at the first step.
        steps: after which it is 1.
    """

    inner: GradientStep
    objective: Contrast
    network: Network
    momentum: float
    steps: int
    number: int = 0

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        self.objective.follow(self.network, momentum_at(self.number, self.steps, self.momentum))
        self.number += 1
        return self.inner(batch)
