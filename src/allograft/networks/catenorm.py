"""Surgery that gives the first blocks of a 2-D encoder two branches of normalisation, a general and a categorical one."""

from __future__ import annotations

from torch import nn

from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork, Network
from allograft.nn.catenorm import TwoBranchNorm2d


def add_catenorm(network: AnyNetwork, *, classes: int, blocks: int = 4) -> AnyNetwork:
    """Replace each normalisation in the first ``blocks`` levels of the encoder by a ``TwoBranchNorm2d``, in place.

    A batch normalisation becomes the general branch with its weights and statistics; an instance normalisation is replaced by a fresh
    batch normalisation, because the method is about batch statistics. The new weights are drawn from the global generators.

    Args:
        network: encoder, decoder and heads; its encoder holds ``levels``.
        classes: channels of the class map, background included.
        blocks: levels counted from the finest, the stem included; the paper has 1 and 4, more than there are means all.

    Raises:
        SpecError: no encoder with levels, no 2-D batch or instance normalisation in them, or ``blocks`` below 1.
    """
    levels = getattr(network.encoder, "levels", None) if isinstance(network, Network) else None
    if blocks < 1 or levels is None:
        raise SpecError(f"catenorm: blocks is {blocks}, expected at least 1, and a network whose encoder has levels, the unet for example")
    stem = getattr(network.encoder, "stem", None)
    places = [
        (parent, name, child)
        for block in ([stem] if isinstance(stem, nn.Module) else []) + list(levels)[:blocks]
        for parent in block.modules()
        for name, child in parent.named_children()
        if isinstance(child, (nn.BatchNorm2d, nn.InstanceNorm2d))
    ]
    if not places:
        raise SpecError("catenorm: the encoder's first levels hold no 2-D batch or instance normalisation; use the unet in 2-D")
    for parent, name, child in places:
        general = child if isinstance(child, nn.BatchNorm2d) else None
        setattr(parent, name, TwoBranchNorm2d(child.num_features, classes, general))
    return network
