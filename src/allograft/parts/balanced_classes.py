"""Batches in which every class has the same share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from allograft.cohort import Case, Cohort, Loader
from allograft.cohort.orders import Shares, by_cohort, dealt
from allograft.context import Context


def balanced(cohorts: Sequence[Cohort], context: Context) -> Loader:
    """Batches with as many cases of one class as of another; what does not divide evenly goes round
    from step to step."""
    classes = sorted({str(case.labels["label"]) for cohort in cohorts for case in cohort.cases})
    groups = [[cohort.where(partial(_is_of, name)) for cohort in cohorts] for name in classes]
    sizes = [[len(cohort) for cohort in group] for group in groups]

    def share(step: int) -> tuple[int, ...]:
        counts = dealt(context.batch_size, [1] * len(groups), step)
        return tuple(number for size, count in zip(sizes, counts, strict=True) for number in dealt(count, size, step))

    views = [cohort for group in groups for cohort in group]
    order = Shares(by_cohort(views), context.batch_size, context.loader_seeds("balanced"), share)
    return context.loader(views, "balanced", order=order)


def _is_of(name: str, case: Case) -> bool:
    return case.labels["label"] == name
