"""Rows of numbers that stay in their file until somebody asks for them, each with a checksum of its
own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allograft.errors import ModelError

DTYPES = {"float16": np.float16, "float32": np.float32}
DIGEST = 16
"""Bytes of a row's checksum."""
CHUNK = 1024
"""Rows written at a time."""


class Mapped:
    """(N, *shape) in memory, or in a file of which only the rows that are asked for are read.

    A predictor may hold it, for the images of a database say. Saved, its numbers are a file beside
    ``model.safetensors``, which holds the checksums; a row is compared with its own when it is
    first read.

    Args:
        array: (N, *shape) float16 or float32, perhaps a ``numpy.memmap``.
        hashes: (N, 16) uint8; computed where there are none.
        file: where it lies, for messages.

    Example:
        >>> Mapped(np.array([[1.0], [2.0], [3.0]], np.float32)).rows(torch.tensor([2, 0]))
        tensor([[3.],
                [1.]])
    """

    def __init__(self, array: NDArray[Any], hashes: Tensor | None = None, file: Path | None = None) -> None:
        self.array, self.file = array, file
        self.known = np.full(len(array), hashes is None)
        self.hashes = hashes if hashes is not None else _digests(array)

    @staticmethod
    def of(values: Tensor, *, like: Mapped | None = None) -> Mapped:
        """Of a tensor (N, *shape), float16 or float32; in the precision of ``like``."""
        array = values.detach().cpu().numpy()
        return Mapped(np.ascontiguousarray(array if like is None else array.astype(like.array.dtype)))

    @staticmethod
    def open(file: Path, dtype: str, shape: tuple[int, ...], hashes: Tensor) -> Mapped:
        """Of a file, which is not read. ``ModelError`` for one of another size."""
        expected = int(np.prod(shape, dtype=np.int64)) * np.dtype(DTYPES[dtype]).itemsize
        bytes_there = os.path.getsize(file) if os.path.isfile(file) else -1
        if bytes_there != expected or hashes.shape != (shape[0], DIGEST) or hashes.dtype != torch.uint8:
            size = "no such file" if bytes_there < 0 else f"{bytes_there} bytes"
            raise ModelError(f"{file}: {size}, expected {expected} bytes with a checksum a row; copy the model again")
        if expected == 0:
            return Mapped(np.zeros(shape, DTYPES[dtype]), hashes.cpu(), file)
        return Mapped(np.memmap(file, DTYPES[dtype], "r", shape=shape), hashes.cpu(), file)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape)."""
        return tuple(self.array.shape)

    def rows(self, index: Tensor) -> Tensor:
        """(n,) -> (n, *shape), in the stored precision, on the CPU. ``ModelError`` for a row that
        is not what was saved."""
        wanted = index.cpu().numpy()
        if len(new := np.unique(wanted[~self.known[wanted]])):
            wrong = (_digests(self.array[new]) != self.hashes[torch.from_numpy(new)]).any(1)
            if bool(wrong.any()):
                row = new[int(wrong.nonzero()[0])]
                raise ModelError(f"{self.file}: image {row} is not the one that was saved; copy the model again")
            self.known[new] = True
        return torch.from_numpy(self.array[wanted])

    def chunks(self) -> Iterator[bytes]:
        """All bytes, in order, some rows at a time."""
        for start in range(0, len(self), CHUNK):
            yield np.ascontiguousarray(self.array[start : start + CHUNK]).tobytes()

    def joined(self, other: Mapped) -> Mapped:
        """These rows, then the other's, which have the same precision and shape."""
        assert self.array.dtype == other.array.dtype
        return Mapped(np.concatenate([self.array, other.array]), torch.cat([self.hashes, other.hashes]), self.file)

    def only(self, index: Tensor) -> Mapped:
        """Some of the rows."""
        return Mapped(self.array[index.numpy()], self.hashes[index], self.file)


def _digest(row: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(row).data, digest_size=DIGEST).digest()


def _digests(array: NDArray[Any]) -> Tensor:
    if not len(array):
        return torch.zeros(0, DIGEST, dtype=torch.uint8)
    return torch.frombuffer(bytearray(b"".join(map(_digest, array))), dtype=torch.uint8).view(-1, DIGEST)
