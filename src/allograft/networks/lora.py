"""Low-rank adapters as surgery: added to a network, folded into its weights after tuning. Needs the
extra ``lora``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from allograft.errors import SpecError, require_extra
from allograft.networks.network import AnyNetwork, Network

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Exactly these types. peft has no adapter for transposed convolutions, and those of grouped ones
are not one product."""


def add_lora(network: AnyNetwork, *, rank: int = 4, alpha: float | None = None) -> AnyNetwork:
    """Put an adapter beside every linear layer and convolution outside the heads, in place; at
    first it changes nothing.

    The weights there are frozen: the adapters and the heads alone require gradients. The first
    factor is drawn from the global generators, the second is zero.

    Args:
        network: encoder, decoder and heads, or one opaque module, which then has no head that
            moves.
        rank: of the update.
        alpha: the update is scaled by alpha / rank; equal to ``rank`` when None.

    Raises:
        MissingExtraError: peft is not installed.
        SpecError: a rank below 1, or a network without a layer to adapt.
    """
    require_extra("peft", "lora")
    from peft import LoraConfig, inject_adapter_in_model

    if rank < 1:
        raise SpecError(f"lora: rank is {rank}; expected at least 1")
    names = [name for name, module in network.named_modules() if _adapted(name, module)]
    if not names:
        raise SpecError("lora: the network has no linear layer and no convolution outside its heads; use finetune")
    # a pattern: in a list, names would match as endings of others
    whole = "|".join(map(re.escape, names))
    # declared as a whole number, and yet only divided by the rank
    scale: Any = rank if alpha is None else alpha
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=scale, target_modules=whole), network)
    for _, layer in _adapters(network):
        _sample_alike(layer)
    if isinstance(network, Network):
        network.heads.requires_grad_(True)
    return network


def fold(network: AnyNetwork) -> AnyNetwork:
    """Add each adapter to the weight next to it and remove it, in place: W_0 + alpha / rank B A
    (equation 3).

    The spec is again that of the network without adapters, and all parameters require gradients,
    also those that an adapter had frozen.
    """
    for name, layer in list(_adapters(network)):
        base = layer.get_base_layer()
        with torch.no_grad():
            base.weight += _update(layer)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, base)
    network.requires_grad_(True)
    network.spec = {**network.spec, "surgery": [step for step in network.spec["surgery"] if "lora" not in step]}
    return network


def _update(layer: Any) -> Tensor:
    """What one adapter adds to its layer's weight, in that shape: alpha / rank B A.

    B maps channels at one voxel, so a kernel of any size and dimension is one product over the
    rank. peft's own ``get_delta_weight`` treats kernels of 1 x 1 x 1 as 1 x 1 and fails.
    """
    (name,) = layer.lora_A
    product = layer.lora_B[name].weight.flatten(1) @ layer.lora_A[name].weight.flatten(1)
    return layer.scaling[name] * product.view_as(layer.get_base_layer().weight)


def _adapters(network: nn.Module) -> Iterator[tuple[str, Any]]:
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in network.named_modules() if isinstance(module, LoraLayer))


def _sample_alike(layer: Any) -> None:
    """Give an adapter's first convolution the dilation and padding mode of its layer; peft keeps
    the defaults."""
    base = layer.get_base_layer()
    if isinstance(base, nn.Linear):
        return
    for factor in layer.lora_A.values():
        factor.dilation, factor.padding_mode = base.dilation, base.padding_mode
        factor._reversed_padding_repeated_twice = base._reversed_padding_repeated_twice


def _adapted(name: str, module: nn.Module) -> bool:
    return type(module) in ADAPTED and getattr(module, "groups", 1) == 1 and not name.startswith("heads.")
