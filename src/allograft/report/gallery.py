"""The pictures of a report, and which of them fit into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from allograft.grey import plane, window_of
from allograft.report.overlay import draw_overlay, slices_through

Mask = NDArray[np.integer]
Draw = Callable[[int, tuple[float, float] | None], bytes]
"""Slice, and what becomes black and white -> a file's bytes."""
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
        title: for example "worst, S004"; pictures of one title are shown side by side.
        caption: for example "dice 0.412".
        png: the file's bytes; of a volume the slice that shows first.
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
        return tuple(sorted((Slice(self.place, self.png), *self.more), key=lambda shown: shown.place))


def overlay_picture(
    image: NDArray[np.generic],
    truth: Mask | None,
    predicted: Mask,
    marked: Mask,
    *,
    words: tuple[str, str],
    most: int,
    classes: int,
) -> Picture:
    """A prediction and the truth over their image; of a volume the slices through what is marked.

    Args:
        image: (C, *spatial), as stored.
        truth, found: (*spatial) class indices; no truth is None.
        marked: (*spatial), what the slices lead through.
        words: title and caption.
        most: slices at most.
        classes: how many the task has, without the background.
    """

    def draw(index: int, window: tuple[float, float] | None) -> bytes:
        true = None if truth is None else plane(truth[None], index)
        return draw_overlay(plane(image, index), true, plane(predicted[None], index), window, classes=classes)

    return stacked(image, marked, draw, words=words, most=most)


def stacked(image: NDArray[np.generic], marked: Mask, draw: Draw, *, words: tuple[str, str], most: int) -> Picture:
    """One picture of a photograph; of a volume its slices through what is marked."""
    if marked.ndim == 2:
        return Picture(*words, draw(0, None))
    window = window_of(image)
    order = slices_through(marked, most)
    slices = tuple(Slice(index, draw(index, window)) for index in order)
    return Picture(*words, slices[0].png, order[0], marked.shape[-1], slices[1:])


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
    chosen: dict[PictureKey, list[Picture]] = {}
    for key, turn in sorted(kept, key=lambda pair: pair[1]):
        chosen.setdefault(key, []).append(kept[key, turn])
    return chosen, dropped


def _in_turns(pictures: Pictures) -> Iterator[tuple[PictureKey, int, Picture]]:
    for turn in count():
        ordered = [(key, turn, every[turn]) for key, every in pictures.items() if turn < len(every)]
        if not ordered:
            return
        yield from ordered


def _size(png: bytes) -> int:
    return 4 * len(png) // 3 + 1000  # base64, and the words around it
