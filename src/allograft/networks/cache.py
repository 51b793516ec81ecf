"""What the frozen part of a network says of a case, computed once and kept, so that a step runs
only what is tuned."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.networks.network import AnyNetwork

Call = tuple[str, int]
"""A module's name, and which of its calls in one pass."""
Outputs = Mapping[Call, Any]
"""Call -> what the module returned: tensors, or lists, tuples and dicts of them."""

IN_MEMORY = 2**30
"""Bytes kept in memory; more goes to a memory-mapped file, of which the system keeps in memory what
it can."""
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}
"""Largest difference, in parts of the largest output, between a pass with what is kept and a whole
one: rounding differs with the batch."""


class FrozenOutputs:
    """For each case the outputs of the largest frozen modules that nothing tuned comes before.

    With them in place a pass computes the tuned rest alone, on the very same numbers. They are
    found by running the network, so any network will do: a module counts when no parameter inside
    it requires a gradient and none of its outputs does. Outputs that no tuned part reads are not
    kept. Nothing is saved with a checkpoint: after a restart each case is computed again when it is
    next met.

    Args:
        cases: how many will be met, to foresee the size.
        folder: where the file goes when memory does not do; the system's own place for temporary
            files when None. The file has no name, so it is gone with the process, however that
            ends.
        say: told the size, once.
        in_memory: bytes; more goes to the file.
    """

    def __init__(
        self,
        cases: int,
        folder: Path | None = None,
        say: Callable[[str], None] = lambda line: None,
        *,
        in_memory: int = IN_MEMORY,
    ) -> None:
        self.cases = cases
        self.folder = folder
        self.say = say
        self.in_memory = in_memory
        # those of the first case; what nothing reads is on the device "meta"
        self.like: Outputs | None = None
        self.kept: dict[str, Outputs] = {}
        self.file: IO[bytes] | None = None

    @contextmanager
    def replayed(self, network: nn.Module, batch: Batch) -> Iterator[None]:
        """Inside, the network's first pass over ``batch.image`` computes only what is tuned.

        Raises:
            SpecError: a frozen part that is no function of the case alone, or a network of which
                nothing can be kept.
        """
        fresh = self.like is None
        for row, case in enumerate(batch.cases):
            if case not in self.kept:
                self.kept[case] = self._seen(network, batch.image[row : row + 1])
        if fresh:
            self._check(network, batch)
        with replayed(network, self._joined(batch)):
            yield

    def _seen(self, network: nn.Module, image: Tensor) -> Outputs:
        with _undisturbed(network):
            # running statistics of tuned parts stay; frozen parts that behave otherwise in training
            # are found by the check
            network.eval()
            if self.like is None:
                self.like = _what_is_read(network, image, outputs := frozen_outputs(network, image))
                self._announce()
            else:
                with torch.no_grad():
                    outputs = frozen_outputs(network, image, self.like)
        return tree_map(self._laid_down, outputs, self.like)

    def _announce(self) -> None:
        a_case = sum(_size(tensor) for tensor in tree_leaves(self.like) if not tensor.is_meta)
        if not a_case:
            raise SpecError(
                "cache_features: no frozen part comes before the tuned one in this network; set cache_features: false"
            )
        if a_case * self.cases > self.in_memory:
            if self.folder is not None:
                self.folder.mkdir(parents=True, exist_ok=True)
            self.file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - it lives as long as this object
        where = "in memory" if self.file is None else f"in a file in {self.folder or tempfile.gettempdir()}"
        self.say(
            f"keeping features of {self.cases} cases, {a_case / 2**20:.1f} MiB each, "
            f"{self.cases * a_case / 2**20:.0f} MiB {where}"
        )

    def _laid_down(self, tensor: Tensor, like: Tensor) -> Tensor:
        if like.is_meta:
            return tensor.to("meta")
        tensor = tensor.to("cpu")
        if self.file is None:
            return tensor
        start = -(-self.file.seek(0, 2) // 64) * 64
        self.file.seek(start)
        self.file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        self.file.flush()
        # copy on write: torch wants arrays that could be written to
        mapped = np.memmap(self.file, np.uint8, "c", start, (_size(tensor),))
        return torch.from_numpy(mapped).view(tensor.dtype).view(tensor.shape)

    def _joined(self, batch: Batch) -> Outputs:
        """New tensors each time, since a tuned part may change its input in place."""
        device = batch.image.device

        def join(*each: Tensor) -> Tensor:
            joined = torch.cat(each)
            return joined if joined.is_meta else joined.to(device)

        first, *others = (self.kept[case] for case in batch.cases)
        return tree_map(join, first, *others)

    def _check(self, network: nn.Module, batch: Batch) -> None:
        """Raise unless a pass with what is kept gives what a whole one gives, in the modes in which
        the network trains."""
        with torch.no_grad():
            with _undisturbed(network):
                whole = tree_leaves(network(batch.image))
            with _undisturbed(network), replayed(network, self._joined(batch)):
                again = tree_leaves(network(batch.image))
        for value, other in zip(whole, again, strict=True):
            if (value - other).abs().max() > TOLERANCE.get(value.dtype, 0.05) * value.abs().max():
                moving = ", ".join(_random_or_moving(network, self.like or {})) or "a module of its own kind"
                raise SpecError(
                    "cache_features: the frozen part of this network is no function of the case alone, because of "
                    "dropout, moving "
                    f"statistics or a look at the other cases of the batch ({moving}); set the network's dropout or "
                    "drop_path to 0, or "
                    "cache_features: false"
                )


@dataclass(frozen=True)
class OnKept:
    """An objective that passes each batch through the network once, on what is kept of the frozen
    part.

    Args:
        objective: maps network and batch to terms.
        outputs: of the frozen part.
    """

    objective: Callable[[AnyNetwork, Batch], Mapping[str, Tensor]]
    outputs: FrozenOutputs

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The inner terms."""
        with self.outputs.replayed(network, batch):
            return self.objective(network, batch)


def frozen_outputs(network: nn.Module, image: Tensor, only: Outputs | None = None) -> dict[Call, Any]:
    """One pass -> copies of what the largest frozen modules return, those that nothing tuned comes
    before.

    Args:
        image: (B, C, *spatial).
        only: keep these calls, and look at no gradient.
    """
    outputs: dict[Call, Any] = {}
    running: list[tuple[Call, int]] = []
    counts: Counter[str] = Counter()

    def enter(name: str, module: nn.Module, inputs: Any) -> None:
        running.append(((name, counts[name]), len(outputs)))
        counts[name] += 1

    def leave(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        call, before = running.pop()
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]
        if call in only if only is not None else tensors and not any(tensor.requires_grad for tensor in tensors):
            for inner in list(outputs)[before:]:
                del outputs[inner]
            outputs[call] = tree_map_only(
                Tensor, lambda tensor: tensor.detach().clone(), output
            )  # before anything changes it in place

    hooks = []
    for name, module in network.named_modules():
        if not any(p.requires_grad for p in module.parameters()):
            hooks += [
                module.register_forward_pre_hook(partial(enter, name)),
                module.register_forward_hook(partial(leave, name)),
            ]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


@contextmanager
def replayed(network: nn.Module, outputs: Outputs) -> Iterator[None]:
    """Inside, these calls of the network's modules return these outputs, and compute nothing. They
    are handed out as they are."""
    counts: Counter[str] = Counter()
    modules = {name: module for name, module in network.named_modules() if any(name == call[0] for call in outputs)}

    def instead(name: str, own: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*inputs: Any, **options: Any) -> Any:
            call = name, counts[name]
            counts[name] += 1
            return outputs[call] if call in outputs else own(*inputs, **options)

        return forward

    for name, module in modules.items():
        module.__dict__["forward"] = instead(name, module.forward)
    try:
        yield
    finally:
        for module in modules.values():
            del module.__dict__["forward"]


class _Reads(TorchDispatchMode):
    """Notes which memory operations read."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = (leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor))
        self.places |= {tensor.untyped_storage().data_ptr() for tensor in tensors}
        return operation(*args, **(kwargs or {}))


def _what_is_read(network: nn.Module, image: Tensor, outputs: Outputs) -> Outputs:
    """The same outputs; those that the rest of the network does not read have no memory."""
    copies = tree_map(torch.clone, outputs)
    with torch.no_grad(), _Reads() as reads, replayed(network, copies):
        network(image)

    def kept(tensor: Tensor, twin: Tensor) -> Tensor:
        return tensor if twin.untyped_storage().data_ptr() in reads.places else tensor.to("meta")

    return tree_map(kept, outputs, copies)


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Afterwards modes, buffers and the global generators are as they were."""
    modes = [(module, module.training) for module in network.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for buffer, before in buffers:
            buffer.copy_(before)


def _random_or_moving(network: nn.Module, outputs: Outputs) -> list[str]:
    """Names of modules inside the frozen calls that drop values or move statistics."""
    unsuited = []
    for name in {name for name, _ in outputs}:
        for inner, module in network.get_submodule(name).named_modules(prefix=name):
            drops = getattr(module, "p", 0) or getattr(module, "drop_prob", 0)
            if module.training and (drops or getattr(module, "running_mean", None) is not None):
                unsuited.append(inner)
    return sorted(unsuited)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
