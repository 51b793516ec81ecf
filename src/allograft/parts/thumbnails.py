"""Images of a cohort as its networks see them, small and grey: what a method shows in
``figure.Images``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from allograft.cohort import Cohort
from allograft.grey import grey_of, plane, window_of

CohortItem = tuple[Cohort, int]
"""A cohort and the index of an image in it."""


def thumbnail(item: CohortItem) -> NDArray[np.uint8]:
    """An image in grey, (H, W): of a volume the middle slice, of a slice with neighbours itself.

    All slices of a volume have one range of greys.
    """
    cohort, index = item
    image = cohort.unlabelled().case(index).image[0].numpy()
    if cohort.slices is not None:
        image = image[cohort.slices.neighbours :: 2 * cohort.slices.neighbours + 1]
    whole, _ = cohort.prepared.image(cohort.cases[cohort.items[index][0]])
    return grey_of(plane(upright(image, cohort), image.shape[-1] // 2), window_of(whole))


def upright(maps: NDArray[np.generic], cohort: Cohort) -> NDArray[np.generic]:
    """Maps (C, H, W) over an image of this cohort; over a volume's slice they are turned as
    ``plane`` turns it."""
    return maps if cohort.slices is None else np.rot90(maps, axes=(1, 2))


def subject_of(item: CohortItem) -> str:
    """Whose image it is."""
    cohort, index = item
    return cohort.cases[cohort.items[index][0]].subject
