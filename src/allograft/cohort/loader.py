"""Batches addressed by step number: resume, workers and processes change nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Generator
from torch.utils.data import DataLoader, Dataset

from allograft.batch import Batch, collate
from allograft.cohort.cohort import Cohort
from allograft.errors import SpecError
from allograft.seeds import Seeds

Transform = Callable[[Batch, Generator], Batch]
Key = tuple[int, int, int]  # cohort, case, draw


@dataclass(frozen=True)
class Loader:
    """An endless, reshuffled source of batches; ``loader(start)`` begins at any step, and step n is always the same batch.

    Args:
        cohorts: where cases come from; by default they take turns, each in its own reshuffled order.
        batch_size: cases a step, over all processes.
        seeds: the place of this loader's draws.
        transform: case and generator -> case (crop, augmentation).
        share: step -> how many cases of each cohort; must add up to ``batch_size``.
        workers: loader processes; they live across calls.
        steps_per_epoch: the length of an epoch, if it is not one pass over the cases.
        rank, world: this process takes every ``world``-th case of a batch.
    """

    cohorts: tuple[Cohort, ...]
    batch_size: int
    seeds: Seeds
    transform: Transform | None = None
    share: Callable[[int], tuple[int, ...]] | None = None
    workers: int = 0
    steps_per_epoch: int | None = None
    rank: int = 0
    world: int = 1
    live: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)  # the running workers and the step they are at

    def __post_init__(self) -> None:
        if not sum(map(len, self.cohorts)):
            raise SpecError(f"the loader '{'/'.join(map(str, self.seeds.path))}' has no cases; check the sites, filters and label budget")
        if self.batch_size % self.world:
            raise SpecError(f"batch_size {self.batch_size} cannot be divided among {self.world} processes; choose a multiple")

    @property
    def epoch(self) -> int:
        """Steps an epoch."""
        return self.steps_per_epoch or max(1, -(-sum(map(len, self.cohorts)) // self.batch_size))

    def plan(self, step: int) -> list[Key]:
        """What this process loads at a step; pure."""
        keys: list[Key] = []
        if self.share is None:
            filled = [which for which, cohort in enumerate(self.cohorts) if len(cohort)]
            for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
                which = filled[draw % len(filled)]
                keys.append((which, self._case(which, draw // len(filled)), draw))
        else:
            counts = self.share(step)
            if sum(counts) != self.batch_size or len(counts) != len(self.cohorts):
                raise SpecError(f"share({step}) is {counts}; expected {len(self.cohorts)} counts that add up to {self.batch_size}")
            for which, (count, before) in enumerate(zip(counts, self._dealt(step), strict=True)):
                for number in range(before, before + count):
                    keys.append((which, self._case(which, number), step * self.batch_size + len(keys)))
        return keys[self.rank :: self.world]

    def _dealt(self, step: int) -> tuple[int, ...]:
        """How many cases of each cohort ``share`` has dealt before a step, so that each goes on in its own order, whatever its share."""
        assert self.share is not None
        totals: list[tuple[int, ...]] = self.live.setdefault("dealt", [(0,) * len(self.cohorts)])
        while len(totals) <= step:
            totals.append(tuple(a + b for a, b in zip(totals[-1], self.share(len(totals) - 1), strict=True)))
        return totals[step]

    def _case(self, which: int, number: int) -> int:
        size = len(self.cohorts[which])
        return _order(self.seeds.number("order", which, number // size), size)[number % size]

    def __call__(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on. Workers that already stand there go on, so a loop of short runs restarts nothing."""
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


@lru_cache(maxsize=256)
def _order(number: int, size: int) -> list[int]:
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(number)).tolist()
    return order


@dataclass(frozen=True)
class _Drawn(Dataset[Batch]):
    cohorts: tuple[Cohort, ...]
    transform: Transform | None
    seeds: Seeds

    def __getitem__(self, key: Key) -> Batch:
        which, case, draw = key
        one = self.cohorts[which].case(case)
        return one if self.transform is None else self.transform(one, self.seeds.rng("transform", draw))


@dataclass
class _Endless:
    step: int
    plan: Callable[[int], list[Key]]

    def __iter__(self) -> Iterator[list[Key]]:
        while True:
            yield self.plan(self.step)
            self.step += 1
