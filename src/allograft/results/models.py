"""The models a study hands over: one folder a line of its table, with a card that says how it came
about."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from allograft import tree
from allograft.cohort import Case
from allograft.cohort.prepared_images import file_hash
from allograft.context.lock import locked
from allograft.errors import ModelError
from allograft.predictor.card import read_card
from allograft.recipe import total_needs
from allograft.results.deployment import Source, add_deployment
from allograft.results.select import RULES, Chosen, Line
from allograft.results.sentence import unfinished
from allograft.results.standing import Standing
from allograft.study.cohorts import facts_of
from allograft.study.parts import shared_folder
from allograft.study.plan import Row, scenario_of
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tree import plain, write_json


def model_name(line: Line) -> str:
    """``finetune-scope-top@chase``, safe as a folder name."""
    words = re.sub(r"[^A-Za-z0-9_.]+", "-", line.title).strip("-")
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", line.target)
    return f"{words}@{safe}" + (
        "" if safe == line.target else f".{tree.content_hash(line.target)[:6]}"
    )  # two targets never share a folder


def model_folder(out: Path, line: Line) -> Path:
    """``OUT/models/finetune-scope-top@chase``; of a part of a study, in the study's folder with the
    part's name behind."""
    root = shared_folder(out)
    return root / "models" / (model_name(line) if root == out else f"{model_name(line)}.{out.name}")


def export_models(
    out: Path,
    world: World,
    now: Standing,
    units: Path,
    *,
    template: nn.Module | None = None,
    device: str | torch.device = "cpu",
) -> dict[tuple[str, str], Path]:
    """Copy the chosen stage of every finished line to its ``model_folder``, complete its card, and
    add what it knows of its validation (``add_deployment``).

    One process at a time: those that share a folder finish together.

    Args:
        template: the user's own network.
        device: where validation cases are predicted.
    """
    folders = {}
    with locked(shared_folder(out) / "models.lock"):
        for line in now.lines:
            run = line.best_run
            if run is None:
                continue
            stage = units / run.row.unit / "stages" / run.stage
            if not (stage / "card.json").exists():
                continue
            folder = model_folder(out, line)
            part = folder.with_name(f".{folder.name}.part")
            tree.remove(part)
            tree.copy_folder(stage, part)
            stated = {**facts(world, run.row, out), **_scores(world.study, run), **_verdict(now, line)}
            write_json(part / "card.json", {**read_card(stage), **stated})
            add_deployment(part, Source(world, run.row, run.validation, template, device), earlier=folder)
            tree.remove(folder)
            part.rename(folder)
            folders[line.title, line.target] = folder
    return folders


def facts(world: World, row: Row, out: Path) -> dict[str, Any]:
    """What a card says of how images are prepared, and of what the model has seen."""
    study, cohort = world.study, world.cohort_of(row.question.sites[0])
    return {
        "intended_use": "research use only, not a medical device",
        "task": study.task,
        **facts_of(cohort),
        "channels": cohort.prepared.image(cohort.cases[0])[0].shape[0],
        "target": row.target,
        "training_images": training_images(world, row),
        "start": study.start
        if study.start == "scratch"
        else json.loads((out / "start.json").read_text(encoding="utf-8")),
    }


def _scores(study: Study, run: Chosen) -> dict[str, Any]:
    return {
        "unit": run.row.unit,
        "stage": run.stage,
        "protocol": {
            "selection": f"{study.selection}: {RULES[study.selection]}",
            "seeds": study.seeds,
            "test": plain(study.test),
            "target_labels": plain(study.target_labels),
        },
        "metrics": {site: [record.metrics for record in records] for site, records in run.tests.items()},
    }


def _verdict(now: Standing, line: Line) -> dict[str, Any]:
    """What the study says of the model: the sentence of its target, and what the verdict says of
    its row."""
    verdict = now.verdicts.get(line.target)
    if verdict is None:
        return {"verdict": {"sentence": unfinished(now.done, now.total)}}
    stated = {"sentence": verdict.sentence, "action": verdict.action, "this_row": line.verdict}
    return {
        "verdict": {**stated, "marks": list(verdict.marks.get(line.title, ())), "rules_version": verdict.rules_version}
    }


def training_images(world: World, row: Row) -> list[str]:
    """Hashes of every image file that the row's recipe could see, without names: a later judge
    refuses them as test images."""
    seen = scenario_of(world, row).narrowed(total_needs(row.recipe))
    cohorts = (*seen.source, *seen.target, *seen.pool, *seen.stream)
    return sorted({file_hash(path) for cohort in cohorts for case in cohort.cases for path in case.image})


def predict_command(folder: Path) -> str:
    """What to copy into a terminal."""
    return f"allograft predict {folder} IMAGES -o predictions"


def refuse_training_images(card: Mapping[str, Any], cases: Iterable[Case], folder: Path) -> None:
    """Raise when a model was trained on an image that it is to be judged on."""
    training_images = set(card.get("training_images", ()))
    known = [case.name for case in cases if any(file_hash(path) in training_images for path in case.image)]
    if known:
        raise ModelError(
            f"{folder}: was trained on {len(known)} of these images, for example '{known[0]}'; a score on them "
            "means nothing: remove them from the manifest"
        )
