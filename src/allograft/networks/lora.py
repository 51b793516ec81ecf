"""Low-rank adapters as surgery: added to a network, and folded into its weights when the tuning is over. Needs the extra ``lora``."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from allograft.errors import SpecError, require_extra
from allograft.networks.network import AnyNetwork, Network

ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Exactly these types. peft has no adapter for transposed convolutions, and cannot fold those of grouped ones."""


def add_lora(network: AnyNetwork, *, rank: int = 4, alpha: float | None = None) -> AnyNetwork:
    """Put an adapter beside every linear layer and convolution outside the heads, in place; at first it changes nothing.

    The weights there are frozen: the adapters and the heads alone require gradients. The first factor is drawn from the global generators,
    the second is zero.

    Args:
        network: encoder, decoder and heads, or one opaque module, which then has no head that moves.
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
    whole = "|".join(map(re.escape, names))  # a pattern: in a list, names would match as endings of others
    scale: Any = rank if alpha is None else alpha  # declared as a whole number, and yet only divided by the rank
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=scale, target_modules=whole), network)
    if isinstance(network, Network):
        network.heads.requires_grad_(True)
    return network


def fold(network: AnyNetwork) -> AnyNetwork:
    """Add each adapter to the weight it stands beside and take it out, in place; the spec is again that of the network without.

    All parameters require gradients afterwards, also those that an adapter had frozen.
    """
    from peft.tuners.lora import LoraLayer

    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLayer):
            layer: Any = module
            layer.merge()
            parent, _, last = name.rpartition(".")
            setattr(network.get_submodule(parent), last, layer.get_base_layer())
    network.requires_grad_(True)
    network.spec = {**network.spec, "surgery": [step for step in network.spec["surgery"] if "lora" not in step]}
    return network


def _adapted(name: str, module: nn.Module) -> bool:
    return type(module) in ADAPTED and getattr(module, "groups", 1) == 1 and not name.startswith("heads.")
