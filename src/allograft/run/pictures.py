"""The pictures of a report: what the chosen models find on test images, beside the truth, and where
they disagree without one."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allograft.cohort.readers import read_image
from allograft.cohort.splits import budget_order
from allograft.context.store import Kept, Store
from allograft.grey import plane
from allograft.predictor import load_predictor
from allograft.predictor.card import sites_of
from allograft.predictor.direct import Predictor
from allograft.predictor.whole import case_prediction
from allograft.report.boxes import draw_boxes
from allograft.report.disagreement import dissent, draw_dissent, mean_disagreement, votes
from allograft.report.facts import ordinals
from allograft.report.gallery import DISAGREEMENT, Mask, Picture, PictureKey, overlay_picture, stacked
from allograft.report.made import draw_made
from allograft.results.models import model_folder
from allograft.results.select import Chosen, Line
from allograft.seeds import Seeds
from allograft.study.parts import shared_folder
from allograft.study.world import World
from allograft.tasks import Answer

WANTED = ("worst", "lower quarter", "median", "upper quarter", "best")
UNLABELLED = ("surest", "surer quarter", "median", "less sure quarter", "least sure")
"""Test cases that every row is shown on, by the mean over the rows: of their scores, and without
labels of their entropies."""
SLICES = 9
"""Of a volume."""
DISPUTED, ASKED = 3, 32
"""Images in the map of disagreement, and test images among which they are looked for."""
Loaded = tuple[Predictor, tuple[str, ...]]
"""A model, and the sites as it numbers them."""


@dataclass(frozen=True)
class Models:
    """The models of a table, loaded one at a time; its subjects are known by ordinals."""

    out: Path
    world: World
    table: Sequence[Line]
    template: nn.Module | None

    def folder(self, line: Line) -> Path | None:
        """A finished line's model, if it is there."""
        folder = model_folder(self.out, line)
        there = line.best_run is not None and line.target in line.best_run.tests and (folder / "card.json").exists()
        return folder if there else None

    def load(self, folder: Path) -> Loaded:
        """The model of a folder."""
        predictor, card = load_predictor(folder, template=self.template)
        return predictor, sites_of(card)

    def answer(self, model: Loaded, name: str) -> Answer:
        """What a model says of a case."""
        predictor, sites = model
        whole = replace(self.world.named(name), sites=sites).whole(0)
        task = self.world.study.made_task
        return task.answer(case_prediction(predictor, whole, task), whole)

    def find(self, model: Loaded, name: str) -> Mask:
        """A case's mask on its own grid: (*spatial) class indices."""
        mask = self.answer(model, name).mask
        assert mask is not None
        return mask.numpy()

    def truth(self, name: str) -> Mask | None:
        """A case's true mask, or None."""
        cohort = self.world.named(name)
        return cohort.whole(0).mask.numpy() if "mask" in cohort.cases[0].labels else None

    def image(self, name: str) -> NDArray[np.generic]:
        """(C, *spatial) as stored, or as a stream alters it."""
        case = self.world.named(name).cases[0]
        picture = read_image(case.image, nan=0.0)
        if case.alteration is None:
            return picture.array
        return case.alteration.moved(case.alteration.squeezed(picture.array), picture.spacing, nearest=False)


@dataclass(frozen=True)
class Shown:
    """A case that every row is shown on.

    Args:
        name: the case.
        title: of its pictures: ``worst, S004``.
        marked: (*spatial), what its slices lead through: the truth, or what the first row finds.
    """

    name: str
    title: str
    marked: Mask | None


def pictures_of(
    out: Path, world: World, table: Sequence[Line], template: nn.Module | None = None
) -> dict[PictureKey, list[Picture]]:
    """The same test cases of a target as every finished line sees them, where masks or boxes are
    sought or images made: from the worst to the best by the mean over the lines; of made images
    the median one of each label, where there are several.

    Where the target has no labels: from the cases the lines are surest of to those they are least
    sure of, without a truth, and where the lines disagree most.

    Args:
        template: the user's own network, if any.
    """
    outputs = world.study.made_task.outputs
    if not {"mask", "boxes", "paired"} & outputs.keys():
        return {}
    models, known = Models(out, world, table, template), ordinals(table)
    drawn: dict[PictureKey, list[Picture]] = {}
    for target in (question.name for question in world.study.questions):
        here = [line for line in table if line.target == target and models.folder(line) is not None]
        cases = _shown(models, here, known)
        drawn |= {(line.title, target): _pictures(models, line, cases, known) for line in here}
        if "mask" in outputs:
            drawn[DISAGREEMENT, target] = _disputed(models, target, known)
    return {key: every for key, every in drawn.items() if every}


def _shown(models: Models, here: Sequence[Line], known: Mapping[str, str]) -> list[Shown]:
    """The cases that every line is shown on."""
    each = [_scores(models, line) for line in here]
    shared = set.intersection(*(set(scores) for _, scores in each)) if each else set()
    means = {name: fmean(scores[name] for _, scores in each) for name in shared}
    ranked = sorted(means, key=lambda name: (means[name], name))
    if not ranked:
        return []
    words = WANTED if each[0][0] != "entropy" else UNLABELLED
    subjects = {
        str(case["case"]): known[str(case["subject"])]
        for line in here[:1]
        for records in (line.best_run.tests[line.target] if line.best_run else ())
        for case in records.cases
    }
    return [
        Shown(name, f"{word}, {subjects[name]}", _marked(models, here[0], name))
        for name, word in _of_each_label(models, ranked) or _from_end_to_end(ranked, words)
    ]


def _from_end_to_end(ranked: Sequence[str], words: Sequence[str]) -> list[tuple[str, str]]:
    """Cases at even distances through a ranking, each with its word."""
    places: dict[int, str] = {}
    for order in (0, 4, 2, 1, 3):  # the ends first, where there are few
        places.setdefault(round((len(ranked) - 1) * order / 4), words[order])
    return [(ranked[rank], word) for rank, word in sorted(places.items())]


def _of_each_label(models: Models, ranked: Sequence[str]) -> list[tuple[str, str]]:
    """Of made images the median case of each value of the column ``label`` (Chen and Niethammer
    2023, fig. 3); none of other tasks, or where there is one value, or more than pictures."""
    if "paired" not in models.world.study.made_task.outputs:
        return []
    labels = {case.name: str(case.labels["label"]) for case in models.world.cases() if "label" in case.labels}
    strata: dict[str, list[str]] = {}
    for name in (name for name in ranked if name in labels):
        strata.setdefault(labels[name], []).append(name)
    if not 1 < len(strata) <= len(WANTED):
        return []
    return [(names[len(names) // 2], f"label {label}") for label, names in sorted(strata.items())]


def _marked(models: Models, first: Line, name: str) -> Mask | None:
    if "mask" not in models.world.study.made_task.outputs:
        return None
    truth, folder = models.truth(name), models.folder(first)
    is_blank = truth is None or not (truth > 0).any()
    return truth if not is_blank or folder is None else models.find(models.load(folder), name)


def _scores(models: Models, line: Line) -> tuple[str, dict[str, float]]:
    """What a line's cases are shown by, and its value of each."""
    assert line.best_run is not None
    cases = [case for record in line.best_run.tests[line.target][:1] for case in record.cases]
    outputs = models.world.study.made_task.outputs
    key = "f1" if "boxes" in outputs else models.world.study.made_task.headline
    if not any(case.get(key) is not None for case in cases):
        key = "entropy"
    return key, {str(case["case"]): float(case[key]) for case in cases if case.get(key) is not None}


def _pictures(models: Models, line: Line, cases: Sequence[Shown], known: Mapping[str, str]) -> list[Picture]:
    folder, run = models.folder(line), line.best_run
    if folder is None or run is None:
        return []
    key, scores = _scores(models, line)
    model = models.load(folder)
    captions = [(shown, f"{key} {scores[shown.name]:.3f}") for shown in cases]
    if "boxes" in models.world.study.made_task.outputs:
        return [_boxes(models, model, shown, caption) for shown, caption in captions]
    if "paired" in models.world.study.made_task.outputs:
        return [_made(models, model, shown, caption) for shown, caption in captions]
    return [
        *(_overlay(models, model, shown, caption) for shown, caption in captions),
        *_along_the_stream(models, run, known),
    ]


def _along_the_stream(models: Models, run: Chosen, known: Mapping[str, str]) -> list[Picture]:
    """One case of the first stage of a stream after each stage of training (fig. 4 of ODEx)."""
    if not models.world.study.stream:
        return []
    tested = models.world.part(models.world.study.phases[0][0], "test", 0)
    case = min(tested.cases, key=lambda case_: case_.name)
    finished = Store(shared_folder(models.out) / "units" / run.row.unit, False, models.template).stages()
    return [
        _overlay(
            models,
            models.load(stage.predictor.folder),
            Shown(case.name, f"after {stage.name}", models.truth(case.name)),
            known.get(case.subject, ""),
        )
        for stage in finished or ()
        if isinstance(stage.predictor, Kept)
    ]


def _boxes(models: Models, model: Loaded, shown: Shown, caption: str) -> Picture:
    boxes, cohort = models.answer(model, shown.name).boxes, models.world.named(shown.name)
    assert boxes is not None
    truth = cohort.whole(0).boxes if "boxes" in cohort.cases[0].labels else None
    return Picture(shown.title, caption, draw_boxes(plane(models.image(shown.name), 0), truth, boxes))


def _made(models: Models, model: Loaded, shown: Shown, caption: str) -> Picture:
    image, cohort = models.image(shown.name), models.world.named(shown.name)
    made = np.stack([channel.numpy() for channel in models.answer(model, shown.name).maps.values()])
    truth = cohort.whole(0).paired.numpy() if "paired" in cohort.cases[0].labels else None

    def draw(index: int, window: tuple[float, float] | None) -> bytes:
        true = None if truth is None else plane(truth, index)
        return draw_made(plane(image, index), plane(made, index), true, window)

    # the same slices of every row
    marked = (image > image.mean()).any(0).astype(np.int64)
    return stacked(image, marked, draw, words=(shown.title, caption), most=SLICES)


def _overlay(models: Models, model: Loaded, shown: Shown, caption: str) -> Picture:
    image, predicted, truth = models.image(shown.name), models.find(model, shown.name), models.truth(shown.name)
    # the same slices of every row
    marked = predicted if shown.marked is None else shown.marked
    classes = len(getattr(models.world.study.made_task, "names", ()))
    return overlay_picture(image, truth, predicted, marked, words=(shown.title, caption), most=SLICES, classes=classes)


def _disputed(models: Models, target: str, known: dict[str, str]) -> list[Picture]:
    """The test cases of a target without labels on which the lines differ most."""
    here = [line for line in models.table if line.target == target]
    folders = [folder for line in here if (folder := models.folder(line)) is not None]
    records = [record for line in here if line.best_run for record in line.best_run.tests.get(target, ())[:1]]
    if len(folders) < 2 or any(record.measured for record in records):
        return []
    subjects = {str(case["case"]): known[str(case["subject"])] for record in records for case in record.cases}
    asked = budget_order(sorted(subjects), Seeds(0, ("disputed", target)))[:ASKED]
    loaded = [models.load(folder) for folder in folders]
    top: list[tuple[float, str, NDArray[np.float64]]] = []
    for name in sorted(asked):
        counts = votes([models.find(model, name) for model in loaded])
        score = mean_disagreement(counts)
        if len(top) < DISPUTED or score > top[0][0]:  # the pictures of all others need not be kept
            top = heapq.nlargest(
                DISPUTED, [*top, (score, name, dissent(counts))], key=lambda entry: (entry[0], entry[1])
            )[::-1]
    among = f" of {len(asked)} looked at" if len(asked) < len(subjects) else ""
    titles = (f"most disputed{among}", *(f"number {rank}" for rank in range(2, DISPUTED + 1)))
    ranked = [
        (f"{subjects[name]}, differ at {score:.0%}", name, share) for score, name, share in reversed(top) if score > 0
    ]
    return [
        _heat(models, name, share, title, caption)
        for title, (caption, name, share) in zip(titles, ranked, strict=False)
    ]


def _heat(models: Models, name: str, share: NDArray[np.float64], title: str, caption: str) -> Picture:
    image = models.image(name)

    def draw(index: int, window: tuple[float, float] | None) -> bytes:
        return draw_dissent(plane(image, index), plane(share[None], index).astype(np.float64), window)

    return stacked(image, (share > 0).astype(np.int64), draw, words=(title, caption), most=SLICES)
