"""The pictures of a report, and which of them fit into it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

PictureKey = tuple[str, str]
DISAGREEMENT = "where recipes disagree"
"""Stands in a ``PictureKey`` in the place of a recipe's title."""


@dataclass(frozen=True)
class Slice:
    """One slice of a volume, numbered from 0."""

    place: int
    png: bytes


@dataclass(frozen=True)
class Picture:
    """One overlay. Name nobody in title or caption; ``ordinals`` gives subjects their numbers.

    Args:
        title: for example "worst".
        caption: for example "S004, dice 0.412".
        png: the file's bytes; of a volume its central slice.
        place, depth: which slice of how many that is; depth 0 for a photograph.
        more: other slices of a volume, those first that are worth keeping first.
    """

    title: str
    caption: str
    png: bytes
    place: int = 0
    depth: int = 0
    more: tuple[Slice, ...] = ()

    @property
    def slices(self) -> tuple[Slice, ...]:
        """All that are kept, in the order in which they lie."""
        return tuple(sorted((Slice(self.place, self.png), *self.more), key=lambda one: one.place))


Pictures = Mapping[PictureKey, Sequence[Picture]]


def fitting(pictures: Pictures, budget: int) -> tuple[dict[PictureKey, list[Picture]], int]:
    """The pictures that fit into ``budget`` bytes of page, and how many pictures and slices do not.

    Every line's first picture goes before any line's second; then slices, one to every picture
    before any gets another.
    """
    kept: dict[tuple[PictureKey, int], Picture] = {}
    dropped = 0
    for key, turn, picture in _in_turns(pictures):
        size = _size(picture.png)
        if size <= budget:
            kept[key, turn] = replace(picture, more=())
            budget -= size
        else:
            dropped += 1
    for number in range(max((len(each.more) for every in pictures.values() for each in every), default=0)):
        for key, turn, picture in _in_turns(pictures):
            if number >= len(picture.more):
                continue
            size = _size(picture.more[number].png)
            if (key, turn) in kept and size <= budget:
                kept[key, turn] = replace(kept[key, turn], more=(*kept[key, turn].more, picture.more[number]))
                budget -= size
            else:
                dropped += 1
    found: dict[PictureKey, list[Picture]] = {}
    for key, turn in sorted(kept, key=lambda one: one[1]):
        found.setdefault(key, []).append(kept[key, turn])
    return found, dropped


def _in_turns(pictures: Pictures) -> Iterator[tuple[PictureKey, int, Picture]]:
    for turn in count():
        found = [(key, turn, every[turn]) for key, every in pictures.items() if turn < len(every)]
        if not found:
            return
        yield from found


def _size(png: bytes) -> int:
    return 4 * len(png) // 3 + 1000  # base64, and the words around it
