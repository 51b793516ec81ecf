"""One file format for all that is kept: a tree of dicts, lists, numbers and tensors <-> one
.safetensors file, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allograft.errors import AllograftError, OutputError

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What JSON holds; tuples are written as lists."""

HEADER = "allograft"
"""The entry of a file's metadata that holds the tree without its tensors, and a checksum of
both."""


class DamagedFile(AllograftError):
    """A kept file does not match its checksum, or cannot be read at all."""


def content_hash(*things: object) -> str:
    """24 hex digits of JSON values, whatever the order of a mapping's keys.

    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.blake2b(json.dumps(things, sort_keys=True).encode(), digest_size=12).hexdigest()


def digest(module: nn.Module) -> str:
    """24 hex digits of a module's parameters and buffers."""
    total = hashlib.blake2b(digest_size=12)
    for name, tensor in module.state_dict().items():
        total.update(name.encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def plain(thing: object, *, sparse: bool = False) -> Any:
    """JSON values of a dataclass, mapping, sequence or path: what goes into keys, cards and
    records.

    A recipe becomes ``{"name": {field: value}}`` with all fields, so that a changed default changes
    the key.

    Args:
        sparse: leave out the fields that have their default value, and those that say how to
            compute (``metadata={"how": True}``) and not what.
    """
    if hasattr(thing, "tree"):  # a grid of recipes
        return plain(thing.tree())
    if is_dataclass(thing) and not isinstance(thing, type):
        named = ((f, getattr(thing, f.name)) for f in fields(thing) if f.compare)
        shown = ((f, value) for f, value in named if not (sparse and (value == default(f) or f.metadata.get("how"))))
        body = {f.name: plain(value, sparse=sparse) for f, value in shown}
        return {_table_name(thing): body} if hasattr(thing, "run") else body
    if isinstance(thing, Mapping):
        return {str(key): plain(value, sparse=sparse) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [plain(value, sparse=sparse) for value in thing]
    if isinstance(thing, Path):
        return thing.as_posix()
    return thing


def default(field: Field[Any]) -> Any:
    """The default value of a dataclass field; ``MISSING`` when it has none."""
    return field.default_factory() if callable(field.default_factory) else field.default


def _table_name(recipe: object) -> str:
    from allograft.table import name_of

    return name_of("method", type(recipe))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: a temporary beside it, fsync, rename."""
    write_chunks(path, [data])


def write_chunks(path: Path, chunks: Iterable[bytes]) -> None:
    """``write_bytes`` of a file that need not fit into memory."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        with suppress(OSError):  # its folder may be what is missing
            part.unlink()
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error


def replace_file(part: Path, path: Path) -> None:
    """Give a finished file its name, whatever has it now."""
    try:
        os.replace(part, path)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); remove it, or choose another --out"
        ) from error


def append_bytes(path: Path, data: bytes) -> None:
    """Write at the end of a file that is there, in one piece; of what a full disk cut short nothing
    stays."""
    before = path.stat().st_size
    try:
        with open(path, "ab", buffering=0) as file:
            while data:
                data = data[file.write(data) :]
            os.fsync(file.fileno())
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before)
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error


def write_json(path: Path, tree: object) -> None:
    """Write JSON with sorted keys, whole or not at all."""
    write_bytes(path, (json.dumps(tree, indent=1, sort_keys=True) + "\n").encode())


def save(path: Path, tree: object) -> None:
    """Keep a tree of dict / list / tuple / tensor / JSON values; the same tree gives the same
    bytes. Other types raise ``TypeError`` with their place."""
    from safetensors.torch import save as to_bytes

    tensors: dict[str, Tensor] = {}
    shape = json.dumps(_flatten(tree, tensors, "tree"))
    flat = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()} or {"_": torch.zeros(1)}
    # in one entry: safetensors writes several in any order
    write_bytes(path, to_bytes(flat, metadata={HEADER: json.dumps({"tree": shape, "blake2b": _checksum(shape, flat)})}))


def load(path: Path) -> Any:
    """Read what ``save`` wrote. ``DamagedFile`` when it is cut short or was changed."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()[HEADER])
            # copies, as torch aligns its own: products of unaligned numbers round otherwise
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a mapping
        shape, checksum = header["tree"], header["blake2b"]
    # a damaged header may raise anything: an unknown dtype, names that are no UTF-8
    except Exception as error:
        raise DamagedFile(f"{path}: not a complete file ({error}); delete it; it is made again") from error
    if _checksum(shape, tensors) != checksum:
        raise DamagedFile(f"{path}: its content does not match its checksum; delete it; it is made again")
    return _restore(json.loads(shape), tensors)


def outline(path: Path) -> Any:
    """What ``save`` wrote without its tensors, which are None: from the header alone, unchecked.
    None where the file is missing or damaged, as one may be that another process writes."""
    from safetensors import safe_open

    try:
        with safe_open(path, "pt") as file:
            shape = json.loads(json.loads(file.metadata()[HEADER])["tree"])
    except Exception:  # see ``load``
        return None
    return _restore(shape, _NoTensors())


def load_whole(path: Path) -> Any:
    """What ``load`` reads; None where the file is missing or damaged, and has to be made again."""
    try:
        return load(path) if path.exists() else None
    except DamagedFile:
        return None


def copied_to_cpu(tree: Any) -> Any:
    """The same tree of dicts, lists, tuples and values, its tensors copied: what they were taken
    from may change, on whatever device it is."""
    if isinstance(tree, Tensor):
        return tree.detach().to("cpu", copy=True)
    if isinstance(tree, Mapping):
        return {key: copied_to_cpu(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(copied_to_cpu(value) for value in tree)
    return tree


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder to a place where nothing is. ``OutputError`` when it cannot be written."""
    try:
        shutil.copytree(source, target)
    except OSError as error:
        # of several files shutil tells a list, each with the words of its own error last
        reason = _reason(error.args[0][0][-1]) if isinstance(error, shutil.Error) else error.strerror or error
        raise OutputError(f"{target}: cannot be written ({reason}); free some space or choose another --out") from error


def _reason(text: str) -> str:
    """The words of an operating system's error.

    >>> _reason("[Errno 28] No space left on device: 'a'")
    'No space left on device'
    """
    return re.sub(r"^\[Errno \d+\] ([^:]*).*", r"\1", text)


def remove(path: Path) -> None:
    """Remove a file or folder that may be absent."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _checksum(shape: str, tensors: Mapping[str, Tensor]) -> str:
    total = hashlib.blake2b(shape.encode(), digest_size=16)
    for key in sorted(tensors):
        total.update(f"{key} {tensors[key].dtype} {tuple(tensors[key].shape)}".encode())
        total.update(_bytes(tensors[key]))
    return total.hexdigest()


def _flatten(thing: object, tensors: dict[str, Tensor], at: str) -> Json:
    if isinstance(thing, Tensor):
        key = str(len(tensors))
        tensors[key] = thing
        return {"t": key}
    if isinstance(thing, Mapping):
        return {
            "d": [[key, _flatten(value, tensors, f"{at}.{key}")] for key, value in thing.items()]
        }  # pairs: optimizers have integer keys
    if isinstance(thing, (list, tuple)):
        return {
            "l" if isinstance(thing, list) else "u": [
                _flatten(value, tensors, f"{at}[{i}]") for i, value in enumerate(thing)
            ]
        }
    if thing is None or isinstance(thing, (str, bool, int, float)):
        return thing
    raise TypeError(
        f"{at}: a {type(thing).__name__} cannot be kept; only dicts, lists, numbers, strings and tensors can"
    )


class _NoTensors(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None


def _restore(shape: Any, tensors: Mapping[str, Any]) -> Any:
    if not isinstance(shape, dict):
        return shape
    ((kind, value),) = shape.items()
    if kind == "t":
        return tensors[value]
    if kind == "d":
        return {key: _restore(inner, tensors) for key, inner in value}
    values = [_restore(inner, tensors) for inner in value]
    return values if kind == "l" else tuple(values)
