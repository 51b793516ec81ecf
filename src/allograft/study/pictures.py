"""The overlays of a report: what the chosen models find on test images, beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

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
UNLABELLED = ("surest", "median", "least sure")


def pictures_of(out: Path, world: World, table: Sequence[Line], template: nn.Module | None = None) -> dict[tuple[str, str], list[Picture]]:
    """Worst, median and best test case of every finished line at its target; none where nothing is segmented.

    Where the target has no labels: the cases the model is surest and least sure of, without a truth.

    Args:
        template: the user's own network, if any.
    """
    if "mask" not in world.study.made_task.outputs:
        return {}
    return {(line.title, line.target): _pictures(out, world, line, template) for line in table if line.best_run is not None}


def _pictures(out: Path, world: World, line: Line, template: nn.Module | None) -> list[Picture]:
    run = line.best_run
    folder = out / "models" / model_name(line)
    if run is None or line.target not in run.tests or not (folder / "card.json").exists():
        return []
    cases = [case for record in run.tests[line.target][:1] for case in record.cases]
    words, key = WANTED, world.study.made_task.headline
    if not any(case.get(key) is not None for case in cases):
        words, key = UNLABELLED, "entropy"
    scores = {case["case"]: case[key] for case in cases if case.get(key) is not None}
    ranked = sorted(scores, key=lambda name: scores[name])
    if not ranked:
        return []
    predictor, _ = load_predictor(folder, template=template)
    chosen = zip(words, (ranked[0], ranked[len(ranked) // 2], ranked[-1]), strict=True)
    return [Picture(word, f"{key} {scores[name]:.3f}", _draw(world, predictor, name)) for word, name in chosen]


def _draw(world: World, predictor: object, name: str) -> bytes:
    task = world.study.made_task
    cohort = world.cohort.where(lambda case: case.name == name)
    hidden: Batch = cohort.unlabelled().whole(0)
    prediction = whole_prediction(predictor, hidden, CHUNK)  # type: ignore[arg-type]
    found = task.answer(prediction, cohort, 0).mask.numpy()
    truth = cohort.reference(0).mask.numpy() if "mask" in cohort.cases[0].labels else None
    image = read_image(cohort.cases[0].image).array
    index = slice_of(image, found if truth is None else truth)
    return draw_overlay(plane(image, index), None if truth is None else plane(truth[None], index), plane(found[None], index))
