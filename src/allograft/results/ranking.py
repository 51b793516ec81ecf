"""The areas under the ROC curve that a classification's records hold, with what each subject adds
to their error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from allograft.results.areas import Area, area, mean_area
from allograft.results.statistics import Cases

AUROC = "auroc"


def area_of(task: Any, cases: Cases, metric: str = AUROC) -> Area | None:
    """The area that ``task.aggregate`` calls ``auroc`` or ``auroc/NAME``, from the same cases.

    Args:
        task: a classification, of one class per image or of several, or a task with such a part.
        cases: of one seed, all folds together.

    Returns:
        None where it is undefined, and for metrics that are no area.
    """
    part = getattr(task, "classification", task)
    name, _, name_of_class = metric.partition("/")
    if name != AUROC or getattr(part, "key", "") != "label" or (name_of_class and name_of_class not in part.classes):
        return None
    known = [case for case in cases if case.get("label") is not None]
    if not known:
        return None
    scores = np.array([case["probabilities"] for case in known], np.float64)
    labels = np.array([case["label"] for case in known])
    flags = labels > 0.5 if part.coding.several else labels[:, None] == np.arange(len(part.classes))
    subjects = [str(case["subject"]) for case in known]
    asked: Sequence[int] = range(len(part.classes))
    if name_of_class:
        asked = (part.classes.index(name_of_class),)
    elif len(part.classes) == 2 and not part.coding.several:
        asked = (1,)
    areas = [area(scores[:, index], flags[:, index], subjects) for index in asked]
    defined = [each for each in areas if each is not None]
    return mean_area(defined) if defined else None
