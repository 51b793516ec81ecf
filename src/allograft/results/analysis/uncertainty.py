"""Whether a classifier that gives a spread knows when it errs: the spread beside the errors, and
probabilities beside how often they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from allograft.figure import Lines
from allograft.metrics.classification import auroc, expected_calibration_error
from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.select import Line

BINS = 10
FEWEST = 5
"""Cases in a bin for it to be drawn."""
NOTES = (
    "AUROC of the spread against errors: 0.5 is chance, 1 means that every wrong case has a larger spread than every "
    "right one. Calibration error is the mean gap between the probability of the predicted class and its accuracy.",
)


def uncertainty(lines: Sequence[Line], target: str) -> tuple[Sheet, Lines] | None:
    """How the rows that give a spread for their test cases use it, do-nothing and the others beside
    them for their calibration; None where no row gives one.

    Numbers are means over seeds; the curve is of all seeds' cases together.
    """
    here = [line for line in lines if line.target == target]
    by_title = {line.title: made for line in here if (made := _runs(line, target))}
    if not any("spread" in case for runs in by_title.values() for run in runs for case in run):
        return None
    rows = tuple((title, *_cells(runs)) for title, runs in by_title.items())
    columns = ("recipe", "AUROC of spread against errors", "calibration error", "accuracy", "of the more certain half")
    curves: dict[str, tuple[float | None, ...]] = {
        title: _curve([case for run in runs for case in run]) for title, runs in by_title.items()
    }
    centres = tuple((number + 0.5) / BINS for number in range(BINS))
    figure = Lines(
        f"calibration at {target}",
        centres,
        {**curves, "perfect calibration": centres},
        "probability of the predicted class",
        "share that is correct",
    )
    return Sheet(f"What the spread over samples says about errors at {target}", columns, rows, NOTES), figure


def _runs(line: Line, target: str) -> list[list[Mapping[str, Any]]]:
    """The classified test cases of each finished run."""
    every: list[list[Mapping[str, Any]]] = [
        [case for record in run.tests.get(target, ()) for case in record.cases] for run in line.runs
    ]
    return [cases for run in every if (cases := [case for case in run if _is_classified(case)])]


def _is_classified(case: Mapping[str, Any]) -> bool:
    return isinstance(case.get("label"), int) and isinstance(case.get("probabilities"), list)


def _right(cases: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
    """(N,) probability of the predicted class, and (N,) bool whether it is right."""
    confidence, predicted = torch.tensor([case["probabilities"] for case in cases], dtype=torch.float64).max(1)
    return confidence, predicted == torch.tensor([case["label"] for case in cases])


def _cells(runs: Sequence[Sequence[Mapping[str, Any]]]) -> tuple[str, ...]:
    finds, gaps, right, surer = [], [], [], []
    for cases in runs:
        confidence, correct = _right(cases)
        gaps.append(expected_calibration_error(confidence, correct, BINS))
        right.append(float(correct.double().mean()))
        if all("spread" in case for case in cases):
            spreads = torch.tensor([case["spread"] for case in cases], dtype=torch.float64)
            surer.append(float(correct[spreads.argsort()[: max(1, len(cases) // 2)]].double().mean()))
            if (value := auroc(spreads, ~correct)) == value:
                finds.append(value)
    return spread(finds), spread(gaps), spread(right), spread(surer)


def _curve(cases: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    """The share that is right in each bin of the confidence."""
    confidence, correct = _right(cases)
    number = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    shares = [correct[number == bin_number].double() for bin_number in range(BINS)]
    return tuple(float(share.mean()) if len(share) >= FEWEST else None for share in shares)
