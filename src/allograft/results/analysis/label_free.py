"""Label-free scores of a stage, from what it predicts of the target's training images: what a
record keeps of each, and how it ranks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from allograft.cohort import Whole
from allograft.metrics.estimates import mask_losses, mask_sums
from allograft.metrics.label_free import (
    information,
    mean_entropy,
    mean_prediction,
    pixel_density,
    soft_neighbourhood_density,
)
from allograft.seeds import Seeds
from allograft.tasks.segmentation import Segmentation

RULES = ("entropy", "infomax", "snd")
"""Selection rules that see predictions on the target's training images, and no label."""


def watched(prediction: Mapping[str, Any], task: Any, name: str) -> dict[str, Any]:
    """What a record keeps of one image whose label is not looked at.

    Args:
        prediction: of a whole case, logits (B, K, *spatial) or (B, K) under the task's key.
        task: its ``key`` is "mask" or "label".
        name: the case's; of an image's pixels the same ones are drawn for every model.

    Returns:
        ``entropy`` and ``prediction``, (K,) mean class probabilities; of a segmentation also
        ``snd``, None where it is undefined.
    """
    logits, several = prediction[task.key], task.coding.several
    values: dict[str, Any] = {
        "entropy": mean_entropy(logits, several=several),
        "prediction": mean_prediction(logits, several=several).tolist(),
    }
    if task.key == "mask":
        density = pixel_density(logits, Seeds(0, ("snd",)).rng("pixels", name))
        values["snd"] = None if math.isnan(density) else density
    return values


def calibration(prediction: Mapping[str, Any], task: Any, whole: Whole, *, validates: bool) -> dict[str, Any]:
    """What a record keeps of a test or validation case so that accuracy and Dice can be estimated
    where there is no label.

    Args:
        validates: whether it is a labelled validation case of the source, on which estimates are
            fitted: its label is looked at, that of a test case is not.

    Returns:
        Of a mask ``{"calibration": ...}``, see ``metrics.estimates.mask_sums``, with the ``losses``
        of a validation case; of an unlabelled image with one class its probabilities as
        ``prediction``, which those with a label have as ``probabilities``; else {}.
    """
    masks = getattr(task, "segmentation", task)
    if task.key == "label" and not task.coding.several and "label" not in whole.case.labels:
        return {"prediction": mean_prediction(prediction["label"]).tolist()}
    if task.key != "mask" or not isinstance(masks, Segmentation):
        return {}
    probabilities = masks.probabilities(prediction, whole)
    kept: dict[str, Any] = mask_sums(probabilities, whole.region)
    if validates:
        kept["losses"] = mask_losses(probabilities, masks.truth(whole), whole.region)
    return {"calibration": kept}


def score(rule: str, cases: Sequence[Mapping[str, Any]], task: Any) -> float | None:
    """How high a rule ranks a stage by its ``watched`` cases; for every rule higher is better.

    - ``entropy``: minus the mean entropy.
    - ``infomax``: entropy of the mean prediction less mean entropy, ``information``.
    - ``snd``: soft neighbourhood density; of a classification that of all images together, of a
      segmentation the mean over images of that of 100 of their pixels.

    Returns:
        None without cases, or where the density is undefined.
    """
    if not cases:
        return None
    several = task.coding.several
    entropies = torch.tensor([case["entropy"] for case in cases], dtype=torch.float64)
    predictions = torch.tensor([case["prediction"] for case in cases], dtype=torch.float64)
    if rule == "entropy":
        return -float(entropies.mean())
    if rule == "infomax":
        return information(predictions, entropies, several=several)
    if task.key == "label":
        density = soft_neighbourhood_density(predictions, several=several)
        return None if math.isnan(density) else density
    densities = [case["snd"] for case in cases if case["snd"] is not None]
    return sum(densities) / len(densities) if densities else None


def pooled(cases: Sequence[Mapping[str, Any]], task: Any) -> dict[str, float | None]:
    """The metrics of a record: ``label-free/entropy`` (lower is surer), ``label-free/infomax``,
    ``label-free/snd``."""
    sure = score("entropy", cases, task)
    return {
        "label-free/entropy": None if sure is None else -sure,
        **{f"label-free/{rule}": score(rule, cases, task) for rule in RULES[1:]},
    }
