"""Named draws as a pure function of (seed, path): nothing to store, nothing to restore."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class Seeds:
    """A place in the tree of all draws.

    The same path gives the same draws, whoever asks, however often, and on whatever process.

    >>> a = torch.rand(1, generator=Seeds(0).rng("order", 3))
    >>> b = torch.rand(1, generator=Seeds(0).child("order").rng(3))
    >>> bool(a == b), Seeds(0).number("x") == Seeds(1).number("x")
    (True, False)
    """

    seed: int
    path: tuple[str | int, ...] = ()

    def child(self, *path: str | int) -> Seeds:
        """The same tree, further down."""
        return replace(self, path=(*self.path, *path))

    def number(self, *path: str | int) -> int:
        """A 63-bit integer."""
        text = json.dumps([self.seed, *self.path, *path]).encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

    def rng(self, *path: str | int) -> torch.Generator:
        """A fresh CPU generator."""
        return torch.Generator().manual_seed(self.number(*path))

    def seed_everything(self, *path: str | int) -> None:
        """Set the global generators, for code that draws from them (dropout, ``nn.init``,
        torchvision, MONAI)."""
        number = self.number(*path)
        # torch.manual_seed visits every backend, at each step
        torch.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)
        np.random.seed(number % 2**32)
        random.seed(number)

    @contextmanager
    def everything(self, *path: str | int) -> Iterator[None]:
        """Inside, global draws come from ``path``; outside, the global generators stay as they
        were."""
        with generators_kept():
            self.seed_everything(*path)
            yield


@contextmanager
def generators_kept() -> Iterator[None]:
    """Whatever is drawn inside, the global generators are afterwards as they were before."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    before = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])
