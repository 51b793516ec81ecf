"""What every hostile input meets: the real command line, with limits on time and memory, and a
canary that no code may touch."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CANARY = "canary"
"""A file that only executed code would make."""
ROOM = 3 * 2**30
"""Bytes of address space that a refusal may take beyond what is taken already."""
GROWTH = 200 * 2**10
"""Kilobytes that the process may really grow by."""
ALLOCATION = ("MemoryError", "nable to allocate", "can't allocate", "not enough memory", "defaultcpuallocator")


@dataclass(frozen=True)
class Hostile:
    """One malformed input.

    Args:
        make: writes it into a folder that holds a sound cohort (``cohort``) and model (``model``);
            returns the command.
        told: words that the message must hold: the file, key or row, and what was found.
        success: the defined outcome is exit code 0.
    """

    make: Callable[[Path], list[Any]]
    told: tuple[str, ...] = ()
    success: bool = False


class Bomb:
    """Unpickling it makes the canary."""

    def __reduce__(self) -> Any:
        return os.mkdir, (CANARY,)


@contextmanager
def limited() -> Iterator[None]:
    """Less than ``ROOM`` of new address space, so that a bomb that is not refused harms nobody; and
    no real growth."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < GROWTH, f"grew by {grown // 1024} MB"
