"""Orders: which cases a step sees, as a pure function of its number. A loader follows one; see
``Loader``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import torch

from allograft.cohort.cohort import Cohort
from allograft.errors import SpecError
from allograft.seeds import Seeds

Key = tuple[int, int, int]
"""(cohort, item, draw): the draw seeds the item's transform and is unique in a training."""
Order = Callable[[int], Sequence[Key]]
"""Step number -> the keys of its batch, over all processes."""
Item = tuple[int, int]
"""(cohort, item)."""


@dataclass(frozen=True)
class Turns:
    """Groups of items take turns, case by case, each in its own reshuffled order; empty groups have
    no turn.

    Args:
        groups: of items: one per cohort by default, one per class for balanced classes
            (``by_class``).
        batch_size: cases per step, over all processes.
        seeds: the place of this order's draws.
    """

    groups: tuple[Sequence[Item], ...]
    batch_size: int
    seeds: Seeds

    def __call__(self, step: int) -> list[Key]:
        filled = [number for number, group in enumerate(self.groups) if group]
        keys = []
        for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
            group = filled[draw % len(filled)]
            keys.append((*shuffled(self.seeds, group, self.groups[group], draw // len(filled)), draw))
        return keys


@dataclass(frozen=True)
class Shares:
    """So many cases of each group as ``share`` says of a step; each group continues in its own
    order, whatever its share.

    Args:
        groups, batch_size, seeds: as of ``Turns``.
        share: step -> how many cases of each group; must add up to ``batch_size``.
    """

    groups: tuple[Sequence[Item], ...]
    batch_size: int
    seeds: Seeds
    share: Callable[[int], tuple[int, ...]]
    totals: list[tuple[int, ...]] = field(
        default_factory=list, init=False, compare=False, repr=False
    )  # before each step

    def __call__(self, step: int) -> list[Key]:
        counts = self.share(step)
        if sum(counts) != self.batch_size or len(counts) != len(self.groups):
            raise SpecError(
                f"share({step}) is {counts}; expected {len(self.groups)} counts that add up to {self.batch_size}"
            )
        keys: list[Key] = []
        for group, (count, before) in enumerate(zip(counts, self._before(step), strict=True)):
            for number in range(before, before + count):
                keys.append(
                    (*shuffled(self.seeds, group, self.groups[group], number), step * self.batch_size + len(keys))
                )
        return keys

    def _before(self, step: int) -> tuple[int, ...]:
        """How many cases of each group earlier steps have seen."""
        if not self.totals:
            self.totals.append((0,) * len(self.groups))
        while len(self.totals) <= step:
            self.totals.append(
                tuple(a + b for a, b in zip(self.totals[-1], self.share(len(self.totals) - 1), strict=True))
            )
        return self.totals[step]


@dataclass(frozen=True)
class OnePerSubject:
    """Every subject once per pass, in a reshuffled order, each with one of its items, drawn anew in
    every pass.

    For longitudinal cohorts, whose further timepoints of a subject are no negatives of one another.

    Args:
        subjects: subject -> its items (``by_subject``).
        batch_size, seeds: as of ``Turns``.
    """

    subjects: Mapping[str, Sequence[Item]]
    batch_size: int
    seeds: Seeds

    def __call__(self, step: int) -> list[Key]:
        names = sorted(self.subjects)
        keys = []
        for draw in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn = draw // len(names)
            name = names[permutation(self.seeds.number("order", turn), len(names))[draw % len(names)]]
            items = self.subjects[name]
            keys.append((*items[self.seeds.number("item", turn, name) % len(items)], draw))
        return keys


@dataclass(frozen=True)
class Episodes:
    """Each step is one task: the items of one episode, drawn by weight.

    Args:
        episodes: the items of each.
        weights: (N,) of the draw, any positive scale.
        seeds: the place of this order's draws.
    """

    episodes: tuple[Sequence[Item], ...]
    weights: tuple[float, ...]
    seeds: Seeds

    def __call__(self, step: int) -> list[Key]:
        rng = self.seeds.rng("episode", step)
        number = int(torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), 1, generator=rng))
        longest = max(map(len, self.episodes))
        return [(*item, step * longest + rank) for rank, item in enumerate(self.episodes[number])]


@dataclass(frozen=True)
class Shots:
    """Each step is one task: items drawn without replacement from one group, which is drawn by
    weight.

    Args:
        groups: of items: one a data set.
        weights: (N,) of the draw, any positive scale.
        shots: items a task; all of a group that has fewer.
        seeds: the place of this order's draws.
    """

    groups: tuple[Sequence[Item], ...]
    weights: tuple[float, ...]
    shots: int
    seeds: Seeds

    def __call__(self, step: int) -> list[Key]:
        rng = self.seeds.rng("task", step)
        group = self.groups[int(torch.multinomial(torch.tensor(self.weights, dtype=torch.float64), 1, generator=rng))]
        places = torch.randperm(len(group), generator=rng)[: self.shots].tolist()
        return [(*group[rank], step * self.shots + number) for number, rank in enumerate(places)]


def by_cohort(cohorts: Sequence[Cohort]) -> tuple[tuple[Item, ...], ...]:
    """The items of each cohort."""
    return tuple(tuple((number, item) for item in range(len(cohort))) for number, cohort in enumerate(cohorts))


def by_class(cohorts: Sequence[Cohort], key: str = "label") -> dict[str, tuple[Item, ...]]:
    """Class name -> its items over all cohorts, classes in alphabetical order; hidden labels have
    no item."""
    return _grouped(
        cohorts, lambda cohort, case: str(cohort.cases[case].labels[key]) if key in cohort.cases[case].labels else None
    )


def by_subject(cohorts: Sequence[Cohort]) -> dict[str, tuple[Item, ...]]:
    """Subject -> its items over all cohorts, in alphabetical order."""
    return _grouped(cohorts, lambda cohort, case: cohort.cases[case].subject)


def _grouped(cohorts: Sequence[Cohort], name_of: Callable[[Cohort, int], str | None]) -> dict[str, tuple[Item, ...]]:
    groups: dict[str, list[Item]] = {}
    for number, cohort in enumerate(cohorts):
        for item, (case, _) in enumerate(cohort.items):
            if (name := name_of(cohort, case)) is not None:
                groups.setdefault(name, []).append((number, item))
    return {name: tuple(groups[name]) for name in sorted(groups)}


def dealt(count: int, sizes: Sequence[int], turn: int) -> tuple[int, ...]:
    """``count`` cases dealt out to the groups that have any, one after another; ``turn`` says who
    begins.

    >>> dealt(3, [5, 0, 5], 0), dealt(3, [5, 0, 5], 1)
    ((2, 0, 1), (1, 0, 2))
    """
    filled = [group for group, size in enumerate(sizes) if size]
    counts = [0] * len(sizes)
    for number in range(count):
        counts[filled[(number + turn) % len(filled)]] += 1
    return tuple(counts)


def shuffled(seeds: Seeds, group: int, items: Sequence[Item], number: int) -> Item:
    """The ``number``-th item of a group that is reshuffled after each pass."""
    size = len(items)
    return items[permutation(seeds.number("order", group, number // size), size)[number % size]]


@lru_cache(maxsize=256)
def permutation(number: int, size: int) -> list[int]:
    """A permutation of ``size`` things, drawn from a seed."""
    order: list[int] = torch.randperm(size, generator=torch.Generator().manual_seed(number)).tolist()
    return order
