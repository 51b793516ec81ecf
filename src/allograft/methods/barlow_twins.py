"""Barlow Twins: the channels of two views of an image are the same, and different from each other
(Zbontar et al. 2021)."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.parts.paired_batches import gathered, of_all, require_encoder
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
from allograft.train import train
from allograft.transforms.sample import Sample


@dataclass(frozen=True)
class BarlowTwins:
    """Pre-train on images of the pool: over a batch, the correlation of each channel with itself in
    the other view is to be 1, and that with every other channel 0.

    An embedding is the mean over the encoder's last feature, through a projector of three linear
    layers; the loss is MONAI's. A batch of two images has no gradient, since the standardised
    values of each channel are opposite whatever the network does: take many. Optimizer, schedule
    and budget are the study's; the paper: LARS, 1000 epochs of 2048 images, projectors of 8192.
    Where we differ: the projector has layer normalisation in the place of batch normalisation, so
    that two processes train as one.

    Args:
        balance: lambda, of the off-diagonal correlations.
        width: of the projector's layers and of an embedding.
        augmentation: light or strong, of the views.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
    """

    balance: Annotated[float, Ge(0)] = 0.005
    width: Annotated[int, Ge(1)] = 512
    augmentation: Literal["light", "strong"] = "strong"
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()

    paper: ClassVar[Paper | None] = Paper(
        key="zbontar2021barlow",
        authors="Zbontar, J. and Jing, L. and Misra, I. and LeCun, Y. and Deny, S.",
        title="Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
        venue="ICML",
        year=2021,
    )
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for an opaque network, a pool of one image, and a batch of one."""
        require_encoder(network, "barlow_twins")
        check_several(chosen_pool(scenario.pool, self.pool, "barlow_twins"), "barlow_twins")
        if context.batch_size < 2:
            raise SpecError("barlow_twins: a batch of one image has no correlation; set budget.batch_size to 2 or more")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1 of the paper."""
        assert isinstance(network, Network)
        network.train()
        pool = chosen_pool(scenario.pool, self.pool, "barlow_twins")
        views = TwoViews(Sample(self.augmentation, context.settings.patch))
        batches = pool_loader(pool, context, views)
        steps = steps_of(context, self.epochs, batches.epoch)
        channels = last_channels(network, pool, context)
        objective = Correlation(channels, views.name, self).to(context.fabric.device)
        history = train(context.gradient_step(network, objective, steps=steps), batches, steps=steps, context=context)
        reached = mean_of_last(history, batches.epoch)
        yield Stage("pretrained", seen=scenario.sites, facts={"steps": steps, **reached})
        return Carry(network)


class Correlation(nn.Module):
    """The loss, and the projector that it owns.

    Args:
        channels: of the encoder's last feature.
        second: name of the second view.
        recipe: width and balance.
    """

    def __init__(self, channels: int, second: str, recipe: BarlowTwins) -> None:
        super().__init__()
        from monai.losses import BarlowTwinsLoss

        self.second, self.loss = second, BarlowTwinsLoss(lambd=recipe.balance)
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise((channels, recipe.width, recipe.width)):
            layers += [nn.Linear(before, after, bias=False), nn.LayerNorm(after), nn.ReLU()]
        self.projector = nn.Sequential(*layers, nn.Linear(recipe.width, recipe.width, bias=False))

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The loss of both views of a batch, over all processes."""
        assert isinstance(network, Network)
        images = torch.cat([batch.image, batch.views[self.second]])
        first, second = self.projector(network.encoder(images)[-1].flatten(2).mean(2)).float().chunk(2)
        return {"correlation": of_all(self.loss(gathered(first), gathered(second)))}
