"""Two models, or two sets of predictions, compared on labelled cases without a study."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allograft.apply import load
from allograft.apply.evaluate import make_segmentation, measuring
from allograft.apply.judged import Judged, is_mask_folder, judged_masks, judged_model
from allograft.apply.model import Model
from allograft.apply.prediction_tables import PredictionTable, judged_table, read_predictions
from allograft.cohort import Case
from allograft.cohort.readers import SUFFIXES, read_image
from allograft.errors import ManifestError, ModelError, SpecError
from allograft.grey import plane
from allograft.report.boxes import draw_boxes
from allograft.report.gallery import Picture, overlay_picture
from allograft.report.head_to_head import write_page
from allograft.results.head_to_head import HeadToHead, Unmatched, differences, scores_of, worst
from allograft.results.head_to_head_files import write_cases, write_summary
from allograft.results.looks import look_at_model
from allograft.tasks import Answer
from allograft.tasks.segmentation import Segmentation

SLICES = 7
"""Of a volume, at most, in each of its two pictures."""


@dataclass(frozen=True)
class Side:
    """One of the two.

    Args:
        name: what tables call it.
        path: as given.
        model: of a model folder.
        table: of a ``results.csv``.
    """

    name: str
    path: Path
    model: Model | None = None
    table: PredictionTable | None = None

    @property
    def task(self) -> Any:
        """What it predicts; None where it does not say."""
        return self.model.task if self.model else self.table.task if self.table else None

    @property
    def kind(self) -> str:
        """In words."""
        return "model" if self.model else "results.csv" if self.table else "masks"


def compare(
    a: Path | str,
    b: Path | str,
    manifest: Path | str,
    out: Path | str | None = None,
    *,
    task: Mapping[str, Any] | None = None,
    names: tuple[str, str] | None = None,
    surface_dice: float | None = None,
    device: str = "auto",
) -> HeadToHead:
    """Compare two on the labelled cases of a manifest; every difference is ``b`` less ``a``.

    Args:
        a, b: each a model folder, a folder of masks, or the ``results.csv`` of ``predict``.
        manifest: the cases with their labels.
        out: a folder for ``compare.html``, ``cases.csv`` and ``summary.csv``; None = no files.
        task: needed where both are folders of masks: ``{"segmentation": {"classes": [...]}}``.
        names: what tables call them; by default as their folders.
        surface_dice: a tolerance in mm, which adds that score.

    Raises:
        ModelError: something that is none of these, two that predict different things, an image a
            model was trained on.
        ImageError: a mask that does not lie on its image.
        ManifestError: no labelled case that both have a prediction for.

    Example (not run: needs two models)::

        found = allograft.compare("runs/a/models/finetune@chase", "masks/", "third/manifest.csv")
        print(found.overall.found.difference)
    """
    places, manifest = (Path(a), Path(b)), Path(manifest)
    both = [_side(name, path, device) for name, path in zip(_names(places, names), places, strict=True)]
    shared = _shared_task(both, task)
    if surface_dice is not None:
        shared = measuring(shared, surface_dice=surface_dice)
    judged = [_judged(side, manifest, shared) for side in both]
    compared = _paired(both, judged, manifest)
    for path_ in places:
        look_at_model(path_, "compare", "scores on another manifest")
    if out is not None:
        _write(Path(out), compared, both, judged)
    return compared


def _names(places: Sequence[Path], names: tuple[str, str] | None) -> tuple[str, str]:
    if names is None:
        own = [(path.parent if path.suffix == ".csv" else path).resolve().name for path in places]
        return ("A", "B") if own[0] == own[1] or not all(own) else (own[0], own[1])
    if len(names) != 2 or not all(name.strip() for name in names) or names[0] == names[1] or "difference" in names:
        raise SpecError(f"names: found {', '.join(names)}; expected two different words, for example --names old,new")
    return names


def _side(name: str, path: Path, device: str) -> Side:
    if os.path.exists(path / "card.json"):
        return Side(name, path, model=load(path, device=device))
    if path.suffix.lower() == ".csv" and path.is_file():
        return Side(name, path, table=read_predictions(path))
    if is_mask_folder(path):
        return Side(name, path)
    raise ModelError(
        f"{path}: neither a model folder (card.json), nor a folder of masks ({', '.join(SUFFIXES[:3])}, ...), nor the "
        "results.csv of predict"
    )


def _shared_task(both: Sequence[Side], asked: Mapping[str, Any] | None) -> Any:
    """The one task of both, with the mask values that a model's card or the caller names.

    Raises:
        ModelError: nobody says, or they differ.
    """
    said = [("--classes", make_segmentation(asked))] if asked else []
    # a card says which values the truth has; a table only which classes there are
    said += [(str(side.path), side.task) for side in sorted(both, key=lambda side: side.model is None) if side.task]
    if not said:
        raise ModelError(
            f"{both[0].path}, {both[1].path}: folders of masks do not list their classes; name them: --classes vessel"
        )
    has_masks_alone = asked is not None or any(side.task is None for side in both)
    parts = [(who, getattr(task, "segmentation", task) if has_masks_alone else task) for who, task in said]
    first, task = parts[0]
    for who, other in parts[1:]:
        if _sought(other) != _sought(task):
            raise ModelError(
                f"{who}: predicts {_sought(other)}; expected {_sought(task)}, as {first}; compare like with like"
            )
    if has_masks_alone and not isinstance(task, Segmentation):
        folder = next(side.path for side in both if side.task is None)
        wanted = f"expected {_sought(task)}, as {first}"
        raise ModelError(f"{folder}: found a folder of masks; {wanted}; compare two of one task and classes")
    return task


def _sought(task: Any) -> str:
    """``segmentation of vessel``."""
    return f"{type(task).__name__.lower()} of {', '.join(getattr(task, 'names', ())) or 'images'}"


def _judged(side: Side, manifest: Path, task: Any) -> Judged:
    if side.model:
        return judged_model(side.model, side.path, manifest, task)
    if side.table:
        return judged_table(side.table, manifest, task)
    return judged_masks(side.path, manifest, task)


def _paired(both: Sequence[Side], judged: Sequence[Judged], manifest: Path) -> HeadToHead:
    cases = judged[0].labelled.cases
    unmatched = [
        Unmatched(case.name, case.subject, case.site, side.name, reason)
        for case in cases
        for side, answers in zip(both, judged, strict=True)
        if (reason := answers.absent(case))
    ]
    left = {answers.case for answers in unmatched}
    if not cases or len(left) == len(cases):
        why = (
            f"no case has a '{judged[0].task.key}'; add labels for some"
            if not cases
            else f"no labelled case has a prediction of both; the first: {unmatched[0].name} {unmatched[0].reason}"
        )
        raise ManifestError(f"{manifest}: {why}")
    scored, warnings = [list[dict[str, Any]](), list[dict[str, Any]]()], list[str]()
    for side, answers, rows in zip(both, judged, scored, strict=True):
        for whole in answers.labelled.where(lambda case: case.name not in left).wholes():
            row, said = answers.row(whole)
            rows.append(row)
            warnings += [f"{side.name}: {whole.case.name}: {text}" for text in said]
    compared = differences(judged[0].task, *scored)
    unlabelled = len(judged[0].cohort.cases) - len(cases)
    first, second = (side.name for side in both)
    headline = judged[0].task.headline
    return HeadToHead(
        (first, second), headline, scored[0], scored[1], compared, tuple(unmatched), unlabelled, tuple(warnings)
    )


def _write(out: Path, compared: HeadToHead, both: Sequence[Side], judged: Sequence[Judged]) -> None:
    pictures = [(case_index, _pictures(compared, judged, case_index)) for case_index in worst(compared)]
    write_page(
        out / "compare.html",
        compared,
        task=_sought(judged[0].task),
        kinds=(both[0].kind, both[1].kind),
        pictures=pictures,
        classes=getattr(judged[0].task, "names", ()),
    )
    write_cases(out / "cases.csv", compared)
    write_summary(out / "summary.csv", compared)


def _pictures(compared: HeadToHead, judged: Sequence[Judged], case_index: int) -> tuple[Picture, Picture]:
    """A case as each of the two sees it, in the same slices."""
    name = str(compared.a[case_index]["case"])
    wholes = [next(one.cohort.where(_is(name)).wholes()) for one in judged]
    answers = [one.find(whole) for one, whole in zip(judged, wholes, strict=True)]
    image = read_image(wholes[0].case.image, nan=0.0).array
    blank = np.zeros(image.shape[1:], np.int64)
    masks = [blank if answer.mask is None else answer.mask.numpy() for answer in answers]
    truth = wholes[0].mask.numpy() if answers[0].mask is not None else blank
    marked = np.maximum(truth, np.maximum(*masks))
    made = []
    for side, (answer, mask) in enumerate(zip(answers, masks, strict=True)):
        score = scores_of((compared.a, compared.b)[side][case_index])[compared.of_cases]
        words = (compared.names[side], f"{compared.of_cases} {score:.3f}")
        if answer.boxes is not None:
            made.append(Picture(*words, draw_boxes(plane(image), wholes[side].boxes, answer.boxes)))
        else:
            shown = image if not answer.maps or answer.mask is not None else _stack(answer)
            many = len(getattr(judged[0].task, "names", ()))
            made.append(overlay_picture(shown, truth, mask, marked, words=words, most=SLICES, classes=many))
    for one in judged:
        one.cohort.prepared.memory.clear()
    return made[0], made[1]


def _stack(answer: Answer) -> NDArray[np.generic]:
    """An image that was made: (C, *shape)."""
    return np.stack([channel.numpy() for channel in answer.maps.values()])


def _is(name: str) -> Callable[[Case], bool]:
    return lambda case: case.name == name
