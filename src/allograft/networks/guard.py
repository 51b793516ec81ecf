"""Networks from specs that somebody else wrote: nothing is fetched, and nothing is allocated that
the weights do not account for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from allograft.errors import ModelError, SpecError

FETCHING = (
    *("pretrained", "pretrained_url", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_state_dict_key"),
    *("checkpoint_path", "weights", "path_or_repo_id", "filename", "url", "cache_dir"),
)
"""Arguments by which builders of MONAI, timm and torchvision fetch weights, or unpickle a file."""
SPARE_BYTES, SPARE_CALLS = 2**28, 10_000
"""What building any network may allocate and call beyond its share: tables of positions and masks,
which are kept in no file."""


def refuse_fetching(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise ``SpecError`` for arguments that would make a builder download or unpickle something.

    >>> refuse_fetching("timm", {"name": "resnet18", "checkpoint_path": "best.pth"})
    Traceback (most recent call last):
    allograft.errors.SpecError: network: timm: checkpoint_path: networks fetch no weights; remove it, ...
    """
    for key in FETCHING:
        if arguments.get(key):
            start = f"timm:{arguments.get('name', 'NAME')}" if name == "timm" else "FILE"
            raise SpecError(
                f"network: {name}: {key}: networks fetch no weights; remove it, and name them by start: {start}"
            )


def offline(name: str, builder: Any) -> dict[str, Any]:
    """Arguments that keep a builder from fetching what it fetches by default.

    >>> offline("x", lambda in_channels, pretrained=True: None)
    {'pretrained': False}
    """
    defaults = {key: given.default for key, given in inspect.signature(builder).parameters.items() if key in FETCHING}
    if defaults.get("path_or_repo_id"):
        raise SpecError(f"network: {name}: is made of weights that it downloads; choose another network")
    return {"pretrained": False} if defaults.get("pretrained") is True else {}


@contextmanager
def bounded(state: Mapping[str, Tensor], where: str) -> Iterator[None]:
    """Refuse, before it is allocated, what a network for these weights has no use for.

    Inside, torch may make eight times the bytes of ``state`` and ``SPARE_BYTES`` more, by a hundred
    calls a tensor and ``SPARE_CALLS`` more. A card of a few bytes can ask for terabytes, or for a
    billion small layers.

    Raises:
        ModelError: more is asked for.

    Example:
        >>> with bounded({}, "card.json"):
        ...     torch.empty(10**9, 10**3)
        Traceback (most recent call last):
        allograft.errors.ModelError: card.json: asks for a network ... times the size of its weights; its spec ...
    """
    held = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    with _Bounds(8 * held + SPARE_BYTES, 100 * len(state) + SPARE_CALLS, where):
        yield


class _Bounds(TorchDispatchMode):
    """Counts what is made; looks at each call before it runs."""

    def __init__(self, most_bytes: int, most_calls: int, where: str) -> None:
        super().__init__()
        self.bytes, self.calls, self.where = most_bytes, most_calls, where

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here: to leave it out of a compilation, torch would import its
        compiler, which takes longer than a prediction."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        self.calls -= 1
        self.bytes -= _asked(func, args, kwargs or {})
        if self.bytes < 0 or self.calls < 0:
            found = "many times the size of its weights" if self.bytes < 0 else "of far more layers than it has weights"
            raise ModelError(
                f"{self.where}: asks for a network {found}; its spec is not that of the weights, export the model again"
            )
        return func(*args, **(kwargs or {}))


def _asked(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    """Bytes that a call is about to make: by its size, or by what its tensors are broadcast to; 0
    in place."""
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | dict(kwargs)
    tensors = [argument for argument in given.values() if isinstance(argument, Tensor)]
    width = (given.get("dtype") or (tensors[0].dtype if tensors else torch.get_default_dtype())).itemsize
    if func._schema.name.endswith(("expand", "view", "as_strided", "_unsafe_view", "_reshape_alias")):
        return 0
    if "size" in given and isinstance(given["size"], (list, tuple)):
        return width * math.prod(int(argument) for argument in given["size"])
    lengths = [int(given[key]) for key in ("end", "steps", "n", "repeats") if isinstance(given.get(key), (int, float))]
    if lengths:
        return width * max(lengths)
    if len(tensors) > 1 and not func._schema.name.endswith("_"):
        try:
            return width * math.prod(torch.broadcast_shapes(*(argument.shape for argument in tensors)))
        except RuntimeError:
            return 0
    return 0
