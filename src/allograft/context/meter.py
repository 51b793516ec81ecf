"""What a unit costs and has to show."""

from __future__ import annotations

import resource
import sys
import weakref
from dataclasses import dataclass, field
from pathlib import Path

import torch

from allograft.figure import Figure, Relabelled
from allograft.step import Step
from allograft.train import History


@dataclass
class Meter:
    """What a unit cost and has to show, itself alone: the units it builds on have their own.

    ``histories``: name of a training -> its ``History`` so far, over all calls of that name.

    Of a rehearsal, ``tried`` refers to the last step object that was, and ``rate`` has the seconds
    a step of it takes.
    """

    train_seconds: float = 0.0
    trainable_parameters: int = 0
    planned_steps: int = 0
    planned_seconds: float = 0.0
    tried: weakref.ref[Step] | None = None
    rate: float = 0.0
    figures: dict[str, Figure | Relabelled] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)

    peak_memory_mb: float = 0.0

    def __post_init__(self) -> None:
        self._high_water()  # what ran before is not this unit's

    def cost(self) -> dict[str, float | int]:
        """As a record says it. Peak memory is the device's, or the process's on a CPU, since the
        unit began or the one it builds on ended.

        Where a system cannot restart its high-water mark (Linux can), it is the largest of the
        process so far.
        """
        self.peak_memory_mb = max(self.peak_memory_mb, self._high_water())
        return {
            "train_seconds": round(self.train_seconds, 3),
            "trainable_parameters": self.trainable_parameters,
            "peak_memory_mb": round(self.peak_memory_mb, 1),
        }

    @staticmethod
    def _high_water() -> float:
        """MiB since the last call."""
        if torch.cuda.is_initialized():
            peak = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
            return peak
        try:
            status = Path("/proc/self/status").read_text()
            peak = int(status.split("VmHWM:")[1].split()[0]) / 2**10
            Path("/proc/self/clear_refs").write_text("5")
        except (OSError, IndexError):
            used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            # bytes there, KiB elsewhere
            peak = used / (2**20 if sys.platform == "darwin" else 2**10)
        return peak
