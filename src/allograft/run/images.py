"""Every image of a study is read, prepared and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from allograft.cohort import Case, Cohort
from allograft.errors import ImageError


def prepare_images(cohorts: Sequence[Cohort], say: Callable[[str], None]) -> None:
    """Read and prepare every image, region and mask, and read the boxes of every reader.

    Raises:
        ImageError: a file that cannot be read, a box that lies outside its image, or an image that
            no network takes together with the first.
        ManifestError: boxes of a class that the study does not name.
    """
    count = sum(len(cohort.cases) for cohort in cohorts)
    first, losses = cohorts[0], list[float | None]()
    for cohort in cohorts:
        prepared = cohort.prepared
        for case in cohort.cases:
            _check_alike(case, network_shape(cohort, case), first.cases[0], network_shape(first, first.cases[0]))
            prepared.region(case)
            if "mask" in case.labels and prepared.coding.mask:
                losses.append(foreground_cut_off(cohort, case))
            if "boxes" in case.labels and prepared.coding.boxes:
                for column in ("boxes", *case.further_readers.values()):
                    prepared.stored_boxes(case, column)
    if empty := losses.count(None):
        say(
            f"warning: {empty} of {count} images have no foreground; they count as empty, see 'undefined' in the "
            "records"
        )
    if cut := [lost for lost in losses if lost]:
        say(
            f"warning: preprocessing.size cuts foreground off {len(cut)} of {len(losses)} masks, and all of it off "
            f"{cut.count(1.0)}; trainings do not see it, while models are evaluated on complete images, window by "
            "window: set a larger size, or set patch in its place"
        )


def check_millimetres(cohorts: Sequence[Cohort], task: Any) -> None:
    """Raise ``SpecError`` for a labelled image without a voxel size, where masks are judged by a
    tolerance in mm."""
    masks = getattr(task, "segmentation", task)
    if getattr(masks, "surface_dice", None) is None:
        return
    for cohort in cohorts:
        for case in cohort.labelled("mask").cases:
            masks.check_millimetres(cohort.prepared.grid(case), case.name)


def foreground_cut_off(cohort: Cohort, case: Case) -> float | None:
    """The share of a mask's foreground that preprocessing.size cuts off; None for a mask without
    foreground."""
    total = int(np.count_nonzero(cohort.prepared.mask(case, uncut=True)))
    kept = int(np.count_nonzero(cohort.prepared.mask(case)))
    return 1 - kept / total if total else None


def _check_alike(case: Case, shape: Sequence[int], first: Case, others: Sequence[int]) -> None:
    """Raise for an image of other channels, or other dimensions, than the first: no network takes
    both."""
    if (shape[0], len(shape)) != (others[0], len(others)):
        seen = f"'{case.name}' of site '{case.site}' has {shape[0]} channels and {len(shape) - 1} dimensions"
        expected = f"{others[0]} and {len(others) - 1} like '{first.name}' of site '{first.site}'"
        raise ImageError(f"image {seen}; expected {expected}: convert the images to one kind, or leave the site out")


def network_shape(cohort: Cohort, case: Case) -> tuple[int, ...]:
    """(C, *spatial) of an image as the network gets it, slices with their neighbours as
    channels."""
    shape = cohort.prepared.image(case)[0].shape
    if cohort.slices is None:
        return tuple(shape)
    spatial = [length for axis, length in enumerate(shape[1:]) if axis != cohort.slices.axis]
    return (shape[0] * (2 * cohort.slices.neighbours + 1), *spatial)
