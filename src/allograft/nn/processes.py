"""What processes that train together share: how many they are, and the counts by which losses are
divided."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_BY_ITSELF: ContextVar[bool] = ContextVar("by_itself", default=False)


def processes() -> int:
    """How many processes train together; 1 without a process group, and inside ``by_itself``."""
    together = dist.is_available() and dist.is_initialized() and not _BY_ITSELF.get()
    return dist.get_world_size() if together else 1


@contextmanager
def by_itself() -> Iterator[None]:
    """Inside, each process trains on the whole batch as a process alone does: no gradient, loss or
    statistic is shared. Afterwards the processes differ where they drew differently; see
    ``follow_first``.

    Example:
        >>> with by_itself():
        ...     processes()
        1
    """
    token = _BY_ITSELF.set(True)
    try:
        yield
    finally:
        _BY_ITSELF.reset(token)


@torch.no_grad()
def follow_first(network: nn.Module) -> None:
    """Parameters and buffers of every process become those of the first."""
    if processes() > 1:
        for value in (*network.parameters(), *network.buffers()):
            dist.broadcast(value, 0)


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
