"""What a training step will need, measured on one batch before the training begins."""

from __future__ import annotations

import copy
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from allograft.batch import Batch

MB = 2**20


@dataclass(frozen=True)
class Forecast:
    """What a step needs.

    Args:
        parameters_mb: MiB of weights and buffers.
        step_mb: MiB alive at the fullest moment of a step: weights and buffers, gradients, the optimizer's state, what autograd keeps for
            backward, and the batch.
        seconds: of one step.
    """

    parameters_mb: float
    step_mb: float
    seconds: float


def forecast(
    network: nn.Module,
    objective: Callable[[Any, Batch], Mapping[str, Tensor]],
    batch: Batch,
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer] = torch.optim.Adam,
) -> Forecast:
    """Two steps on copies of network and objective, the first for memory, the second for time; the global generators stay as they were.

    Memory is counted from the tensors that operations make, in backward too, so it means the same on every device. What an operation uses
    inside itself, the workspace of a convolution for example, is not seen, nor what the allocator holds in reserve. An objective that is no
    ``nn.Module`` is not copied: its own state, if it has any, moves.

    Args:
        network: on the device where it will train, and in the modes and with the frozen parameters with which it will.
        objective: maps network and batch to terms.
        batch: as large as those of the training; it is moved to the network's device.
        optimizer: parameters -> the optimizer whose state counts.

    Example:
        >>> def squared(network, batch):
        ...     return {"squared": network(batch.image).square().mean()}
        >>> batch = Batch(torch.zeros(1, 1, 512, 512), torch.zeros(1), ("a",))
        >>> found = forecast(nn.Conv2d(1, 1, 3, padding=1), squared, batch)
        >>> found.parameters_mb < 0.001, 3 <= found.step_mb < 8  # 1 MiB each: the image, the result, its gradient and what leads to it
        (True, True)
    """
    network, objective = copy.deepcopy(network), copy.deepcopy(objective) if isinstance(objective, nn.Module) else objective
    parameters = [*network.parameters(), *(objective.parameters() if isinstance(objective, nn.Module) else ())]
    weights = [*parameters, *network.buffers()]
    batch = batch.to(weights[0].device) if weights else batch
    made = optimizer([p for p in parameters if p.requires_grad])
    device = batch.image.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):

        def update() -> None:
            made.zero_grad(set_to_none=True)
            torch.stack([*objective(network, batch).values()]).sum().backward()

        with _Live() as live:
            update()
        made.step()
        began = _now(device)
        update()
        made.step()
        seconds = _now(device) - began
    state = [value for values in made.state.values() for value in values.values() if isinstance(value, Tensor)]
    inputs = [batch.image, *(label for label in batch.labels.values() if isinstance(label, Tensor))]
    return Forecast(_bytes(weights) / MB, (_bytes([*weights, *inputs, *state]) + live.peak) / MB, seconds)


class _Live(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, each memory once, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_place(leaf) for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)}
        output = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(output):
            if isinstance(leaf, Tensor) and _place(leaf) not in given and _place(leaf) not in self.sizes:  # no view of what was there
                storage = leaf.untyped_storage()
                self.sizes[_place(leaf)] = storage.nbytes()
                self.total += storage.nbytes()
                weakref.finalize(storage, self._gone, _place(leaf))
        self.peak = max(self.peak, self.total)
        return output

    def _gone(self, place: int) -> None:
        self.total -= self.sizes.pop(place, 0)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
