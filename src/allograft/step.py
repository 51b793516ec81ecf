"""One update: objective, backward, averaging over processes, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.networks import AnyNetwork
from allograft.nn.processes import processes
from allograft.schedule import Schedule

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Terms = Mapping[str, Tensor]
Step = Callable[[Batch], Terms]


class Objective(Protocol):
    """What to minimise: named, already weighted terms. It may be an ``nn.Module`` that owns
    heads."""

    def __call__(self, network: AnyNetwork, batch: Batch) -> Terms:
        """The terms, each a scalar; their sum is minimised."""


@dataclass
class GradientStep:
    """The default step. The network is never wrapped, so an objective may call any part of it.

    Args:
        network: moves to the fabric's device by whoever made it.
        objective: maps network and batch to terms.
        optimizer: holds the parameters that move; each must belong to the network or the objective.
        fabric: autocast, backward, device.
        schedule: told the loss after each update.
        clip: the largest norm of all gradients together.
    """

    network: AnyNetwork
    objective: Objective
    optimizer: torch.optim.Optimizer
    fabric: Fabric
    schedule: Schedule | None = None
    clip: float | None = None

    def __call__(self, batch: Batch) -> Terms:
        self.optimizer.zero_grad(set_to_none=True)
        with self.fabric.autocast():
            terms = self.objective(self.network, batch)
        loss = torch.stack([*terms.values()]).sum()
        descend(loss, self.optimizer, self.fabric, schedule=self.schedule, clip=self.clip)
        average_buffers(self.network)
        return {key: value.detach() for key, value in terms.items()}


def descend(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    fabric: Fabric,
    *,
    schedule: Schedule | None = None,
    clip: float | None = None,
) -> None:
    """One update of what an optimizer holds, by the gradients of this loss alone: what another loss
    left there is dropped. Gradients that reach other parameters stay in them until they move.

    Args:
        loss: a scalar.
        schedule: told the loss afterwards.
        clip: the largest norm of all gradients together.
    """
    optimizer.zero_grad(set_to_none=True)
    fabric.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    average_gradients(parameters)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    optimizer.step()
    if schedule is not None:
        schedule(loss.detach())


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """The mean of each gradient over processes, in place; a parameter that only some of them used
    counts as zero in the others."""
    if processes() == 1 or not parameters:
        return
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.uint8, device=parameters[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    moving = [p for p, is_used in zip(parameters, used.tolist(), strict=True) if is_used]
    if not moving:
        return
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).reshape(-1) for p in moving])
    dist.all_reduce(flat)
    flat /= processes()
    for p, part in zip(moving, flat.split([p.numel() for p in moving]), strict=True):
        p.grad = part.view_as(p).clone()


@torch.no_grad()
def average_buffers(network: nn.Module) -> None:
    """Running statistics are the same on every process at every step; else a resume would depend on
    rank 0's share of the data."""
    if processes() == 1:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= processes()


def named_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, object]:
    """An optimizer's state by parameter name, so that it outlives the order of its parameters.

    Returns:
        ``{"kind": class name, "state": {parameter name: {"exp_avg": tensor, ...}}}``.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    state = {names[id(p)]: dict(values) for p, values in optimizer.state.items() if id(p) in names}
    return {"kind": type(optimizer).__name__.lower(), "state": state}
