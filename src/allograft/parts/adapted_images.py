"""Training images before and after a method changes them, beside images that they are to look
like: figures of recipes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.figure import Images
from allograft.grey import grey_of, plane, window_of
from allograft.parts.thumbnails import CohortItem, subject_of, upright

SHOWN = 4
"""Images in a row."""


def middle_items(cohorts: Sequence[Cohort]) -> list[CohortItem]:
    """At most ``SHOWN`` images, the cohorts taking turns, each of another subject while there is
    one: of a case that is cut into slices the middle one."""
    queues = [_one_per_subject(cohort) for cohort in cohorts]
    turns = [queue[turn] for turn in range(SHOWN) for queue in queues if turn < len(queue)]
    return turns[:SHOWN]


def _one_per_subject(cohort: Cohort) -> list[CohortItem]:
    items: dict[str, list[int]] = {}
    for index, (number, _) in enumerate(cohort.items):
        items.setdefault(cohort.cases[number].name, []).append(index)
    first: dict[str, int] = {}
    for indices in (items[name] for name in sorted(items)):
        middle = indices[len(indices) // 2]
        first.setdefault(subject_of((cohort, middle)), middle)
    return [(cohort, index) for index in first.values()]


def changed_images(
    title: str,
    changed: tuple[str, Sequence[CohortItem], Callable[[Batch], Tensor]],
    model: tuple[str, Sequence[CohortItem]],
) -> Images:
    """Images as they are, as a method changes them, what the change adds, and below them images
    that they are to look like.

    Args:
        title: a sentence fragment.
        changed: what the images are called, the images, and a case with B = 1 -> (1, C, *spatial).
        model: what the others are called, and these; their range of greys is that of all rows but
            the difference, grey where nothing changes.
    """
    name, items, change = changed
    batches = [cohort.case(index) for cohort, index in items]
    before, after = [batch.image for batch in batches], [change(batch).cpu() for batch in batches]
    theirs = [cohort.case(index).image for cohort, index in model[1]]
    added = [new - old for old, new in zip(before, after, strict=True)]
    window = window_of(np.concatenate([image.numpy().ravel() for image in theirs]))
    most = max(float(image.abs().max()) for image in added)
    rows = [
        _drawn(before, items, window),
        _drawn(after, items, window),
        _drawn(added, items, (-most, most)),
        _drawn(theirs, model[1], window),
    ]
    return Images.from_arrays(
        title,
        rows,
        names=[name, f"{name}, changed", f"difference, at most {most:.2g}", model[0]],
        subjects=[*([subject_of(item) for item in items] for _ in range(3)), list(map(subject_of, model[1]))],
        note="All rows but the difference have the range of greys of the last row; grey is no difference.",
    )


def _drawn(
    images: Iterable[Tensor], items: Sequence[CohortItem], window: tuple[float, float]
) -> list[NDArray[np.uint8]]:
    """(1, C, *spatial) in grey: of a volume the middle slice, of a slice with neighbours itself."""
    drawn = []
    for image, (cohort, _) in zip(images, items, strict=True):
        channels = image[0].numpy()
        if cohort.slices is not None:
            channels = channels[cohort.slices.neighbours :: 2 * cohort.slices.neighbours + 1]
        drawn.append(grey_of(plane(upright(channels, cohort), channels.shape[-1] // 2), window))
    return drawn
