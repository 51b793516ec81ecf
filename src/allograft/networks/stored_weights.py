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


def stored_weights(source: Path | str) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """A flat name -> tensor mapping, of a model folder that of the first network in it; which NumPy
    values were not read; and, of several sets of weights in a file, which one was taken."""
    path = named_weights(source) or Path(source)
    file = path / "model.safetensors" if os.path.isdir(path) else path
    if not os.path.isfile(file):  # which says no to a name that is too long, where Path raises
        raise ModelError(
            f"{str(path)[:200]}: no such weights; expected 'scratch', a model folder, a .safetensors or .pt file, "
            "timm:NAME or hf:OWNER/NAME"
        )
    state, unread, taken = (_safetensors(file), (), "") if file.suffix == ".safetensors" else _state_dict(file)
    if os.path.isdir(path) or any("/" in key for key in state):  # a model folder, or the file in it
        prefix = min((key.split("/")[0] for key in state if "/" in key), default="", key=len)
        state = {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
    return state, unread, taken


def _safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(file)
    # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
    except Exception as error:
        raise ModelError(f"{file}: no safetensors file ({error}); export the weights again") from error
    return state


def _state_dict(file: Path) -> tuple[dict[str, Tensor], tuple[str, ...], str]:
    """The tensors that ``torch.save`` wrote, where NumPy values are, and of several sets of weights
    which one was taken; torch refuses anything else before it is made."""
    kept = _opened(file)
    unread = tuple(_places(kept))
    taken = ""
    for _ in range(3):
        key, others = _inside(file, kept)
        if not key:
            break
        kept = kept[key]
        taken = f"weights taken from '{key}', not from {' or '.join(map(repr, others))}" if others else taken
    tensors = (
        {str(key): value for key, value in kept.items() if isinstance(value, Tensor)}
        if isinstance(kept, Mapping)
        else {}
    )
    if not tensors:
        arrays = "; its NumPy arrays are not read: make them tensors, torch.from_numpy" if unread else ""
        raise ModelError(f"{file}: holds no weights; expected name -> tensor, as model.state_dict() gives it{arrays}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ModelError(
                f"{file}: '{name}' of shape {tuple(tensor.shape)} is larger than what is stored of it; save it again"
            )
    return tensors, unread, taken


def _inside(file: Path, kept: object) -> tuple[str, list[str]]:
    """The key under which the weights are, and others that hold as many tensors; ``"", []`` where
    they are here."""
    if not isinstance(kept, Mapping):
        return "", []
    holds = {key: _tensors(value) for key, value in kept.items() if isinstance(key, str)}
    nested = [key for key, count in holds.items() if count and isinstance(kept[key], Mapping)]
    known = next((key for key in INSIDE if key in nested), None)
    if known is None and (not nested or any(isinstance(value, Tensor) for value in kept.values())):
        return "", []
    if known is None and len(nested) > 1:
        raise ModelError(
            f"{file}: holds weights under {', '.join(map(repr, sorted(nested)[:5]))}; expected one set of weights; "
            "save the one you mean alone"
        )
    key = known or nested[0]
    return key, [other for other in nested if other != key and holds[other] == holds[key]]


def _tensors(held: object, depth: int = 0) -> int:
    """How many tensors have a name, in mappings of names alone: an optimizer numbers its own."""
    if isinstance(held, Tensor):
        return 1
    if not isinstance(held, Mapping) or depth > 3 or not all(isinstance(key, str) for key in held):
        return 0
    return sum(_tensors(value, depth + 1) for value in held.values())


def _opened(file: Path) -> Any:
    with file.open("rb") as opened:
        head = opened.read(10)
    if head[8:] == b'{"' and int.from_bytes(head[:8], "little") < file.stat().st_size:
        raise ModelError(f"{file}: found a safetensors file; call it .safetensors")
    try:
        if (
            zipfile.is_zipfile(file)
            and sum(member.file_size for member in zipfile.ZipFile(file).infolist()) > file.stat().st_size
        ):
            # a few kilobytes could stand for terabytes
            raise ValueError("compressed, which torch.save never does")
        if damaged := _damaged(file):
            raise ModelError(f"{file}: a damaged file, the checksum of its part {damaged} is wrong; copy it again")
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(file, map_location="cpu", weights_only=True)
    except ModelError:
        raise
    except Exception as error:  # a file that is none may raise anything
        if known := _kind(file):
            raise ModelError(f"{file}: found {known}") from error
        mend = "save the weights alone: torch.save(model.state_dict(), FILE), or as safetensors"
        raise ModelError(
            f"{file}: no plain state dict ({_reason(error)}); files that hold more than tensors are not opened: {mend}"
        ) from error


def _damaged(file: Path) -> str:
    """The first part of a file of torch whose checksum is wrong, which torch does not look at; ""
    where all are right, or all wrong because the file was written without
    (``set_crc32_options``)."""
    if not zipfile.is_zipfile(file):
        return ""
    wrong = []
    with zipfile.ZipFile(file) as packed:
        parts = [member.filename for member in packed.infolist() if member.file_size]
        for name in parts:
            try:
                with packed.open(name) as part:
                    while part.read(2**20):
                        pass
            except zipfile.BadZipFile:
                wrong.append(name)
    return wrong[0] if 0 < len(wrong) < len(parts) else ""


_HEADS = {
    b"version https://git-lfs": "a pointer of Git LFS in the place of the weights; fetch them: git lfs pull",
    b"<!doctype html": "a web page in the place of the weights; download the file itself",
    b"<html": "a web page in the place of the weights; download the file itself",
    b"\x89hdf": "an HDF5 file, as Keras writes it; export the weights as safetensors",
}


def _kind(file: Path) -> str:
    """What a file is that is often taken for weights of torch, with what to do; "" for others."""
    with file.open("rb") as opened:
        head = opened.read(64)
    if known := next((words for start, words in _HEADS.items() if head.lower().startswith(start)), None):
        return known
    if file.suffix.lower() in (".onnx", ".tflite", ".pb"):
        return f"a {file.suffix} file, a graph for inference; export the weights it was made from: model.state_dict()"
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as packed:
            scripted = any("/code/" in name for name in packed.namelist())
        return "a TorchScript archive; save its weights alone: torch.save(model.state_dict(), FILE)" if scripted else ""
    return "half a file, cut short in copying; copy it again" if head.startswith(b"PK\x03\x04") else ""


def _reason(error: Exception) -> str:
    """What torch found, without its advice to open the file regardless.

    >>> _reason(ValueError("Unsupported global: GLOBAL a.b.Config was not an allowed global by default. Please use"))
    'it holds a.b.Config, which is no tensor'
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it holds {named[1]}, which is no tensor"
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
        yield from dict.fromkeys(path for value in held for path in _places(value, at, depth + 1))
