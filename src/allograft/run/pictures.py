"""The pictures of a report: what the chosen models find on test images, beside the truth, and where
they disagree without one."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from allograft.results.models import model_folder
from allograft.results.select import Chosen, Line
from allograft.seeds import Seeds
from allograft.study.parts import shared_folder
from allograft.study.world import World
from allograft.tasks import Answer

WANTED = ("worst", "median", "best")
UNLABELLED = ("surest", "median", "least sure")
SLICES, MOST_SLICES = 9, 13
"""Slices of a volume, and of the worst one."""
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


def pictures_of(
    out: Path, world: World, table: Sequence[Line], template: nn.Module | None = None
) -> dict[PictureKey, list[Picture]]:
    """Worst, median and best test case of every finished line at its target, where masks are
    sought.

    Where the target has no labels: the cases the model is surest and least sure of, without a
    truth, and where the lines disagree most.

    Args:
        template: the user's own network, if any.
    """
    outputs = world.study.made_task.outputs
    if not {"mask", "boxes"} & outputs.keys():
        return {}
    models, known = Models(out, world, table, template), ordinals(table)
    drawn = {(line.title, line.target): _pictures(models, line, known) for line in table}
    if "mask" in outputs:
        drawn |= {
            (DISAGREEMENT, question.name): _disputed(models, question.name, known) for question in world.study.questions
        }
    return {key: every for key, every in drawn.items() if every}


def _pictures(models: Models, line: Line, known: dict[str, str]) -> list[Picture]:
    folder, run = models.folder(line), line.best_run
    if folder is None or run is None:
        return []
    cases = [case for record in run.tests[line.target][:1] for case in record.cases]
    is_boxes = "boxes" in models.world.study.made_task.outputs
    words, key = WANTED, "f1" if is_boxes else models.world.study.made_task.headline
    if not any(case.get(key) is not None for case in cases):
        words, key = UNLABELLED, "entropy"
    scores = {case["case"]: case[key] for case in cases if case.get(key) is not None}
    subjects = {case["case"]: known[str(case["subject"])] for case in cases}
    ranked = sorted(scores, key=lambda name: (scores[name], name))
    if not ranked:
        return []
    model = models.load(folder)
    chosen = zip(words, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True)
    draw = _boxes if is_boxes else _overlay
    drawn = [draw(models, model, name, word, f"{subjects[name]}, {key} {scores[name]:.3f}") for word, name in chosen]
    return drawn if is_boxes else [*drawn, *_along_the_stream(models, run, known)]


def _along_the_stream(models: Models, run: Chosen, known: dict[str, str]) -> list[Picture]:
    """One case of the first stage of a stream after each stage of training (fig. 4 of ODEx)."""
    if not models.world.study.stream:
        return []
    tested = models.world.part(models.world.study.phases[0][0], "test", 0)
    case = min(tested.cases, key=lambda one: one.name)
    finished = Store(shared_folder(models.out) / "units" / run.row.unit, False, models.template).stages()
    return [
        _overlay(
            models,
            models.load(stage.predictor.folder),
            case.name,
            f"after {stage.name}",
            known.get(case.subject, ""),
        )
        for stage in finished or ()
        if isinstance(stage.predictor, Kept)
    ]


def _boxes(models: Models, model: Loaded, name: str, title: str, caption: str) -> Picture:
    boxes, cohort = models.answer(model, name).boxes, models.world.named(name)
    assert boxes is not None
    truth = cohort.whole(0).boxes if "boxes" in cohort.cases[0].labels else None
    return Picture(title, caption, draw_boxes(plane(models.image(name), 0), truth, boxes))


def _overlay(models: Models, model: Loaded, name: str, title: str, caption: str) -> Picture:
    image, found, truth = models.image(name), models.find(model, name), models.truth(name)
    marked = found if truth is None else np.maximum(truth, found)
    most = MOST_SLICES if title == WANTED[0] else SLICES
    return overlay_picture(image, truth, found, marked, words=(title, caption), most=most)


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
            top = heapq.nlargest(DISPUTED, [*top, (score, name, dissent(counts))], key=lambda one: (one[0], one[1]))[
                ::-1
            ]
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
