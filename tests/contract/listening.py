"""A schedule that listens: its learning rate depends on the progress and on the loss told."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from tests.contract.numbers import Summary, summary
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook


@dataclass
class Listening:
    """The learning rate falls to half over the training, and is divided by 1 + |loss|."""

    optimizer: torch.optim.Optimizer
    steps: int
    losses: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.first = [group["lr"] for group in self.optimizer.param_groups]

    def __call__(self, loss: Tensor) -> None:
        """Told after each update."""
        self.losses.append(float(loss))
        share = (1 - len(self.losses) / self.steps / 2) / (1 + abs(self.losses[-1]))
        for group, first in zip(self.optimizer.param_groups, self.first, strict=True):
            group["lr"] = share * first


@dataclass
class Heard:
    """What every schedule was told, and the learning rates of every optimizer, each in the order of
    its first step."""

    schedules: list[Listening] = field(default_factory=list)
    rates: dict[torch.optim.Optimizer, list[list[float]]] = field(default_factory=dict)

    def make(self, request: Any, optimizer: torch.optim.Optimizer, steps: int) -> Listening:
        """In the place of ``make_schedule``."""
        self.schedules.append(Listening(optimizer, steps))
        return self.schedules[-1]

    def note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Before each step: how many numbers each group moves, and at which learning rate, as
        logarithms."""
        now = [
            (sum(p.numel() for p in group["params"]), max(float(group["lr"]), 1e-12))
            for group in optimizer.param_groups
        ]
        self.rates.setdefault(optimizer, []).append([math.log10(value) for pair in now for value in pair])

    def numbers(self) -> dict[str, Summary]:
        """Summaries of both, with the learning rates that are left at the end."""
        for optimizer in [*self.rates]:
            self.note(optimizer)
        told, rates = [each.losses for each in self.schedules], [*self.rates.values()]
        return {name: made for name, value in (("told", told), ("rates", rates)) if (made := summary(value))}


@contextmanager
def listening() -> Iterator[Heard]:
    """Inside, the study's schedule is one that listens, whatever its name."""
    heard = Heard()
    hook = register_optimizer_step_pre_hook(heard.note)
    try:
        with patch("allograft.context.context.make_schedule", heard.make):
            yield heard
    finally:
        hook.remove()
