"""What the science tests on brain phantoms share: who is tested, and how."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from allograft.cohort import Cohort
from allograft.metrics.segmentation import dice


def halves(cohort: Cohort) -> tuple[Cohort, Cohort]:
    """Subjects to train on, and every fourth to test."""
    held_out = set(cohort.subjects[::4])
    return cohort.where(lambda case: case.subject not in held_out), cohort.where(lambda case: case.subject in held_out)


def tissue_dice(predictor: Any, *cohorts: Cohort) -> float:
    """Mean Dice over images and both tissues."""
    found = []
    for cohort in cohorts:
        for case in map(cohort.case, range(len(cohort))):
            truth: Any = case.labels["mask"]
            guess = predictor(case.unlabelled())["mask"].argmax(1, keepdim=True)
            found += [dice(guess == tissue, truth == tissue) for tissue in (1, 2)]
    return fmean(found)
