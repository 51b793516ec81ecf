"""The value of white in images of stained tissue, by which amounts of stain are measured."""

from __future__ import annotations

from collections.abc import Sequence

from allograft.cohort import Cohort
from allograft.errors import SpecError


def white_level(cohorts: Sequence[Cohort], recipe: str) -> float:
    """What white is in the images of these cohorts: 255, or 1 where none of the first ones exceeds
    1.

    Raises:
        SpecError: intensities were changed by preprocessing, or the images are no RGB of 8 bits or
            from 0 to 1.
    """
    cohorts = [cohort for cohort in cohorts if len(cohort)]
    intensity = cohorts[0].prepared.preprocessing.intensity
    if intensity not in ("none", "unit"):
        raise SpecError(
            f"{recipe}: preprocessing.intensity is '{intensity}', after which a colour no longer tells the amount of "
            "stain; "
            "expected colours as they are: preprocessing: {intensity: unit}"
        )
    images = [cohort.unlabelled().case(index) for cohort in cohorts for index in range(min(len(cohort), 8))]
    for image in images:
        shape, low, high = tuple(image.image.shape[1:]), float(image.image.min()), float(image.image.max())
        if len(shape) != 3 or shape[0] != 3 or low < 0 or high > 255:
            found = f"shape {shape}, values {low:g} to {high:g}"
            raise SpecError(
                f"{recipe}: image '{image.cases[0]}' has {found}; expected RGB (3, H, W) of 8 bits; convert the images"
            )
    return 255.0 if max(float(image.image.max()) for image in images) > 1 else 1.0
