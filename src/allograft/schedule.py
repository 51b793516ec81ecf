"""Learning-rate schedules: how far a training has come -> what the learning rate is multiplied
by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from allograft.errors import SpecError
from allograft.mistakes import argument_mistakes
from allograft.table import find, name_of


class Schedule(Protocol):
    """Told the loss after each update; sets the optimizer's learning rate."""

    def __call__(self, loss: Tensor) -> None:
        """One update is done."""


def constant(progress: float) -> float:
    """The learning rate stays."""
    return 1.0


def step(progress: float, *, at: tuple[float, ...] = (0.75,), factor: float = 0.1) -> float:
    """Times ``factor`` at each share of the training in ``at``.

    Args:
        at: shares of the training, from 0 to 1.
        factor: of the learning rate.

    >>> step(0.5), step(0.8)
    (1.0, 0.1)
    """
    return float(factor ** sum(progress >= share for share in at))


def poly(progress: float, *, power: float = 0.9) -> float:
    """(1 - progress)^power.

    Args:
        power: 1 falls in a straight line.

    >>> round(poly(0.5), 3)
    0.536
    """
    return float((1 - min(progress, 1.0)) ** power)


def cosine(progress: float, *, warmup: float = 0.0, end: float = 0.0) -> float:
    """A straight rise over the share ``warmup``, then half a cosine down to ``end``.

    Args:
        warmup: share of the training in which the learning rate rises from 0.
        end: share of the learning rate that is left at the end.

    >>> cosine(0.05, warmup=0.1), round(cosine(0.55, warmup=0.1), 6), cosine(1.0)
    (0.5, 0.5, 0.0)
    """
    if progress < warmup:
        return progress / warmup
    return end + (1 - end) * 0.5 * (1 + math.cos(math.pi * min((progress - warmup) / (1 - warmup), 1.0)))


@dataclass
class Planned:
    """A schedule that is known before the training."""

    scheduler: LambdaLR

    def __call__(self, loss: Tensor) -> None:
        """The loss does not matter."""
        self.scheduler.step()


@dataclass
class Plateau:
    """Times ``factor`` when the mean training loss of a window has not fallen for ``patience``
    windows.

    Args:
        scheduler: torch's, stepped once a window.
        every: updates in a window.
    """

    scheduler: ReduceLROnPlateau
    every: int
    total: float = 0.0
    seen: int = 0

    def __call__(self, loss: Tensor) -> None:
        """Note the loss; at the end of a window, compare. All processes see the same mean."""
        self.total += float(loss)
        self.seen += 1
        if self.seen < self.every:
            return
        mean = torch.tensor(self.total / self.seen, device=loss.device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.scheduler.step(mean.item())
        self.total, self.seen = 0.0, 0


def plateau(
    optimizer: torch.optim.Optimizer, *, factor: float = 0.1, patience: int = 5, every: int = 50, least: float = 0.0
) -> Plateau:
    """The learning rate times ``factor`` after ``patience`` windows of ``every`` updates without a
    lower loss, down to ``least``.

    Args:
        factor: of the learning rate.
        patience: windows without a lower mean loss.
        every: updates per window.
        least: the lowest learning rate.
    """
    return Plateau(ReduceLROnPlateau(optimizer, factor=factor, patience=patience, min_lr=least), every)


def make_schedule(
    request: Mapping[str, Mapping[str, object]], optimizer: torch.optim.Optimizer, steps: int
) -> Schedule:
    """The schedule ``{name: arguments}`` of an optimizer over this many updates.

    Raises:
        SpecError: an unknown name or argument.
    """
    ((name, arguments),) = request.items()
    row, arguments = find("schedule", name), dict(arguments or {})
    try:
        if name_of("schedule", row) == "plateau":
            made: Plateau = row(optimizer, **arguments)
            return made
        row(0.0, **arguments)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        lines = argument_mistakes(row, arguments, f"schedule.{name}")
        raise SpecError("\n".join(lines) or f"schedule: {name}: {error}") from error
    return Planned(LambdaLR(optimizer, lambda number: row(number / steps, **arguments)))
