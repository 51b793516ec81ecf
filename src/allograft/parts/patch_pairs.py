"""Pairs of patches from one data set, as an order of the loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from allograft.cohort import Cohort
from allograft.cohort.orders import Item, Key, shuffled
from allograft.errors import SpecError
from allograft.seeds import Seeds


def datasets_of(pool: Sequence[Cohort]) -> list[list[int]]:
    """The numbers of the pool's cohorts that were read from one manifest, with one label set."""
    groups: dict[int, list[int]] = {}
    for number, cohort in enumerate(pool):
        groups.setdefault(id(cohort.prepared), []).append(number)
    return list(groups.values())


@dataclass(frozen=True)
class PatchPairs:
    """Pairs of samples, P1 and P2, one after the other on every process; data sets take turns.

    Pair n has P1 from its data set's own reshuffled order, and P2 from the same image where a draw
    says so (one half), else from another image of the data set.

    Args:
        pool: the cohorts.
        batch_size: pairs a step, over all processes; a multiple of their number.
        seeds: the place of this order's draws.
        world: processes.
    """

    pool: tuple[Cohort, ...]
    batch_size: int
    seeds: Seeds
    world: int = 1

    def __post_init__(self) -> None:
        if self.batch_size % self.world:
            raise SpecError(
                f"batch_size {self.batch_size} pairs cannot be divided among {self.world} processes; choose a multiple"
            )

    @cached_property
    def datasets(self) -> tuple[tuple[Item, ...], ...]:
        """The items of each data set that has any."""
        items = (
            tuple((number, item) for number in numbers for item in range(len(self.pool[number])))
            for numbers in datasets_of(self.pool)
        )
        return tuple(filter(None, items))

    def __call__(self, step: int) -> list[Key]:
        pairs = [self.pair(number) for number in range(step * self.batch_size, (step + 1) * self.batch_size)]
        # every world-th key is of one process, so as many P1 stand before as many P2
        blocks = [pairs[start : start + self.world] for start in range(0, len(pairs), self.world)]
        return [pair[half] for block in blocks for half in (0, 1) for pair in block]

    def pair(self, number: int) -> tuple[Key, Key]:
        """P1 and P2 of a pair."""
        dataset, turn = number % len(self.datasets), number // len(self.datasets)
        items = self.datasets[dataset]
        first = second = shuffled(self.seeds, dataset, items, turn)
        others = [item for item in items if item != first]
        if others and self.seeds.number("same image", number) % 2:
            second = others[self.seeds.number("other image", number) % len(others)]
        return (*first, 2 * number), (*second, 2 * number + 1)
