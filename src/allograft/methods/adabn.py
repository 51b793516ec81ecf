"""Adaptive batch normalisation: the target's own statistics in place of the source's (Li et al.
2018)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.features import images_in_order
from allograft.predictor import Direct
from allograft.predictor.direct import padded
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


def normalisations(network: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations with running statistics; ``SpecError`` where there is none."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        raise SpecError(
            "adabn: the network has no batch normalisation; choose one that has, e.g. network: {unet: {norm: batch}}"
        )
    return layers


@torch.no_grad()
def adapt_statistics(network: AnyNetwork, images: Iterable[Tensor]) -> None:
    """Set running mean and (unbiased) variance of every batch normalisation to those of all images,
    in place.

    The network is left in evaluation mode.

    Raises:
        SpecError: the network has no batch normalisation with running statistics, or there is no
            image.
    """
    layers = normalisations(network)
    network.eval()
    statistics = [_statistics(layer) for layer in layers]
    kept = [(mean.clone(), variance.clone()) for mean, variance in statistics]
    sums = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers}
    hooks = [layer.register_forward_pre_hook(partial(_add, sums[layer])) for layer in layers]
    for layer in layers:
        layer.train()
    try:
        for image in images:
            padded(network, image)
    finally:
        for hook, layer, own, before in zip(hooks, layers, statistics, kept, strict=True):
            hook.remove()
            layer.eval()
            for buffer, value in zip(own, before, strict=True):
                buffer.copy_(value)
    for layer, (mean, variance) in zip(layers, statistics, strict=True):
        count, total, squares = sums[layer]
        if not bool((count > 1).all()):
            raise SpecError("adabn: no image to take statistics from; the target needs training images")
        mean.copy_(total / count)
        variance.copy_((squares - total**2 / count) / (count - 1))


def _statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def _add(sums: Tensor, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0].double().movedim(1, 0).flatten(1)
    if values.shape[1] == 1:  # which torch refuses to normalise, before the sum is known
        raise SpecError(
            "adabn: one image leaves one value a channel in the network, too few to normalise; "
            "make images larger (preprocessing.size), or give the target more training images of one size"
        )
    sums += torch.stack(
        [torch.full((len(values),), values.shape[1]), values.sum(1).cpu(), values.square().sum(1).cpu()]
    )
