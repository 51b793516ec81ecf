"""The blocks of a network that a gate can switch: one after another, from the image to the head."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from allograft.errors import SpecError
from allograft.networks.backbone import TimmEncoder
from allograft.networks.network import Network, own_spec

MEND = "use the unet, or for labels the unet, resnet, densenet121, vit or swin"
"""The networks whose blocks can be gated."""


def blocks(network: nn.Module) -> list[nn.Module]:
    """What is gated: the encoder's levels, finest first, then the decoder's ups (if it has any),
    coarsest first.

    A level of a timm backbone is all that comes after the feature before it; where that is several
    modules, the block is their ``nn.ModuleList``. Parameters that the backbone itself holds, such
    as a position table, are in no block.

    Raises:
        SpecError: a network whose encoder is not made of levels.
    """
    encoder = getattr(network, "encoder", None)
    ups = getattr(network.decoder, "ups", None) if isinstance(network, Network) else None
    levels = _modules(encoder) if isinstance(encoder, TimmEncoder) else list(getattr(encoder, "levels", ()))
    gated = [*levels, *(ups or ())]
    opaque = not isinstance(encoder, TimmEncoder) and any(
        isinstance(block, (nn.ParameterList, nn.ModuleList)) for block in gated
    )
    if not levels or opaque:
        raise SpecError(
            f"spottunet: the encoder of {named(network)} is not made of levels, so nothing of it can be gated; {MEND}"
        )
    return gated


def members(block: nn.Module) -> Sequence[nn.Module]:
    """The modules of a block that run one after another: itself, or those of its list."""
    return list(block) if isinstance(block, nn.ModuleList) else [block]


def named(network: nn.Module) -> str:
    """The network's name in the table, for a message."""
    return next((f"network '{name}'" for name in own_spec(network).get("build", {})), "this network")


def _modules(encoder: TimmEncoder) -> list[nn.Module]:
    """The largest modules of the body whose parameters belong to one level, by level."""
    levels = [{id(p) for p in level} for level in encoder.levels]
    modules: list[list[nn.Module]] = [[] for _ in levels]

    def sort(module: nn.Module) -> None:
        for child in module.children():
            own = {id(p) for p in child.parameters()}
            level = next((number for number, every in enumerate(levels) if own <= every), None)
            if not own:
                continue
            if level is None or type(child) in (nn.ModuleList, nn.ModuleDict):  # which nobody calls
                sort(child)
            else:
                modules[level].append(child)

    sort(encoder.body)
    return [parts[0] if len(parts) == 1 else nn.ModuleList(parts) for parts in modules if parts]
