"""Surgery that gives blocks of a 2-D network two branches of normalisation, a general and a categorical one."""

from __future__ import annotations

from torch import nn

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network
from allograft.nn.catenorm import TwoBranchNorm2d

NamedLayer = tuple[nn.Module, str, nn.Module]
"""A parent, the name under which it holds a normalisation, and that."""
PLAIN = (nn.BatchNorm2d, nn.InstanceNorm2d)


def add_catenorm(network: AnyNetwork, *, classes: int, blocks: int = 4, position: int | None = None) -> AnyNetwork:
    """Replace each normalisation in the first ``blocks`` levels of the encoder by a ``TwoBranchNorm2d``, in layer.

    A batch normalisation becomes the general branch with its weights and statistics; an instance normalisation is replaced by a fresh
    batch normalisation, because the method is about batch statistics. The new weights are drawn from the global generators.

    Args:
        network: encoder, decoder and heads; its encoder holds ``levels``.
        classes: channels of the class map, background included.
        blocks: levels counted from the finest, the stem included; the paper has 1 and 4, more than there are means all. In a backbone
            of timm a level is a feature: the stem is the first.
        position: instead, the one block of this number, as ``blocks_of`` counts them (figure 5).

    Raises:
        SpecError: no encoder with levels, no 2-D batch or instance normalisation in the blocks, or a number out of range.
    """
    for parent, name, child in layers_of(network, blocks, position):
        general = child if isinstance(child, nn.BatchNorm2d) else None
        setattr(parent, name, TwoBranchNorm2d(int(child.num_features), classes, general))  # type: ignore[arg-type]
    return network


def layers_of(network: AnyNetwork, blocks: int, position: int | None = None) -> list[NamedLayer]:
    """The normalisations that ``add_catenorm`` replaces, and its errors."""
    if blocks < 1:
        raise SpecError(f"catenorm: blocks is {blocks}, expected at least 1")
    if not isinstance(network, Network) or not hasattr(network.encoder, "levels"):
        raise SpecError("catenorm: the network has no encoder with levels to operate on; choose one of our table, the unet for example")
    every = blocks_of(network, PLAIN)
    if position is not None and not 1 <= position <= len(every):
        raise SpecError(f"catenorm: position is {position}; expected 1 to {len(every)}, this network's blocks, the encoder's finest first")
    chosen = every[: min(blocks, len(network.levels()))] if position is None else [every[position - 1]]
    places = [layer for block in chosen for layer in block]
    if not places:
        where = "the encoder's first levels hold" if position is None else f"block {position} holds"
        raise SpecError(f"catenorm: {where} no 2-D batch or instance normalisation; use the unet in 2-D with norm: batch")
    return places


def blocks_of(network: Network, kinds: tuple[type[nn.Module], ...]) -> list[list[NamedLayer]]:
    """The normalisations of exactly these kinds in each block of a network.

    Blocks are the encoder's levels, finest first, the stem with the first; then, where a decoder is made of ``ups``, these, coarsest
    first, and the block of the head. A subclass does not count: timm's normalisations with an activation inside are no plain ones.
    """
    encoder, blocks = network.encoder, []
    for level in network.levels():
        if isinstance(level, nn.ParameterList):  # timm's backbones are not taken apart: their levels name parameters
            owned = {id(p) for p in level.parameters()}
            blocks.append([layer for layer in _layers(encoder, kinds) if any(id(p) in owned for p in layer[2].parameters())])
        else:
            blocks.append(_layers(level, kinds))
    if blocks and isinstance(stem := getattr(encoder, "stem", None), nn.Module):
        blocks[0] = _layers(stem, kinds) + blocks[0]
    blocks += [_layers(up, kinds) for up in getattr(network.decoder, "ups", ())]
    heads = [getattr(head, "block", None) for head in network.heads.values()]
    return blocks + [_layers(head, kinds) for head in heads if isinstance(head, nn.Module)]


def _layers(block: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[NamedLayer]:
    return [(parent, name, child) for parent in block.modules() for name, child in parent.named_children() if type(child) in kinds]
