"""Adaptive batch normalisation: the target's own statistics in place of the source's (Li et al.
2018)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar

from allograft.context import Context
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.features import images_in_order
from allograft.parts.target_statistics import adapt_statistics, normalisations
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage


@dataclass(frozen=True)
class AdaBn:
    """Replace the statistics of every batch normalisation by those of all target training images;
    nothing is trained.

    For each layer mean and variance are taken over all pixels of all images together, gathered in
    one pass in which each layer normalises a batch by its own statistics; scale and shift (gamma,
    beta) stay. Several target sites are taken as one.

    Args:
        first: what is adapted.
    """

    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="li2018adaptive",
        authors="Li, Y. and Wang, N. and Shi, J. and Hou, X. and Liu, J.",
        title="Adaptive Batch Normalization for Practical Domain Adaptation",
        venue="Pattern Recognition",
        year=2018,
        doi="10.1016/j.patcog.2018.03.005",
    )
    needs_batch_norm: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without batch normalisation."""
        normalisations(network)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1 of the paper. Labels are not looked at."""
        network = (yield from context.run(self.first, scenario, network)).network
        images = (image.to(context.fabric.device) for image in images_in_order(scenario.target, context.batch_size))
        adapt_statistics(network, images)
        yield Stage("adapted", Direct(network), scenario.sites)
        return Carry(network)
