"""Small images in rows, one picture: images of a study as its networks see them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from allograft.cohort import Cohort
from allograft.grey import grey_of, plane, window_of

COLUMNS, SIDE, GAP = 4, 112, 4
"""Images in a row, pixels of each, and between two."""
CohortItem = tuple[Cohort, int]
"""A cohort and the index of an image in it."""


def small(place: CohortItem) -> NDArray[np.uint8]:
    """An image in grey, (H, W): of a volume the middle slice, of a slice with neighbours itself; a volume's slices are alike."""
    cohort, index = place
    image = cohort.case(index).image[0].numpy()
    if cohort.slices is not None:
        image = image[cohort.slices.neighbours :: 2 * cohort.slices.neighbours + 1]
    whole, _ = cohort.prepared.image(cohort.cases[cohort.items[index][0]])
    return grey_of(plane(upright(image, cohort), image.shape[-1] // 2), window_of(whole))


def upright(maps: NDArray[np.generic], cohort: Cohort) -> NDArray[np.generic]:
    """(C, H, W) over an image of this cohort, turned as ``plane`` turns a volume's slices where it is one; others as they are."""
    return maps if cohort.slices is None else np.rot90(maps, axes=(1, 2))


def sheet(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> bytes:
    """A PNG of rows of at most ``COLUMNS`` images (H, W) each, all brought to one size; where there is none it stays black."""
    from PIL import Image, ImageOps

    step = SIDE + GAP
    canvas = Image.new("L", (COLUMNS * step - GAP, len(rows) * step - GAP))
    for down, row in enumerate(rows):
        for right, image in enumerate(row):
            canvas.paste(ImageOps.pad(Image.fromarray(image), (SIDE, SIDE)), (right * step, down * step))
    file = io.BytesIO()
    canvas.point([level // 4 * 4 for level in range(256)]).save(file, "PNG", optimize=True)  # 64 greys, as in every picture of the page
    return file.getvalue()
