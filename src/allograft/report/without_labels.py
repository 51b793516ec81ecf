"""The section "Without labels": what accuracy or Dice is estimated to be, apart from every
score."""

from __future__ import annotations

from collections.abc import Sequence

from allograft.report.target import Extra
from allograft.results.analysis.estimates import estimate_sheet
from allograft.results.select import Line
from allograft.study.plan import Plan

TITLE = "Without labels: estimates, not scores"


def without_labels(plan: Plan, table: Sequence[Line], target: str) -> list[Extra]:
    """The estimates of a target: in the open where it has no labels, in a fold where it has, since
    there they only show how far estimates are off."""
    sheet = estimate_sheet(plan, table, target)
    if sheet is None:
        return []
    if not any(line.is_measured(target) for line in table if line.target == target):
        return [Extra(TITLE, (sheet,))]
    return [Extra(TITLE, folded=Extra("Estimates for this site, next to the measured scores", (sheet,)))]
