"""Batches addressed by step number: resume, workers and processes change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from allograft.batch import Batch, collate
from allograft.cohort.cohort import Cohort
from allograft.cohort.orders import Key, Order
from allograft.errors import SpecError
from allograft.seeds import Seeds

Transform = Callable[[Batch, Generator], Batch]


@dataclass(frozen=True)
class Loader:
    """An endless source of batches; ``loader(start)`` begins at any step, and step n is always the
    same batch.

    Args:
        cohorts: where cases come from.
        order: which of them each step sees.
        epoch: steps per epoch.
        seeds: the place of this loader's draws.
        transform: case and generator -> case (crop, augmentation). One that says ``takes_narrow``
            is given masks in the int16 that they are kept in, and widens what it leaves of them.
        workers: loader processes; they live across calls.
        rank, world: this process takes every ``world``-th case of a batch.
    """

    cohorts: tuple[Cohort, ...]
    order: Order
    epoch: int
    seeds: Seeds
    transform: Transform | None = None
    workers: int = 0
    rank: int = 0
    world: int = 1
    live: dict[str, Any] = field(default_factory=dict, init=False, compare=False, repr=False)
    # the running workers and the step they are at; init=False, so that ``replace`` begins with none

    def __post_init__(self) -> None:
        if not sum(map(len, self.cohorts)):
            raise SpecError(
                f"the loader '{'/'.join(map(str, self.seeds.path))}' has no cases; check the sites, filters and label "
                "budget"
            )
        if self.world > 1:
            self.plan(0)  # refuses a batch that the processes cannot share

    def plan(self, step: int) -> list[Key]:
        """What this process loads at a step; pure."""
        keys = self.order(step)
        if len(keys) % self.world:
            raise SpecError(f"batch_size {len(keys)} cannot be divided among {self.world} processes; choose a multiple")
        return list(keys[self.rank :: self.world])

    def __call__(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on. Workers that are already there continue, so a loop of
        short runs restarts nothing."""
        if self.live.get("at") != start:
            batches = DataLoader(
                _Drawn(self.cohorts, self.transform, self.seeds),
                batch_sampler=_Endless(start, self.plan),
                num_workers=self.workers,
                collate_fn=collate,
                pin_memory=torch.cuda.is_available(),
            )
            self.live.update(at=start, batches=iter(batches))
        while True:
            batch = next(self.live["batches"])
            self.live["at"] += 1
            yield batch


@dataclass(frozen=True)
class _Drawn(Dataset[Batch]):
    cohorts: tuple[Cohort, ...]
    transform: Transform | None
    seeds: Seeds

    def __getitem__(self, key: Key) -> Batch:
        number, item, draw = key
        cohort = self.cohorts[number]
        case = cohort.case(item, narrow=True) if getattr(self.transform, "takes_narrow", False) else cohort.case(item)
        return case if self.transform is None else self.transform(case, self.seeds.rng("transform", draw))


@dataclass
class _Endless:
    step: int
    plan: Callable[[int], list[Key]]

    def __iter__(self) -> Iterator[list[Key]]:
        while True:
            yield self.plan(self.step)
            self.step += 1
