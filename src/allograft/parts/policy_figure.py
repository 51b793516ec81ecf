"""How often the blocks of a gated network are tuned: a figure of a policy."""

from __future__ import annotations

from torch import Tensor

from allograft.figure import Heatmap
from allograft.networks import Network


def policy_figure(network: Network, share: Tensor) -> Heatmap:
    """(L,) shares -> level x side of the network (Sheikh et al. 2022, fig. 5); an up stands at the
    level whose skip it takes."""
    ups = len(getattr(network.decoder, "ups", ()))
    levels = len(share) - ups
    decoder = {levels - 2 - which: value for which, value in enumerate(share[levels:].tolist())}
    columns = ("encoder", "decoder") if ups else ("encoder",)
    values = tuple((value, decoder.get(level))[: len(columns)] for level, value in enumerate(share[:levels].tolist()))
    names = tuple(f"level {level + 1}" for level in range(levels))
    return Heatmap("share of the labelled target images for which a block is tuned", names, columns, values, 0.0, 1.0)
