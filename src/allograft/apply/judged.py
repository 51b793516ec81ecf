"""What can be judged on a manifest: a model, a folder of another tool's masks, or a table of
predictions."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from allograft.apply.model import Model
from allograft.cohort import Case, Coding, Cohort, Preprocessing, Whole
from allograft.cohort.alignment import aligned
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.readers import SUFFIXES, read_mask
from allograft.cohort.readers.files import UNREAD, is_second
from allograft.errors import ModelError
from allograft.predictor.card import sites_of
from allograft.predictor.whole import case_facts, stem
from allograft.results.models import refuse_training_images
from allograft.tasks.task import Answer, Value

T = TypeVar("T")
AS_STORED = Preprocessing(orientation=None, intensity="none", nan=0.0)
"""Images are read for their grid alone, where nothing is predicted."""


@dataclass(frozen=True)
class Judged:
    """Something that answers for the cases of a manifest.

    Args:
        task: how its answers are measured.
        cohort: the cases, with the truth as the task codes it.
        absent: case -> why it has no answer; "" where it has one.
        measure: a complete case -> its metrics, and what a reader should know of the answer.
        find: a complete case -> the answer on the image's own grid, to be shown.
    """

    task: Any
    cohort: Cohort
    absent: Callable[[Case], str]
    measure: Callable[[Whole], tuple[Mapping[str, Value], Sequence[str]]]
    find: Callable[[Whole], Answer]

    @property
    def labelled(self) -> Cohort:
        """The cases that can be judged."""
        return self.cohort.labelled(self.task.key)

    def row(self, whole: Whole) -> tuple[dict[str, Any], Sequence[str]]:
        """A case's metrics with its name, subject and site; the memory of its images is given
        back."""
        case, (measured, warnings) = whole.case, self.measure(whole)
        doubts = [text for topic, text in self.cohort.prepared.notes(case).items() if topic == "sform"]
        self.cohort.prepared.memory.clear()  # one image at a time
        return {"case": case.name, "subject": case.subject, "site": case.site, **measured}, [*doubts, *warnings]


def is_mask_folder(folder: Path) -> bool:
    """Whether a folder holds images at any depth."""
    return os.path.isdir(folder) and any(path.name.lower().endswith(SUFFIXES) for path in folder.rglob("*"))


def judged_model(model: Model, folder: Path, manifest: Path, task: Any) -> Judged:
    """A model's predictions, made as they are asked for.

    Args:
        task: the model's own, with how it is to be measured.

    Raises:
        ModelError: an image the model was trained on.
    """
    cohort = Cohort.read(manifest, task.coding)
    prepared = PreparedImages(model.prepared().preprocessing, replace(cohort.prepared.coding))
    cohort = replace(cohort, prepared=prepared, slices=model.slices, sites=sites_of(model.card))
    refuse_training_images(model.card, cohort.cases, folder)

    def measure(whole: Whole) -> tuple[Mapping[str, Value], Sequence[str]]:
        prediction = model.prediction(whole)
        return task.measure(prediction, whole), case_facts(prediction).get("warnings", ())

    def find(whole: Whole) -> Answer:
        answer: Answer = task.answer(model.prediction(whole), whole)
        return answer

    return Judged(task, cohort, lambda case: "", measure, find)


def judged_masks(folder: Path, manifest: Path, task: Any, coding: Coding | None = None) -> Judged:
    """A folder that holds for each image a mask of the same name, or of that name and ``_mask``,
    brought to the image's axes by ``aligned`` or refused.

    Args:
        task: a segmentation.
        coding: what the values of these masks mean; the task's by default.

    Raises:
        ModelError: when a case is asked for whose prediction cannot be told.
    """
    cohort = Cohort.read(manifest, task.coding, preprocessing=AS_STORED)
    files = matching(mask_files(folder), folder, cohort.labelled(task.key).cases)

    def absent(case: Case) -> str:
        bare = Path(stem(case.name)).name
        wanted = f"expected {bare}.png, {bare}_mask.png, .nii.gz or the like"
        return "" if files(case) else f"holds no prediction for '{case.name}'; {wanted}"

    def mask_of(whole: Whole) -> Tensor:
        path = _only(files(whole.case) or [], whole.case)
        stored = aligned(read_mask(path), whole.grid, path, f"its image '{whole.case.name}'")
        return torch.from_numpy((coding or task.coding).mask_to_index(stored.array[0], str(path)))

    def measure(whole: Whole) -> tuple[Mapping[str, Value], Sequence[str]]:
        return task.measure_mask(mask_of(whole), whole), ()

    return Judged(task, cohort, absent, measure, lambda whole: Answer({}, mask_of(whole)))


def mask_files(folder: Path) -> dict[str, list[Path]]:
    """Name below the folder, without ending -> the files of that name."""
    masks: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and path.name.lower().endswith((*SUFFIXES, *UNREAD))
            and not path.name.startswith(".")
            and not is_second(path)
        ):
            masks.setdefault(stem(path.relative_to(folder).as_posix()), []).append(path)
    return masks


def matching(there: Mapping[str, T], folder: Path, cases: Sequence[Case]) -> Callable[[Case], T | None]:
    """Case -> its prediction: by its path, or by its bare name where that is one of a kind on both
    sides; None where there is none.

    Args:
        there: name of a prediction, without ending -> the prediction.
        place: where they are, for errors.
        cases: that have one.

    Raises:
        ModelError: by the function returned, where a bare name could be of several.
    """
    taken = {name for case in cases for name in _names(stem(case.name))}
    owners = Counter(stem(case.name) for case in cases)
    by_name: dict[str, list[str]] = {}
    for name in there:
        if name not in taken or name == Path(name).name:  # one that lies at another case's path is that case's
            by_name.setdefault(Path(name).name, []).append(name)
    asked = Counter(bare_name for case in cases for bare_name in _names(Path(stem(case.name)).name)[1:])

    def find(case: Case) -> T | None:
        name = stem(case.name)
        bare = Path(name).name
        if owners[name] > 1:
            raise ModelError(
                f"{folder}: {owners[name]} cases called '{name}' differ only in their suffix, so it is unknown which "
                "of them a prediction belongs to; rename their images"
            )
        for wanted in _names(name):
            if wanted in there and (wanted == name or wanted not in owners):
                return there[wanted]
        close = ([each for each in by_name.get(bare_name, ()) if each not in owners] for bare_name in _names(bare))
        near = next(filter(None, close), None)
        if near is None:
            return None
        if asked[bare] > 1 or len(near) > 1:
            found = f"{asked[bare]} cases and {len(near)} predictions are called '{bare}'"
            raise ModelError(
                f"{folder}: {found}; expected the prediction of '{case.name}' at {folder / name}.*; store it there"
            )
        return there[near[0]]

    return find


def _names(name: str) -> tuple[str, ...]:
    """What a prediction for an image is called; nnU-Net leaves the channel's number away.

    >>> _names("case_0000")
    ('case_0000_mask', 'case_0000', 'case')
    >>> _names("site/_0000")
    ('site/_0000_mask', 'site/_0000')
    """
    return (f"{name}_mask", name, *([name[:-5]] if re.search(r"[^/]_0000$", name) else []))


def _only(paths: Sequence[Path], case: Case) -> Path:
    if len(paths) > 1:
        raise ModelError(f"{paths[0]}: {paths[1].name} is a prediction for '{case.name}' too; remove one")
    return paths[0]
