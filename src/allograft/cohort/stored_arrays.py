"""Arrays that are made once, and kept by name: in memory, or in files that are mapped."""

from __future__ import annotations

import errno
import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from allograft.errors import ImageError
from allograft.tree import write_bytes

_READS = 4
"""Part of the names of stored arrays; raise it when the same file is read as other numbers."""
MAPS = 16_384
"""Arrays that are mapped at a time: systems allow a process about 65,000 maps."""
SHORT = 4096
"""Bytes of a file below which it is read, and not mapped."""

Arrays = dict[str, np.ndarray]


def kept_arrays(
    memory: dict[str, Arrays], folder: Path | None, key: str, names: tuple[str, ...], make: Callable[[], Arrays]
) -> Arrays:
    """Name -> array, made when there is none under this key.

    Args:
        memory: key -> the arrays that this process has made or mapped; filled in.
        folder: for their files; None keeps them in memory alone.
        key: a hash of all that they depend on.
        names: of the arrays that ``make`` gives.

    Raises:
        ImageError: files that cannot be written, opened or mapped.
    """
    if key in memory:
        return memory[key]
    if folder is None:
        memory[key] = make()
        return memory[key]
    paths = {name: folder / key[:2] / f"{key}-{_READS}-{name}.npy" for name in names}
    mapped = _mapped(paths)
    if mapped is None:
        for name, array in make().items():
            file = io.BytesIO()
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            write_bytes(paths[name], file.getvalue())
        mapped = _mapped(paths)
        if mapped is None:
            raise ImageError(
                f"{folder}: prepared images that were just written are missing or damaged; check the disk, "
                "or choose another --out"
            )
    while len(memory) >= MAPS:
        del memory[next(iter(memory))]  # the oldest; it is mapped again when it is needed
    memory[key] = mapped
    return mapped


def _mapped(paths: dict[str, Path]) -> Arrays | None:
    """Name -> array; None when a file is missing or damaged, and has to be written again.

    Raises:
        ImageError: a file that is there and cannot be opened or mapped.
    """
    try:
        return {name: _map(path) for name, path in paths.items()}
    except (FileNotFoundError, ValueError, EOFError):
        return None
    except OSError as error:
        fix = "check its permissions, or choose another --out"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            fix = "allow this process more open files (ulimit -n), or use fewer loader workers"
        raise ImageError(
            f"{error.filename or next(iter(paths.values()))}: cannot be opened ({error.strerror}); {fix}"
        ) from error
    except RuntimeError as error:  # torch's word for a failed map
        raise ImageError(
            f"{next(iter(paths.values()))}: cannot be mapped into memory ({str(error).splitlines()[0]}); free some "
            "memory, or allow this process more maps (vm.max_map_count)"
        ) from error


def _map(path: Path) -> np.ndarray:
    """A stored array, copy-on-write: a tensor may share its memory, the file cannot change.

    ``np.load`` would keep the file open as long as the map lives, torch closes it. Short lists of
    numbers are read as they are.
    """
    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        shape, _, kind = np.lib.format.read_array_header_1_0(file)
        start, size = file.tell(), os.fstat(file.fileno()).st_size
        if kind.hasobject or size != start + kind.itemsize * math.prod(shape):
            raise ValueError(f"{path} is cut short")
        if size < SHORT:
            return np.frombuffer(bytearray(file.read()), kind).reshape(shape)
    stored: np.ndarray = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy()
    return stored[start:].view(kind).reshape(shape)
