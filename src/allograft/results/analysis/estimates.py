"""What accuracy or Dice would be where no label is: estimates fitted on the source's validation
cases, with the error that they make at other labelled sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch

from allograft.metrics.estimates import (
    average_thresholded_confidence,
    difference_of_confidences,
    expected_dice,
    fitted_temperature,
)
from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.record import CALIBRATION, Record
from allograft.results.select import Chosen, Line
from allograft.study.plan import Plan
from allograft.tasks import Task
from allograft.tasks.segmentation import Segmentation, mean_over_subjects

Cases = Sequence[Mapping[str, Any]]
THRESHOLD, DIFFERENCE, DICE = "average thresholded confidence", "difference of confidences", "expected Dice"
NO_LABELS = "no labels: estimated"
UNKNOWN = "error unknown"
NOTES = {
    "accuracy": "Average thresholded confidence (Garg et al. 2022) sets a threshold so that as many validation cases "
    "lie below it as are wrong, and counts the cases above it. Difference of confidences (Guillory et al. 2021) lowers "
    "the accuracy on validation cases by the loss of confidence.",
    "dice": "The expected Dice of each mask under the model's own probabilities, after temperature scaling on "
    "validation cases.",
}
LIMITS = (
    "Estimates are fitted only on the source's validation cases. They assume that the model's confidence means the "
    "same at this site as at the source. Images without labels cannot show whether it does: a model that is confident "
    "and wrong is estimated to be right. Estimates are not scores: they rank nothing, and the verdict does not use "
    "them."
)


@dataclass(frozen=True)
class Estimate:
    """One estimate of a recipe at a site.

    Args:
        title: the recipe's.
        method: ``THRESHOLD``, ``DIFFERENCE`` or ``DICE``.
        values: one per finished seed.
        truths: what was measured there, one per finished seed; () at a site without labels.
        errors: other labelled target site -> mean over seeds of |estimate - truth| of the same
            recipe there.
        fitted_on: validation cases of the source.
    """

    title: str
    method: str
    values: tuple[float, ...]
    truths: tuple[float, ...]
    errors: Mapping[str, float]
    fitted_on: int

    @property
    def error(self) -> str:
        """``0.03 at b``, or that it is not known."""
        return ", ".join(f"{error:.3f} at {site}" for site, error in self.errors.items()) or UNKNOWN


def estimates(plan: Plan, lines: Sequence[Line], target: str) -> list[Estimate]:
    """The estimates of every row of a target, in the order of the table; [] for tasks other than
    classification and segmentation, without source validation cases, and for records of versions
    that kept nothing to estimate from."""
    made = []
    for line in (line_ for line_ in lines if line_.target == target):
        others = [line_ for line_ in lines if line_.title == line.title and line_.target != target]
        for method in methods_of(plan.task):
            values, truths, count = _at(plan, line, method)
            elsewhere = {line_.target: _at(plan, line_, method) for line_ in others}
            errors = {
                site: _error(estimate, true) for site, (estimate, true, _) in elsewhere.items() if estimate and true
            }
            if values:
                made.append(Estimate(line.title, method, values, truths, errors, count))
    return made


def methods_of(task: Task) -> tuple[str, ...]:
    """The estimates that a task has."""
    if task.key == "label" and not task.coding.several:
        return (THRESHOLD, DIFFERENCE)
    return (DICE,) if _masks(task) is not None else ()


def _masks(task: Task) -> Segmentation | None:
    masks = getattr(task, "segmentation", task)
    return masks if task.key == "mask" and isinstance(masks, Segmentation) else None


def _error(values: Sequence[float], truths: Sequence[float]) -> float:
    return fmean(abs(value - truth) for value, truth in zip(values, truths, strict=True))


def _at(plan: Plan, line: Line, method: str) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Of each finished seed the estimate at the line's target and what was measured, () without
    labels; and how many validation cases it was fitted on."""
    runs = [run for run in line.runs if not run.error and run.tests.get(line.target)]
    by_run = [_of_run(plan.task, run, run.tests[line.target], method) for run in runs]
    known = [one for one in by_run if one is not None]
    truths = tuple(truth for _, truth in known if truth is not None)
    counts = [len({case["case"] for record in run.validation for case in record.cases}) for run in runs]
    return tuple(value for value, _ in known), truths if len(truths) == len(known) else (), max(counts, default=0)


def _of_run(task: Task, run: Chosen, records: Sequence[Record], method: str) -> tuple[float, float | None] | None:
    """The estimate of one run and the truth; over labelled cases alone where there are any, so that
    both are of the same ones."""
    source = [case for record in run.validation for case in record.cases]
    cases = [case for record in records for case in record.cases]
    labelled = [case for case in cases if case.get("label") is not None or case.get("dice") is not None]
    if method == DICE:
        masks = _masks(task)
        return None if masks is None else _dice(masks.names, source, labelled or cases)
    return _accuracy(source, labelled or cases, method)


def _accuracy(source: Cases, cases: Cases, method: str) -> tuple[float, float | None] | None:
    every = [case.get("probabilities", case.get("prediction")) for case in cases]
    known = [one for one in every if one is not None]
    labelled = [case for case in source if case.get("label") is not None]
    if not labelled or not known or len(known) < len(every):
        return None
    estimate = {THRESHOLD: average_thresholded_confidence, DIFFERENCE: difference_of_confidences}[method]
    confidence, correct = _confidence(labelled)
    value = estimate(confidence, correct, torch.tensor(known, dtype=torch.float64).amax(1))
    if any(case.get("label") is None for case in cases):
        return value, None
    return value, float(_confidence(cases)[1].double().mean())


def _confidence(cases: Cases) -> tuple[torch.Tensor, torch.Tensor]:
    """(N,) largest probability, and (N,) bool whether its class is the label."""
    largest = torch.tensor([case["probabilities"] for case in cases], dtype=torch.float64).max(1)
    return largest.values, largest.indices == torch.tensor([case["label"] for case in cases])


def _dice(names: Sequence[str], source: Cases, cases: Cases) -> tuple[float, float | None] | None:
    losses = [kept["losses"] for case in source if (kept := case.get(CALIBRATION)) and kept.get("losses")]
    if not losses or not cases or any(CALIBRATION not in case for case in cases):
        return None
    temperature = fitted_temperature(losses)
    expected = [_case_dice(case[CALIBRATION], len(names), temperature) for case in cases]
    made = [
        {"case": case["case"], "subject": case["subject"], "dice": value}
        for case, value in zip(cases, expected, strict=True)
    ]
    value = mean_over_subjects(made)["dice"]
    truth = None
    if any(case.get("dice") is not None for case in cases):
        both = [{key: case[key] for key in ("case", "subject", "dice")} for case in cases]
        truth = mean_over_subjects(both)["dice"]
    return None if value is None else (value, truth)


def _case_dice(kept: Mapping[str, Any], count: int, temperature: float) -> float | None:
    """Mean over the classes that are expected at all, as a case's Dice is over those there are."""
    each = [expected_dice(kept["found"][k], kept["overlap"][k], kept["total"][k], temperature) for k in range(count)]
    defined = [value for value in each if value is not None]
    return fmean(defined) if defined else None


def estimate_sheet(plan: Plan, lines: Sequence[Line], target: str) -> Sheet | None:
    """The estimates of a target as a table; None where there is none."""
    made = estimates(plan, lines, target)
    if not made:
        return None
    methods = list(dict.fromkeys(estimate.method for estimate in made))
    quantity = "dice" if DICE in methods else "accuracy"
    measured = any(estimate.truths for estimate in made)
    pairs = [name for method in methods for name in (method, "error at other sites")]
    columns = ("recipe", *pairs, *([f"{quantity}, measured here"] if measured else []))
    rows = [
        _row(title, [estimate for estimate in made if estimate.title == title], measured) for title in _titles(made)
    ]
    count = max(estimate.fitted_on for estimate in made)
    fitted = f"Fitted on {count} validation case{'' if count == 1 else 's'} of the source; means ± sd over seeds."
    title = f"{quantity} at {target}, {'estimated as if it had no labels' if measured else NO_LABELS}"
    return Sheet(title, columns, tuple(rows), (NOTES[quantity], fitted, LIMITS))


def _titles(made: Sequence[Estimate]) -> list[str]:
    return list(dict.fromkeys(estimate.title for estimate in made))


def _row(title: str, each: Sequence[Estimate], measured: bool) -> tuple[str, ...]:
    cells = [cell for estimate in each for cell in (spread(estimate.values), estimate.error)]
    return (title, *cells, *([spread(each[0].truths)] if measured else []))
