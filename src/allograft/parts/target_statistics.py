"""Statistics of batch normalisations over all images of a target, for methods that adapt them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor.direct import padded


def normalisations(network: nn.Module, method: str = "adabn") -> list[_BatchNorm]:
    """The batch normalisations with running statistics; ``SpecError`` where there is none."""
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        raise SpecError(
            f"{method}: the network has no batch normalisation; choose one that has, e.g. "
            "network: {unet: {norm: batch}}"
        )
    return layers


@torch.no_grad()
def adapt_statistics(network: AnyNetwork, images: Iterable[Tensor], method: str = "adabn") -> None:
    """Set running mean and (unbiased) variance of every batch normalisation to those of all images,
    in place.

    The network is left in evaluation mode.

    Args:
        network: changed in place.
        images: (B, C, *spatial) each, any sizes.
        method: whose name an error begins with.

    Raises:
        SpecError: the network has no batch normalisation with running statistics, or there is no
            image.
    """
    layers = normalisations(network, method)
    network.eval()
    statistics = [_statistics(layer) for layer in layers]
    kept = [(mean.clone(), variance.clone()) for mean, variance in statistics]
    sums = {layer: torch.zeros(3, layer.num_features, dtype=torch.float64) for layer in layers}
    hooks = [layer.register_forward_pre_hook(partial(_add, sums[layer], method)) for layer in layers]
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
            raise SpecError(f"{method}: no image to take statistics from; the target needs training images")
        mean.copy_(total / count)
        variance.copy_((squares - total**2 / count) / (count - 1))


def _statistics(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return layer.running_mean, layer.running_var


def _add(sums: Tensor, method: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    values = inputs[0].double().movedim(1, 0).flatten(1)
    if values.shape[1] == 1:  # which torch refuses to normalise, before the sum is known
        raise SpecError(
            f"{method}: one image leaves one value a channel in the network, too few to normalise; "
            "make images larger (preprocessing.size), or give the target more training images of one size"
        )
    sums += torch.stack(
        [torch.full((len(values),), values.shape[1]), values.sum(1).cpu(), values.square().sum(1).cpu()]
    )
