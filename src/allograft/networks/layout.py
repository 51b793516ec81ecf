"""The order in which a network's numbers lie in memory."""

from __future__ import annotations

import torch

from allograft.networks.network import AnyNetwork

LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}


def channels_last(network: AnyNetwork) -> AnyNetwork:
    """Keep the weights of convolutions with the channels last, in place; torch then computes these
    convolutions that way.

    What is computed is the same but for rounding. It is faster where convolutions run in bfloat16,
    most of all in 3-D.
    """
    for parameter in network.parameters():
        if parameter.dim() in LAYOUTS:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[parameter.dim()])
    return network
