"""Pre-training on unlabelled volumes with a sulcus against none, with few labels.

Written down before the first run, for the mean Dice of sulcus and skeleton over 5 seeds:

- with 10 % of the labels at least one of the pretexts, tuned in full, beats the training from
  scratch of as many steps by 0.02;
- it is no gain of more steps: at the control, whose pool is noise without any anatomy, no pretext
  gains more than 0.02.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from tests.science.judge import halves
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.finetune import Finetune
from allograft.methods.target_supervised import TargetSupervised
from allograft.metrics.segmentation import dice
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario, parse_recipe
from allograft.tasks.classification import Classification
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Multitask(
    Segmentation(("sulci", "sulcus")),
    Classification(("absent", "small", "present")),
    weights={"dice": 0.85, "cross_entropy": 0.0, "label_cross_entropy": 0.15},
)
SEEDS, LABELLED, STEPS, EPOCHS = 5, 4, 60, 15
MARGIN, TOLERANCE = 0.02, 0.02
PRETEXTS = ("reconstruction", "contrastive", "adversarial")
NETWORK = {"upsampling_head": {"network": {"dynunet": {"channels": [8, 16, 32]}}}}


def mask_dice(predictor: Any, cohort: Cohort) -> float:
    """Mean Dice over images and the classes that either has."""
    found = []
    for case in map(cohort.case, range(len(cohort))):
        truth: Any = case.labels["mask"]
        guess = predictor(case.unlabelled())["mask"].argmax(1, keepdim=True)
        found += [dice(guess == value, truth == value) for value in (1, 2) if (truth == value).any()]
    return mean(found)


def scores(cohort: Cohort, pool: Cohort, seed: int, folder: Path) -> dict[str, float]:
    """The Dice of each pretext, tuned in full, and of the training from scratch."""
    torch.manual_seed(seed)
    ((name, arguments),) = NETWORK.items()
    spec = {"build": {name: {"in_channels": 1, "outputs": dict(TASK.outputs), **arguments}}}
    network, (training, test) = build(spec), halves(cohort)
    labelled = training.of(np.random.default_rng(seed).permutation(training.subjects)[:LABELLED].tolist())
    budget = Budget(steps=STEPS, adapt_steps=STEPS, batch_size=4, steps_per_epoch=10)
    context = replace(a_context(folder, seed=seed, budget=budget, optimizer={"adam": {"lr": 2e-3}}), task=TASK)
    scenario = Scenario(target=(labelled,), pool=(pool.unlabelled(),), sites=cohort.sites)
    rows: dict[str, Any] = {name: Finetune(first=parse_recipe({name: {"epochs": EPOCHS}})) for name in PRETEXTS}
    made = {}
    for row, recipe in {"scratch": TargetSupervised(), **rows}.items():
        stages = list(context.run(recipe, scenario, network))
        made[row] = mask_dice(stages[-1].predictor, test)
    return made


def read(manifest: Path) -> Cohort:
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Pool -> seed -> scores."""
    folder = tmp_path_factory.mktemp("pretexts")
    manifest = write_brain(folder / "brain", subjects=56, size=64, sites={"a": "none"}, structure="sulcus")
    cohort = read(manifest)
    pool = halves(cohort)[0]
    noise = read(_noise(folder / "noise", len(pool)))
    made = {
        name: [scores(cohort, images, seed, folder / name / str(seed)) for seed in range(SEEDS)]
        for name, images in (("brains", pool), ("noise", noise))
    }
    keep("pretexts", [line for name, each in made.items() for line in lines(name, each)])
    return made


def _noise(folder: Path, count: int) -> Path:
    from tests.unit.tiny import write_photographs

    return write_photographs(folder, {"a": count}, size=(64, 64))


def test_a_pretext_gains_where_labels_are_few(found: dict[str, list[dict[str, float]]]) -> None:
    means = {row: mean(one[row] for one in found["brains"]) for row in found["brains"][0]}
    print(means)
    assert max(means[name] for name in PRETEXTS) >= means["scratch"] + MARGIN


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="0.099 from scratch, 0.154 reconstruction, 0.192 contrastive, 0.199 adversarial: with 60 steps from "
    "scratch, more steps on noise help too (a pool of brains: 0.296, 0.205, 0.241)",
)
def test_noise_teaches_nothing(found: dict[str, list[dict[str, float]]]) -> None:
    means = {row: mean(one[row] for one in found["noise"]) for row in found["noise"][0]}
    print(means)
    assert max(means[name] for name in PRETEXTS) <= means["scratch"] + TOLERANCE
