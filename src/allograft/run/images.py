"""Every image of a study is read, prepared and checked before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from allograft.cohort import Case, Cohort
from allograft.errors import ImageError


def prepare_images(cohorts: Sequence[Cohort], say: Callable[[str], None]) -> None:
    """Read and prepare every image, region and mask.

    Raises:
        ImageError: a file that cannot be read, or an image that no network takes together with the
            first.
    """
    count = sum(len(cohort.cases) for cohort in cohorts)
    say(f"preparing {count} images")
    first, empty = cohorts[0], 0
    for cohort in cohorts:
        prepared = cohort.prepared
        for case in cohort.cases:
            _check_alike(case, _network_shape(cohort, case), first.cases[0], _network_shape(first, first.cases[0]))
            prepared.region(case)
            if "mask" in case.labels and prepared.coding.mask:
                empty += not prepared.mask(case).any()
    if empty:
        say(
            f"warning: {empty} of {count} images have no foreground; they count as empty, see 'undefined' in the "
            "records"
        )


def _check_alike(case: Case, shape: Sequence[int], first: Case, others: Sequence[int]) -> None:
    """Raise for an image of other channels, or other dimensions, than the first: no network takes
    both."""
    if (shape[0], len(shape)) != (others[0], len(others)):
        told = f"'{case.name}' of site '{case.site}' has {shape[0]} channels and {len(shape) - 1} dimensions"
        expected = f"{others[0]} and {len(others) - 1} like '{first.name}' of site '{first.site}'"
        raise ImageError(f"image {told}; expected {expected}: convert the images to one kind, or leave the site out")


def _network_shape(cohort: Cohort, case: Case) -> tuple[int, ...]:
    """(C, *spatial) of an image as the network gets it, slices with their neighbours as
    channels."""
    shape = cohort.prepared.image(case)[0].shape
    if cohort.slices is None:
        return tuple(shape)
    spatial = [length for axis, length in enumerate(shape[1:]) if axis != cohort.slices.axis]
    return (shape[0] * (2 * cohort.slices.neighbours + 1), *spatial)
