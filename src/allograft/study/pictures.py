"""The overlays of a report: what the chosen models find on test images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import nn

from allograft.batch import Batch
from allograft.cohort.readers import read_image
from allograft.predictor import load_predictor
from allograft.predictor.model import CHUNK, whole_prediction
from allograft.study.models import model_name
from allograft.study.plan import World
from allograft.study.report import Picture, draw_overlay, plane, slice_of
from allograft.study.select import Line

WANTED = ("worst", "median", "best")


def pictures_of(out: Path, world: World, table: Sequence[Line], template: nn.Module | None = None) -> dict[tuple[str, str], list[Picture]]:
    """Worst, median and best test case of every finished line at its target; ``template`` is the user's own network, if any."""
    return {(line.title, line.target): _pictures(out, world, line, template) for line in table if line.best_run is not None}


def _pictures(out: Path, world: World, line: Line, template: nn.Module | None) -> list[Picture]:
    run = line.best_run
    folder = out / "models" / model_name(line)
    if run is None or line.target not in run.tests or not (folder / "card.json").exists():
        return []
    headline = world.study.made_task.headline
    cases = {case["case"]: case for record in run.tests[line.target][:1] for case in record.cases if case[headline] is not None}
    ranked = sorted(cases, key=lambda name: cases[name][headline])
    if not ranked:
        return []
    predictor, _ = load_predictor(folder, template=template)
    made = []
    for word, name in zip(WANTED, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True):
        picture = _draw(world, predictor, name)
        if picture is not None:
            made.append(Picture(word, f"{headline} {cases[name][headline]:.3f}", picture))
    return made


def _draw(world: World, predictor: object, name: str) -> bytes | None:
    task = world.study.made_task
    if task.key != "mask":
        return None
    cohort = world.cohort.where(lambda case: case.name == name)
    hidden: Batch = cohort.unlabelled().whole(0)
    prediction = whole_prediction(predictor, hidden, CHUNK)  # type: ignore[arg-type]
    found = task.probabilities(prediction, cohort, 0).argmax(0).numpy()
    truth = cohort.reference(0).mask.numpy()
    image = read_image(cohort.cases[0].image).array
    index = slice_of(image, truth)
    return draw_overlay(plane(image, index), plane(truth[None], index), plane(found[None], index))
