"""Files of weights: name -> tensor, and nothing in a file is run."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allograft.errors import ModelError
from allograft.networks.fetch import named_weights

INSIDE = ("state_dict", "model_state_dict", "network_weights", "model", "network", "net", "teacher", "student")
"""Where training scripts put the weights among other things."""


class _Unread:
    """In the place of a NumPy value of a checkpoint: takes what a pickle gives it, and keeps none
    of it."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


_NUMPY: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Unread, f"numpy.{name}")
    for name in (
        "dtype",
        "ndarray",
        *(f"{core}.multiarray.{one}" for core in ("core", "_core") for one in ("scalar", "_reconstruct")),
    )
]


def stored_weights(source: Path | str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """A flat name -> tensor mapping, of a model folder that of the first network in it; and which
    NumPy values were not read."""
    path = named_weights(source) or Path(source)
    file = path / "model.safetensors" if os.path.isdir(path) else path
    if not os.path.isfile(file):  # which says no to a name that is too long, where Path raises
        raise ModelError(
            f"{str(path)[:200]}: no such weights; expected 'scratch', a model folder, a .safetensors or .pt file, "
            "timm:NAME or hf:OWNER/NAME"
        )
    state, unread = (_safetensors(file), ()) if file.suffix == ".safetensors" else _state_dict(file)
    if os.path.isdir(path) or any("/" in key for key in state):  # a model folder, or the file in it
        prefix = min((key.split("/")[0] for key in state if "/" in key), default="", key=len)
        state = {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
    return state, unread


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(file)
    # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
    except Exception as error:
        raise ModelError(f"{file}: no safetensors file ({error}); export the weights again") from error
    return state


def _state_dict(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors that ``torch.save`` wrote, and where NumPy values are; torch refuses anything
    else before it is made."""
    kept = _opened(file)
    unread = tuple(_places(kept))
    for _ in range(3):
        inner = (
            next((kept[key] for key in INSIDE if isinstance(kept.get(key), Mapping)), None)
            if isinstance(kept, Mapping)
            else None
        )
        kept = kept if inner is None else inner
    tensors = (
        {str(key): value for key, value in kept.items() if isinstance(value, Tensor)}
        if isinstance(kept, Mapping)
        else {}
    )
    if not tensors:
        raise ModelError(f"{file}: holds no weights; expected name -> tensor, as model.state_dict() gives it")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{file}: '{name}' of shape {tuple(tensor.shape)} is larger than what is stored of it; save it again"
            )
    return tensors, unread


def _opened(file: Path) -> Any:
    try:
        if (
            zipfile.is_zipfile(file)
            and sum(one.file_size for one in zipfile.ZipFile(file).infolist()) > file.stat().st_size
        ):
            # a few kilobytes could stand for terabytes
            raise ValueError("compressed, which torch.save never does")
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none may raise anything
        mend = "save the weights alone: torch.save(model.state_dict(), FILE), or as safetensors"
        raise ModelError(
            f"{file}: no plain state dict ({_reason(error)}); files that hold more than tensors are not opened: {mend}"
        ) from error


def _reason(error: Exception) -> str:
    """What torch found, without its advice to open the file regardless.

    >>> _reason(ValueError("Unsupported global: GLOBAL a.b.Config was not an allowed global by default. Please use"))
    'it holds a.b.Config, which is no tensor'
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if found := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {found[1]}, which is no tensor"
    inner = text.partition("WeightsUnpickler error:")[2].strip() or text
    return inner.splitlines()[0][:200] if inner else type(error).__name__


def _places(held: object, at: str = "", depth: int = 0) -> Iterator[str]:
    """Where NumPy values are, ``history.loss`` for one; those below a list count as the list."""
    if isinstance(held, _Unread) and at:
        yield at
    elif isinstance(held, Mapping) and depth < 8:
        for key, value in held.items():
            yield from _places(value, f"{at}.{key}" if at else str(key), depth + 1)
    elif isinstance(held, (list, tuple)) and depth < 8:
        yield from dict.fromkeys(place for value in held for place in _places(value, at, depth + 1))
