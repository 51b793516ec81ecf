"""A finished model at a new site: adapt it, or judge it, without the study that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from allograft.apply import load
from allograft.apply.judged import Judged, is_mask_folder, judged_masks, judged_model
from allograft.cohort.readers import SUFFIXES
from allograft.errors import ManifestError, ModelError, SpecError, nearest
from allograft.metrics.segmentation import Missed
from allograft.results.looks import look_at_model
from allograft.tasks.segmentation import Segmentation
from allograft.tree import write_json


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model, or of one folder of predictions.

    Args:
        metrics: site -> metrics pooled over subjects.
        cases: every case's metrics, with its site.
        unlabelled: cases without a label, which are not scored.
        warnings: what a reader should know, ``CASE: TEXT``.
    """

    metrics: Mapping[str, Mapping[str, float | None]]
    cases: tuple[Mapping[str, Any], ...]
    unlabelled: int
    warnings: tuple[str, ...] = ()


def evaluate(
    judged: Path,
    manifest: Path,
    *,
    task: Mapping[str, Any] | None = None,
    missed: Missed = "undefined",
    surface_dice: float | None = None,
    device: str = "auto",
) -> Evaluation:
    """Judge a model folder, or a folder of another tool's masks, on the labelled cases of a
    manifest.

    Args:
        judged: a model folder (with card.json), or a folder that holds for each image a mask of the
            same name, or of that name and ``_mask``.
        task: needed for a folder of masks: ``{"segmentation": {"classes": [...]}}``.
        missed: what the distance to a missed class is, as in ``Segmentation``.
        surface_dice: a tolerance in mm, as in ``Segmentation``.

    Raises:
        ModelError: an image the model was trained on; a folder that is neither; a missing
            prediction.
    """
    if missed not in get_args(Missed):
        raise SpecError(f"missed: {nearest(missed, get_args(Missed), 'way to measure a missed class')}")
    if os.path.exists(judged / "card.json"):
        model = load(judged, device=device)
        answers = judged_model(model, judged, manifest, measuring(model.task, missed, surface_dice))
        evaluation = _evaluated(answers, judged, manifest)
        look_at_model(judged, "evaluate", f"scores of {len(evaluation.cases)} cases of another manifest")
        return evaluation
    if not is_mask_folder(judged):
        raise ModelError(
            f"{judged}: neither a model folder (card.json) nor a folder of predicted masks "
            f"({', '.join(SUFFIXES[:3])}, ...)"
        )
    if task is None or "segmentation" not in task:
        raise ModelError(f"{judged}: a folder of masks does not list its classes; name them: --classes vessel")
    masks = judged_masks(judged, manifest, measuring(make_segmentation(task), missed, surface_dice))
    return _evaluated(masks, judged, manifest)


def make_segmentation(task: Mapping[str, Any]) -> Segmentation:
    """The segmentation task of ``{"segmentation": {...}}``."""
    from allograft.strict import validated

    made: Segmentation = validated(Segmentation, task["segmentation"], "task.segmentation")
    return made


def _evaluated(judged: Judged, source: Path, manifest: Path) -> Evaluation:
    scored, warnings = [], list[str]()
    for case in judged.labelled.cases:
        if reason := judged.absent(case):
            raise ModelError(f"{source}: {reason}")
    for whole in judged.labelled.wholes():
        row, said = judged.row(whole)
        scored.append(row)
        warnings += [f"{whole.case.name}: {text}" for text in said]
    evaluation = _pooled(scored, judged.task, len(judged.cohort.cases) - len(scored), manifest)
    return replace(evaluation, warnings=tuple(warnings))


def measuring(task: Any, missed: Missed | None = None, surface_dice: float | None = None) -> Any:
    """The task, or its segmentation, with the distance to a missed class and the tolerance as
    asked.

    Raises:
        SpecError: a tolerance for a task without masks, or one that is not above 0.
    """
    if surface_dice is not None and not isinstance(getattr(task, "segmentation", task), Segmentation):
        raise SpecError(
            f"surface_dice: found {type(task).__name__.lower()}, which finds no masks; expected a segmentation: leave "
            "it out"
        )
    named: dict[str, Any] = {"missed": missed, "surface_dice": surface_dice}
    how = {key: value for key, value in named.items() if value is not None}
    if isinstance(task, Segmentation):
        return replace(task, **how)
    return replace(task, segmentation=replace(task.segmentation, **how)) if hasattr(task, "segmentation") else task


def _pooled(scored: list[dict[str, Any]], task: Any, unlabelled: int, manifest: Path) -> Evaluation:
    if not scored:
        raise ManifestError(f"{manifest}: no case has a '{task.key}', so nothing can be evaluated; add labels for some")
    sites = sorted({case["site"] for case in scored})
    metrics = {site: task.aggregate([_bare(case) for case in scored if case["site"] == site]) for site in sites}
    return Evaluation(metrics, tuple(scored), unlabelled)


def _bare(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "site"}


def summary(evaluation: Evaluation, site: str) -> str:
    """A site's metrics in a line, each with the number of cases in which it is undefined and which
    its mean leaves out."""
    count, metrics = sum(case["site"] == site for case in evaluation.cases), evaluation.metrics[site]
    words = []
    for name, value in metrics.items():
        if not name.startswith("undefined/"):
            undefined = metrics.get(f"undefined/{name}")
            words.append(f"{name} {'undefined' if value is None else format(value, '.3f')}")
            words[-1] += f" ({undefined:.0f} of {count} cases undefined)" if undefined else ""
    return f"{site}: {', '.join(words)}"


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Metrics and cases as JSON; ``warnings`` where there are any."""
    more = {"warnings": list(evaluation.warnings)} if evaluation.warnings else {}
    write_json(
        path,
        {"metrics": evaluation.metrics, "cases": list(evaluation.cases), "unlabelled": evaluation.unlabelled, **more},
    )
