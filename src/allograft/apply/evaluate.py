"""A finished model at a new site: adapt it, or judge it, without the study that made it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from allograft.apply import load
from allograft.cohort import Case, Cohort, Preprocessing
from allograft.cohort.alignment import aligned
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.readers import SUFFIXES, read_mask
from allograft.cohort.readers.files import UNREAD, is_second
from allograft.errors import ManifestError, ModelError, SpecError, nearest
from allograft.metrics.segmentation import Missed
from allograft.predictor.folder import sites_of
from allograft.predictor.whole import case_facts, stem
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
    device: str = "auto",
) -> Evaluation:
    """Judge a model folder, or a folder of another tool's masks, on the labelled cases of a
    manifest.

    Args:
        judged: a model folder (with card.json), or a folder that holds for each image a mask of the
            same name, or of that name and ``_mask``.
        task: needed for a folder of masks: ``{"segmentation": {"classes": [...]}}``.
        missed: what the distance to a missed class is, as in ``Segmentation``.

    Raises:
        ModelError: an image the model was trained on; a folder that is neither; a missing
            prediction.
    """
    if missed not in get_args(Missed):
        raise SpecError(f"missed: {nearest(missed, get_args(Missed), 'way to measure a missed class')}")
    if os.path.exists(judged / "card.json"):
        return _evaluate_model(judged, manifest, missed, device)
    if not os.path.isdir(judged) or not any(path.name.lower().endswith(SUFFIXES) for path in judged.rglob("*")):
        raise ModelError(
            f"{judged}: neither a model folder (card.json) nor a folder of predicted masks "
            f"({', '.join(SUFFIXES[:3])}, ...)"
        )
    if task is None or "segmentation" not in task:
        raise ModelError(f"{judged}: a folder of masks says nothing of its classes; name them: --classes vessel")
    return _evaluate_masks(judged, manifest, replace(make_segmentation(task), missed=missed))


def make_segmentation(task: Mapping[str, Any]) -> Segmentation:
    """The segmentation task of ``{"segmentation": {...}}``."""
    from allograft.strict import validated

    made: Segmentation = validated(Segmentation, task["segmentation"], "task.segmentation")
    return made


def _evaluate_model(folder: Path, manifest: Path, missed: Missed, device: str) -> Evaluation:
    model = load(folder, device=device)
    task = _measuring(model.task, missed)
    cohort = Cohort.read(manifest, task.coding)
    prepared = PreparedImages(model.prepared().preprocessing, replace(cohort.prepared.coding))
    cohort = replace(cohort, prepared=prepared, slices=model.slices, sites=sites_of(model.card))
    refuse_training_images(model.card, cohort.cases, folder)
    labelled = cohort.labelled(task.key)
    scored, warnings = [], list[str]()
    for whole in labelled.wholes():
        case, prediction = whole.case, model.prediction(whole)
        told = [text for topic, text in prepared.notes(case).items() if topic == "sform"]
        warnings += [f"{case.name}: {text}" for text in (*told, *case_facts(prediction).get("warnings", ()))]
        measured = task.measure(prediction, whole)
        scored.append({"case": case.name, "subject": case.subject, "site": case.site, **measured})
        prepared.memory.clear()  # one image at a time
    found = _pooled(scored, task, len(cohort.cases) - len(labelled.cases), manifest)
    return replace(found, warnings=tuple(warnings))


def _measuring(task: Any, missed: Missed) -> Any:
    """The task, or its segmentation, with the distance to a missed class as asked."""
    if isinstance(task, Segmentation):
        return replace(task, missed=missed)
    return (
        replace(task, segmentation=replace(task.segmentation, missed=missed)) if hasattr(task, "segmentation") else task
    )


def _evaluate_masks(folder: Path, manifest: Path, task: Segmentation) -> Evaluation:
    import torch

    cohort = Cohort.read(
        manifest, task.coding, preprocessing=Preprocessing(orientation=None, intensity="none", nan=0.0)
    )
    labelled = cohort.labelled("mask")
    found_in = _finder(folder, labelled.cases)
    scored, warnings = [], list[str]()
    for whole in labelled.wholes():
        case, path = whole.case, found_in(whole.case)
        stored = aligned(read_mask(path), whole.grid, path, f"its image '{case.name}'")
        mask = torch.from_numpy(task.coding.mask_to_index(stored.array[0], str(path)))
        measured = task.measure_mask(mask, whole)
        scored.append({"case": case.name, "subject": case.subject, "site": case.site, **measured})
        warnings += [
            f"{case.name}: {text}" for topic, text in labelled.prepared.notes(case).items() if topic == "sform"
        ]
        labelled.prepared.memory.clear()
    found = _pooled(scored, task, len(cohort.cases) - len(labelled.cases), manifest)
    return replace(found, warnings=tuple(warnings))


def _finder(folder: Path, cases: Sequence[Case]) -> Callable[[Case], Path]:
    """Case -> its prediction: by its path in the folder, or by its bare name where that is one of a
    kind on both sides.

    Raises:
        ModelError: no prediction, or more than one.
    """
    by_path: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name.lower().endswith((*SUFFIXES, *UNREAD))
            and not path.name.startswith(".")
            and not is_second(path)
        ):
            by_path.setdefault(stem(path.relative_to(folder).as_posix()), []).append(path)
    by_name: dict[str, list[str]] = {}
    for name in by_path:
        by_name.setdefault(Path(name).name, []).append(name)
    asked = Counter(one for case in cases for one in _names(Path(stem(case.name)).name)[1:])

    def find(case: Case) -> Path:
        name = stem(case.name)
        bare = Path(name).name
        for wanted in _names(name):
            if wanted in by_path:
                return _only(by_path[wanted], case)
        near = next((by_name[one] for one in _names(bare) if one in by_name), None)
        if near is None:
            raise ModelError(
                f"{folder}: holds no prediction for '{case.name}'; expected {bare}.png, {bare}_mask.png, .nii.gz or "
                "the like"
            )
        if asked[bare] > 1 or len(near) > 1:
            found = f"{asked[bare]} cases and {len(near)} predictions are called '{bare}'"
            raise ModelError(
                f"{folder}: {found}; expected the prediction of '{case.name}' at {folder / name}.*; store it there"
            )
        return _only(by_path[near[0]], case)

    return find


def _names(name: str) -> tuple[str, ...]:
    """What a prediction for an image is called; nnU-Net leaves the channel's number away.

    >>> _names("case_0000")
    ('case_0000_mask', 'case_0000', 'case')
    """
    return (f"{name}_mask", name, *([name[:-5]] if re.search(r"[^/]_0000$", name) else []))


def _only(paths: Sequence[Path], case: Case) -> Path:
    if len(paths) > 1:
        raise ModelError(f"{paths[0]}: {paths[1].name} is a prediction for '{case.name}' too; remove one")
    return paths[0]


def _pooled(scored: list[dict[str, Any]], task: Any, unlabelled: int, manifest: Path) -> Evaluation:
    if not scored:
        raise ManifestError(f"{manifest}: no case has a '{task.key}', so nothing can be judged; add labels for some")
    sites = sorted({case["site"] for case in scored})
    metrics = {site: task.aggregate([_bare(case) for case in scored if case["site"] == site]) for site in sites}
    return Evaluation(metrics, tuple(scored), unlabelled)


def _bare(case: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in case.items() if key != "site"}


def summary(found: Evaluation, site: str) -> str:
    """A site's metrics in a line, each with the number of cases in which it is undefined and which
    its mean leaves out."""
    count, metrics = sum(case["site"] == site for case in found.cases), found.metrics[site]
    words = []
    for name, value in metrics.items():
        if not name.startswith("undefined/"):
            undefined = metrics.get(f"undefined/{name}")
            words.append(f"{name} {'undefined' if value is None else format(value, '.3f')}")
            words[-1] += f" ({undefined:.0f} of {count} cases undefined)" if undefined else ""
    return f"{site}: {', '.join(words)}"


def write_evaluation(found: Evaluation, path: Path) -> None:
    """Metrics and cases as JSON; ``warnings`` where there are any."""
    more = {"warnings": list(found.warnings)} if found.warnings else {}
    write_json(path, {"metrics": found.metrics, "cases": list(found.cases), "unlabelled": found.unlabelled, **more})
