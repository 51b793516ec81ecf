"""What processes that train together share: how many they are, and the counts by which losses are
divided."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def processes() -> int:
    """How many processes train together; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def mean_over_processes(values: Tensor) -> Tensor:
    """The mean of the values of all processes, without gradient; the values themselves for a
    process alone.

    A loss ``sum / weight`` of a batch that is divided among processes is divided by this mean of
    their weights: the mean of the processes' losses, and of their gradients, is then that of the
    undivided batch, however unequal the weights are.

    Example:
        >>> import torch
        >>> mean_over_processes(torch.tensor([2.0, 3.0]))
        tensor([2., 3.])
    """
    if processes() == 1:
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / processes()


def count_over_processes(known: Tensor) -> Tensor:
    """``mean_over_processes`` of how many are known, for at least one in the undivided batch: (...)
    bool -> ().

    Example:
        >>> import torch
        >>> count_over_processes(torch.tensor([True, False, True])), count_over_processes(torch.tensor([False]))
        (tensor(2), tensor(1))
    """
    return mean_over_processes(known.sum()).clamp_min(1 if processes() == 1 else 1 / processes())
