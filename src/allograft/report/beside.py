"""The same case as several models see it, side by side, in the same slices."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from allograft.report.gallery import Picture


@dataclass(frozen=True)
class Shown:
    """One slice of one side, as the template takes it."""

    source: str
    at: int
    place: str
    hidden: bool


@dataclass(frozen=True)
class Side:
    """One of the sides: whose it is, whether the verdict names it, its score, and its slices."""

    name: str
    chosen: bool
    caption: str
    slices: tuple[Shown, ...]


@dataclass(frozen=True)
class Case:
    """A case with all its sides; ``central`` is the slice that shows first."""

    title: str
    sides: tuple[Side, ...]
    central: int

    @property
    def places(self) -> list[str]:
        """What each slice is called."""
        return [shown.place for shown in self.sides[0].slices]


def beside(title: str, pictures: Mapping[str, Picture], chosen: Sequence[str] = ()) -> Case:
    """A case of at least one picture; slices that one of them lacks are left out of all.

    Args:
        pictures: whose -> picture.
        chosen: whom the verdict names.
    """
    shared = reduce(set.intersection, [{part.place for part in picture.slices} for picture in pictures.values()])
    if not shared:  # each shows its own
        pictures = {name: replace(picture, more=(), place=0) for name, picture in pictures.items()}
        shared = {0}
    order = sorted(shared)
    first = next(iter(pictures.values())).place
    central = order.index(first) if first in shared else len(order) // 2
    columns = [
        Side(
            name,
            name in chosen,
            picture.caption,
            tuple(
                Shown(
                    "data:image/png;base64," + base64.b64encode(part.png).decode(),
                    order.index(part.place),
                    f"slice {part.place + 1} of {picture.depth}" if picture.depth else "",
                    order.index(part.place) != central,
                )
                for part in picture.slices
                if part.place in shared
            ),
        )
        for name, picture in pictures.items()
    ]
    return Case(title, tuple(columns), central)


def cases_of(
    every: Mapping[str, Sequence[Picture]], hide: Callable[[str], str], chosen: Sequence[str] = ()
) -> list[Case]:
    """The pictures of several rows by their titles: one case for each title, in the order in which
    they come.

    Args:
        every: row -> its pictures.
        hide: takes names of patients out of words.
        chosen: rows that the verdict names.
    """
    titles = dict.fromkeys(picture.title for pictures in every.values() for picture in pictures)
    made = []
    for title in titles:
        shown = {
            row: next(picture for picture in pictures if picture.title == title)
            for row, pictures in every.items()
            if any(picture.title == title for picture in pictures)
        }
        case = beside(hide(title), shown, chosen)
        unnamed = tuple(replace(side, caption=hide(side.caption)) for side in case.sides)
        made.append(replace(case, sides=unnamed))
    return made
