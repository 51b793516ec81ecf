"""A finished model at a new site: adapt it, or judge it, without the study that made it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allograft.apply import load
from allograft.cohort import Case, Cohort, Preprocessing
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.readers import SUFFIXES, read_mask
from allograft.errors import ManifestError, ModelError
from allograft.metrics.segmentation import case_metrics
from allograft.predictor.whole import stem
from allograft.results.models import refuse_training_images
from allograft.tasks.segmentation import Segmentation
from allograft.tree import write_json


@dataclass(frozen=True)
class Evaluation:
    """Scores of one model, or of one folder of predictions.

    Args:
        metrics: site -> metrics pooled over subjects.
        cases: every case's metrics, with its site.
        unlabelled: cases without a label, which are not scored.
    """

    metrics: Mapping[str, Mapping[str, float | None]]
    cases: tuple[Mapping[str, Any], ...]
    unlabelled: int


def evaluate(judged: Path, manifest: Path, *, task: Mapping[str, Any] | None = None, device: str = "cpu") -> Evaluation:
    """Judge a model folder, or a folder of another tool's masks, on the labelled cases of a manifest.

    Args:
        judged: a model folder (with card.json), or a folder that holds for each image a mask of the same name, or of that name and
            ``_mask``.
        task: needed for a folder of masks: ``{"segmentation": {"classes": [...]}}``.

    Raises:
        ModelError: an image the model was trained on; a folder that is neither; a missing prediction.
    """
    if os.path.exists(judged / "card.json"):
        return _evaluate_model(judged, manifest, device)
    if not os.path.isdir(judged) or not any(path.name.lower().endswith(SUFFIXES) for path in judged.rglob("*")):
        raise ModelError(f"{judged}: neither a model folder (card.json) nor a folder of predicted masks ({', '.join(SUFFIXES[:3])}, ...)")
    if task is None or "segmentation" not in task:
        raise ModelError(f"{judged}: a folder of masks says nothing of its classes; name them: --classes vessel")
    return _evaluate_masks(judged, manifest, make_segmentation(task))


def make_segmentation(task: Mapping[str, Any]) -> Segmentation:
    """The segmentation task of ``{"segmentation": {...}}``."""
    from allograft.strict import validated

    made: Segmentation = validated(Segmentation, task["segmentation"], "task.segmentation")
    return made


def _evaluate_model(folder: Path, manifest: Path, device: str) -> Evaluation:
    model = load(folder, device=device)
    task = model.task
    cohort = Cohort.read(manifest, task.coding)
    prepared = PreparedImages(model.prepared().preprocessing, replace(cohort.prepared.coding))
    cohort = replace(cohort, prepared=prepared, slices=model.slices)
    refuse_training_images(model.card, cohort.cases, folder)
    labelled = cohort.labelled(task.key)
    hidden, scored = labelled.unlabelled(), []
    for which, case in enumerate(labelled.cases):
        prediction = model.whole(hidden, which)
        scored.append({"case": case.name, "subject": case.subject, "site": case.site, **task.measure(prediction, labelled, which)})
        prepared.memory.clear()  # one image at a time
    return _pooled(scored, task, len(cohort.cases) - len(labelled.cases), manifest)


def _evaluate_masks(folder: Path, manifest: Path, task: Segmentation) -> Evaluation:
    import torch

    cohort = Cohort.read(manifest, task.coding, preprocessing=Preprocessing(orientation=None, intensity="none"))
    labelled = cohort.labelled("mask")
    scored = []
    for which, case in enumerate(labelled.cases):
        path = _found(folder, case)
        reference = labelled.reference(which)
        found = read_mask(path)
        if found.spatial != tuple(reference.mask.shape):
            raise ModelError(
                f"{path}: has shape {found.spatial}, the truth of '{case.name}' has {tuple(reference.mask.shape)}; export it again"
            )
        index = torch.from_numpy(task.coding.mask_to_index(found.array[0], str(path)))
        measured = case_metrics(index, reference.mask, task.names, reference.geometry.stored_spacing, reference.region)
        told = {key: None if value != value else value for key, value in measured.items()}
        scored.append({"case": case.name, "subject": case.subject, "site": case.site, **told})
        labelled.prepared.memory.clear()
    return _pooled(scored, task, len(cohort.cases) - len(labelled.cases), manifest)


def _found(folder: Path, case: Case) -> Path:
    name = stem(case.name)
    for base in dict.fromkeys((name, Path(name).name)):
        for ending in ("_mask", ""):
            for suffix in SUFFIXES:
                path = folder / f"{base}{ending}{suffix}"
                if path.is_file():
                    return path
    raise ModelError(f"{folder}: holds no prediction for '{case.name}'; expected {Path(name).name}.png, _mask.png, .nii.gz or the like")


def _pooled(scored: list[dict[str, Any]], task: Any, unlabelled: int, manifest: Path) -> Evaluation:
    if not scored:
        raise ManifestError(f"{manifest}: no case has a '{task.key}', so nothing can be judged; add labels for some")
    sites = sorted({case["site"] for case in scored})
    metrics = {site: task.aggregate([_bare(case) for case in scored if case["site"] == site]) for site in sites}
    return Evaluation(metrics, tuple(scored), unlabelled)


def _bare(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "site"}


def write_evaluation(found: Evaluation, path: Path) -> None:
    """Metrics and cases as JSON."""
    write_json(path, {"metrics": found.metrics, "cases": list(found.cases), "unlabelled": found.unlabelled})
