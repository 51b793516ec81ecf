"""Surgery that gives blocks of a 2-D network two branches of normalisation, a general and a
categorical one.

Also what the categorical one does, by class and over an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from allograft.errors import SpecError
from allograft.figure import Heatmap
from allograft.networks.network import AnyNetwork, Network
from allograft.nn.catenorm import CategoricalNorm2d, TwoBranchNorm2d

NamedLayer = tuple[nn.Module, str, nn.Module]
"""A parent, the name under which it holds a normalisation, and that."""
PLAIN = (nn.BatchNorm2d, nn.InstanceNorm2d)


def add_catenorm(network: AnyNetwork, *, classes: int, blocks: int = 4, position: int | None = None) -> AnyNetwork:
    """Replace each normalisation in the first ``blocks`` levels of the encoder by a
    ``TwoBranchNorm2d``, in layer.

    A batch normalisation becomes the general branch with its weights and statistics; an instance
    normalisation is replaced by a fresh batch normalisation, because the method is about batch
    statistics. The new weights are drawn from the global generators.

    Args:
        network: encoder, decoder and heads; its encoder holds ``levels``.
        classes: channels of the class map, background included.
        blocks: levels counted from the finest, the stem included; the paper has 1 and 4, more than
            there are means all. In a backbone of timm a level is a feature: the stem is the first.
        position: instead, the one block of this number, as ``blocks_of`` counts them (figure 5).

    Raises:
        SpecError: no encoder with levels, no 2-D batch or instance normalisation in the blocks, or
            a number out of range.
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
        raise SpecError(
            "catenorm: the network has no encoder with levels to operate on; choose one of our table, the unet for "
            "example"
        )
    every = blocks_of(network, PLAIN)
    if position is not None and not 1 <= position <= len(every):
        raise SpecError(
            f"catenorm: position is {position}; expected 1 to {len(every)}, this network's blocks, the encoder's "
            "finest first"
        )
    chosen = every[: min(blocks, len(network.levels()))] if position is None else [every[position - 1]]
    places = [layer for block in chosen for layer in block]
    if not places:
        where = "the encoder's first levels hold" if position is None else f"block {position} holds"
        raise SpecError(
            f"catenorm: {where} no 2-D batch or instance normalisation; use the unet in 2-D with norm: batch"
        )
    return places


def blocks_of(network: Network, kinds: tuple[type[nn.Module], ...]) -> list[list[NamedLayer]]:
    """The normalisations of exactly these kinds in each block of a network.

    Blocks are the encoder's levels, finest first, the stem with the first; then, where a decoder is
    made of ``ups``, these, coarsest first, and the block of the head. A subclass does not count:
    timm's normalisations with an activation inside are no plain ones.
    """
    encoder, blocks = network.encoder, []
    for level in network.levels():
        # timm's backbones are not taken apart: their levels name parameters
        if isinstance(level, nn.ParameterList):
            owned = {id(p) for p in level.parameters()}
            blocks.append(
                [layer for layer in _layers(encoder, kinds) if any(id(p) in owned for p in layer[2].parameters())]
            )
        else:
            blocks.append(_layers(level, kinds))
    if blocks and isinstance(stem := getattr(encoder, "stem", None), nn.Module):
        blocks[0] = _layers(stem, kinds) + blocks[0]
    blocks += [_layers(up, kinds) for up in getattr(network.decoder, "ups", ())]
    heads = [getattr(head, "block", None) for head in network.heads.values()]
    return blocks + [_layers(head, kinds) for head in heads if isinstance(head, nn.Module)]


def modulation_by_class(network: Network, names: Sequence[str]) -> Heatmap:
    """What the categorical branches do to a region of one class (after figure 6).

    The paper shows gamma and beta over an image; these are their means over the channels of each
    block, in a region that is entirely of one class.

    Args:
        names: the classes, background excluded.
    """
    columns, values = [], []
    for number, block in enumerate(blocks_of(network, (TwoBranchNorm2d,)), 1):
        if block:
            both = [layer.categorical.by_class() for _, _, layer in block]  # type: ignore[union-attr, operator]
            columns += [f"gamma, block {number}", f"beta, block {number}"]
            values += [torch.cat(each, dim=1).mean(1).tolist() for each in zip(*both, strict=True)]
    return Heatmap("gamma and beta by class", ("background", *names), tuple(columns), tuple(zip(*values, strict=True)))


def modulation_over(network: Network, image: Tensor, predict: Callable[[], object]) -> tuple[Tensor, Tensor, Tensor]:
    """What the categorical branch does over an image (figure 6), in one layer.

    It is the last layer of the first block that has two branches.

    Args:
        image: (1, C, H, W).
        predict: predicts for the image; one pass of it through the network is guided by a class
            map.

    Returns:
        The class map (K, h, w), and by it gamma and beta (C', h', w'), on the CPU. Where the image
        was padded to the multiple that the network needs, they are cut to it.
    """
    block = next(block for block in blocks_of(network, (TwoBranchNorm2d,)) if block)
    layer: TwoBranchNorm2d = block[-1][2]  # type: ignore[assignment]
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(module: CategoricalNorm2d, given: tuple[Tensor, Tensor], _: Tensor) -> None:
        x, guide = given
        seen.append((guide, *module.modulation(guide, x.shape[-2:])))

    handle = layer.categorical.register_forward_hook(look)
    try:
        predict()
    finally:
        handle.remove()
    ((guide, gamma, beta),) = seen

    def cut(maps: Tensor) -> Tensor:
        shares = [size / (size + -size % network.multiple) for size in image.shape[-2:]]
        rows, columns = (max(1, round(grid * share)) for grid, share in zip(maps.shape[-2:], shares, strict=True))
        return maps[0, :, :rows, :columns].detach().float().cpu()

    return cut(guide), cut(gamma), cut(beta)


def _layers(block: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[NamedLayer]:
    return [
        (parent, name, child)
        for parent in block.modules()
        for name, child in parent.named_children()
        if type(child) in kinds
    ]
