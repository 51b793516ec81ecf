"""Features that tell where images come from: the output of a network's first normalisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.instancenorm import _InstanceNorm

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.parts.features import images_in_order
from allograft.predictor import evaluation_mode
from allograft.predictor.direct import padded

LAYERS: tuple[tuple[type[nn.Module], ...], ...] = (
    (_BatchNorm,),
    (_InstanceNorm, nn.GroupNorm, nn.LayerNorm),
    (_ConvNd, nn.Linear),
)
"""Kinds of layer whose output is taken; a later one where a network has none of the earlier."""


def first_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Name and module of the layer whose output is taken: the first batch normalisation; of a
    network without one the first other normalisation, or the first layer with weights."""
    for kinds in LAYERS:
        for name, module in network.named_modules():
            if isinstance(module, kinds):
                return name, module
    raise SpecError(f"the network has no layer to take features from: {type(network).__name__}; choose another")


def feature_name(network: nn.Module) -> str:
    """What is taken, for a reader: ``BatchNorm3d at encoder.levels.0.conv.unit0.adn.N``."""
    name, module = first_layer(network)
    return f"{type(module).__name__} at {name}"


def domain_features(network: AnyNetwork, image: Tensor, kind: str, limit: int) -> Tensor:
    """Features of images, float64.

    Args:
        image: (B, C, *spatial); padded as the network needs it.
        kind: ``batch-norm``: the output of ``first_layer``, average-pooled by 2 along each axis
            until an image has at most ``limit`` values. ``gram``: the products of its channels,
            mean over pixels.

    Returns:
        (B, D).
    """
    with evaluation_mode(network):
        output = padded(_UpTo(network), image)["feature"]
    return (gram(output) if kind == "gram" else pooled(output, limit)).double()


def pooled(feature: Tensor, limit: int) -> Tensor:
    """(B, C, *spatial) average-pooled by 2 until C * pixels <= limit, flat: (B, D). An odd pixel at
    the end of an axis is a mean of itself; at one pixel an axis nothing is left to pool.

    >>> pooled(torch.arange(5.0).view(1, 1, 5), 3).tolist()
    [[0.5, 2.5, 4.0]]
    """
    pool = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[max(feature.ndim - 3, 0)]
    while feature[0].numel() > limit and max(feature.shape[2:], default=1) > 1:
        kernel = tuple(min(2, size) for size in feature.shape[2:])
        feature = pool(feature, kernel, ceil_mode=True, count_include_pad=False)
    return feature.flatten(1)


def gram(feature: Tensor) -> Tensor:
    """(B, C, *spatial) -> (B, C * C): products of channels, mean over pixels.

    >>> gram(torch.tensor([[[1.0, 2.0], [0.0, 4.0]]])).tolist()
    [[2.5, 4.0, 4.0, 8.0]]
    """
    flat = feature.flatten(2).double()
    return (flat @ flat.transpose(1, 2) / flat.shape[2]).flatten(1)


def features_of(network: AnyNetwork, cohort: Cohort, context: Context, kind: str, limit: int) -> Tensor:
    """``domain_features`` of all items of a cohort in order, on the CPU: (N, D)."""
    images = images_in_order([cohort], context.batch_size)
    return torch.cat([domain_features(network, image.to(context.fabric.device), kind, limit).cpu() for image in images])


def check_one_size(cohorts: Iterable[Cohort], name: str) -> None:
    """Raise ``SpecError`` where images have several sizes, whose features could not be compared."""
    sizes: dict[tuple[int, ...], str] = {}
    for cohort in cohorts:
        for case in cohort.cases:
            sizes.setdefault(cohort.prepared.image(case)[0].shape, case.name)
    if len(sizes) > 1:
        (size, first), (other, second), *_ = sizes.items()
        raise SpecError(
            f"{name}: images of several sizes, '{first}' {size} and '{second}' {other}, whose features cannot be "
            "compared; set preprocessing: {size: [...]}"
        )


class _Reached(Exception):
    """The layer has its output, so that the rest of the network need not run."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


@dataclass(frozen=True)
class _UpTo:
    """A network as far as its first normalisation."""

    network: AnyNetwork

    @property
    def multiple(self) -> int:
        return self.network.multiple

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        def stop(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            raise _Reached(output)

        handle = first_layer(self.network)[1].register_forward_hook(stop)
        try:
            self.network(image)
        except _Reached as reached:
            return {"feature": reached.output}
        finally:
            handle.remove()
        raise SpecError("the network does not use its first normalisation; choose another")
