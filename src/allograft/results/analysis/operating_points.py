"""From which probability on a model calls a finding: chosen on validation cases of the source, and
used on test cases."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from allograft.results.select import Chosen, Line

SENSITIVITY = 0.9
"""Of the operating point, on the source's validation cases."""

Cases = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class OperatingPoints:
    """Thresholds on the probability of the finding, fixed before any test case is looked at.

    Args:
        of: seed -> threshold.
        how: they were chosen, as a sentence.
    """

    of: Mapping[int, float] = field(default_factory=dict)
    how: str = ""


def operating_points(task: Any, line: Line) -> OperatingPoints:
    """For each seed's model the threshold that finds 90 % of the source's validation cases with the
    finding (the second of two classes).

    Without such cases it is 0.5. With more than two classes, or several labels a case, there is no
    single threshold.
    """
    if len(task.names) != 2 or task.coding.several:
        return OperatingPoints()
    finding = task.names[1]
    chosen = {run.row.seed: _threshold(run) for run in line.runs if not run.error}
    if any(value is None for value in chosen.values()):
        how = f"no validation case of the source has {finding}: threshold 0.5"
        return OperatingPoints(dict.fromkeys(chosen, 0.5), how)
    how = (
        f"of each seed's model the highest threshold that finds at least {SENSITIVITY:.0%} of {finding} on the "
        "source's validation cases"
    )
    return OperatingPoints({seed: value for seed, value in chosen.items() if value is not None}, how)


def _threshold(run: Chosen) -> float | None:
    cases = [case for record in run.validation for case in record.measured if case["label"] is not None]
    return threshold_at([case["probabilities"][1] for case in cases if case["label"] == 1])


def threshold_at(positives: Sequence[float], sensitivity: float = SENSITIVITY) -> float | None:
    """The highest threshold t for which a share of at least ``sensitivity`` of the positives'
    scores is >= t; None without positives.

    >>> threshold_at([0.1, 0.6, 0.7, 0.9], 0.75), threshold_at([])
    (0.6, None)
    """
    if not positives:
        return None
    # 0.9 * 10 is nine, whatever its rounding
    count = math.ceil(sensitivity * len(positives) - 1e-9)
    return sorted(positives, reverse=True)[max(count, 1) - 1]


def rates_at(cases: Cases, threshold: float) -> dict[str, float | None]:
    """Sensitivity and specificity of calling the finding from ``threshold`` on; None for a class
    that is absent."""
    called = {
        label: [case["probabilities"][1] >= threshold for case in cases if case["label"] == label] for label in (0, 1)
    }
    sensitivity = fmean(called[1]) if called[1] else None
    return {"sensitivity": sensitivity, "specificity": 1 - fmean(called[0]) if called[0] else None}
