"""Which radius of the swapped disc, by the scores of labelled target cases: the grid, a curve over
it, and the best of several curves."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import NeedsError, SpecError
from allograft.figure import Lines
from allograft.predictor import Predictor
from allograft.predictor.whole import whole_prediction

GRID = tuple(round(0.005 * step, 3) for step in range(8))
PAPERS_SIDE = 256
"""Pixels of the paper's images: what a step of the grid means in whole frequencies."""


def short_side(cohorts: Iterable[Cohort]) -> int:
    """Pixels of the shortest side of any image."""
    return min(min(whole.batch.image.shape[-2:]) for cohort in cohorts for whole in cohort.wholes())


def beta_grid(side: int) -> tuple[float, ...]:
    """The grid of Zakazov et al. (2022), 0, 0.005 ... 0.035; where its first step swaps the mean
    alone, also what those steps are in pixels of the paper's images.

    Warns of the latter: an image of 35 pixels has a radius of more than a pixel only from 1 / 35
    on.

    Args:
        side: short side of the images in pixels.

    Example:
        >>> beta_grid(256)
        (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035)
    """
    if side * GRID[1] > 1:
        return GRID
    further = (round(beta * PAPERS_SIDE / side, 4) for beta in GRID)
    grid = (*GRID, *(beta for beta in further if GRID[-1] < beta <= 0.5))
    message = (
        f"on images of {side} pixels a beta of {1 / side:.3f} or less swaps the mean alone; the grid is extended to "
        f"{grid[-1]}"
    )
    warnings.warn(f"fourier: {message}", stacklevel=2)
    return grid


def curve(
    adapted: Callable[[float], Predictor], grid: Sequence[float], cohort: Cohort, context: Context
) -> tuple[float | None, ...]:
    """The headline score of these labelled cases under each beta.

    Raises:
        SpecError: a budget counted in slices: a score of the whole case would use labels beyond it.
    """
    if cohort.chosen is not None:
        raise SpecError(
            "fourier: beta is chosen on complete cases, target_labels counts slices; count subjects or cases, or fix "
            "beta"
        )
    scores = []
    for beta in grid:
        predictor, cases = adapted(beta), []
        for whole in cohort.wholes():
            prediction = whole_prediction(predictor, context.fabric.to_device(whole.batch))
            measured = context.supervised_task.measure(prediction, whole)
            cases.append({"case": whole.case.name, "subject": whole.case.subject, **measured})
        scores.append(context.supervised_task.aggregate(cases).get(context.supervised_task.headline))
    return tuple(scores)


def averaged_beta(curves: Lines) -> float:
    """The beta with the highest mean score over curves, one a target; of equal ones the smallest.

    Raises:
        NeedsError: no beta has a score in every curve.

    Example:
        >>> averaged_beta(Lines("a", (0.0, 0.1), {"b": (0.5, 0.7), "c": (0.6, 0.5)}, "beta", "dice"))
        0.1
    """
    columns = zip(curves.x, zip(*curves.y.values(), strict=True), strict=True)
    means = {
        beta: fmean(known)
        for beta, scores in columns
        if len(known := [s for s in scores if s is not None]) == len(scores)
    }
    if not means:
        raise NeedsError(
            "fourier: no beta has a score on every target's labelled cases; label more of them, or fix beta"
        )
    return min(means, key=lambda beta: (-means[beta], beta))
