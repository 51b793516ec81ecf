"""SISSI on phantom cells: of the target's training boxes 40 % are missing and the others moved.

Written down before the first run, for the means over seeds of AP and AR on test images with true
boxes, at the noisy target and at a control with the same microscope and clean boxes:

- at the noisy target, A + SISSI (strong blur, correction from the end of early learning) beats the
  usual self-training (the same without cloning) by 0.03 AP and by 0.03 AR at least;
- at the control it neither gains nor loses more than 0.02 AP against it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.sissi import Sissi
from allograft.networks import build
from allograft.phantoms.cells import write_cells
from allograft.predictor.whole import case_prediction
from allograft.recipe import Scenario
from allograft.tasks.detection import Detection

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Detection(("cell",))
SEEDS = 1
"""Of five that are wanted: seed 0 is what has been run. A row whose correction begins early takes five
minutes, one whose correction never begins takes one."""
TARGETS = {"b": "missing boxes", "d": "clean boxes"}
FILES = {"b": "sissi", "d": "sissi_control"}
METRICS = ("ap", "ar")
ROWS = {"self-training": Sissi(background="none"), "A + SISSI": Sissi(background="strong")}


def scores(cohort: Cohort, target: str, seed: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Each row's metrics on a target's test images, and the epoch at which its correction began."""
    torch.manual_seed(seed)
    arguments = {"backbone": "tiny", "anchors": [8, 12, 16], "detections": 60}
    network = build({"build": {"faster_rcnn": {"in_channels": 1, "outputs": dict(TASK.outputs), **arguments}}})
    budget = Budget(steps=1, adapt_steps=240, batch_size=8)
    context = replace(a_context(folder, seed=seed, budget=budget, optimizer={"adam": {"lr": 1e-3}}), task=TASK)
    train, test = (cohort.where(lambda case, part=part: case.split == part) for part in ("train", "test"))  # type: ignore[misc]
    scenario = Scenario((train.site("a"),), (train.site(target),), sites=("a", target))
    made = {}
    for name, recipe in ROWS.items():
        *_, last = context.run(recipe, scenario, network)
        wholes = test.site(target).wholes()
        cases = [dict(TASK.measure(case_prediction(last.predictor, whole, TASK), whole)) for whole in wholes]
        made[name] = {**TASK.aggregate(cases), "start": last.facts["start_epoch"]}
    return made


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, dict[str, float]]]:
    """Target -> row -> the means of AP and AR over seeds, printed with each seed's and kept, one
    file a target."""
    folder = tmp_path_factory.mktemp("cells")
    manifest = write_cells(folder / "cohort", subjects=40)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))

    @cache
    def at(target: str) -> dict[str, dict[str, float]]:
        each = [scores(cohort, target, seed, folder / "units") for seed in range(SEEDS)]
        keep_scores(target, each)
        print(f"\n{TARGETS[target]}: {each}", end="")
        return {name: {metric: mean(one[name][metric] or 0.0 for one in each) for metric in METRICS} for name in ROWS}

    return at


def keep_scores(target: str, each: Sequence[dict[str, dict[str, Any]]]) -> None:
    """Keep AP and AR of each row and seed."""
    of = {metric: [{name: float(one[name][metric] or 0.0) for name in ROWS} for one in each] for metric in METRICS}
    keep(FILES[target], [line for metric in METRICS for line in lines(target, of[metric], metric)])


def gain(at: dict[str, dict[str, float]], metric: str) -> float:
    """Of A + SISSI over the usual self-training."""
    return at["A + SISSI"][metric] - at["self-training"][metric]


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="seed 0, the only one run: loses 0.022; its correction began after 6 epochs, that of the other row never",
)
def test_missing_boxes_gain_ap(means: Callable[[str], dict[str, dict[str, float]]]) -> None:
    assert gain(means("b"), "ap") >= 0.03


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="seed 0, the only one run: loses 0.016; its correction began after 6 epochs, that of the other row never",
)
def test_missing_boxes_gain_ar(means: Callable[[str], dict[str, dict[str, float]]]) -> None:
    assert gain(means("b"), "ar") >= 0.03


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="seed 0, the only one run: gains 0.073")
def test_clean_boxes_neither_gain_nor_lose(means: Callable[[str], dict[str, dict[str, float]]]) -> None:
    assert abs(gain(means("d"), "ap")) <= 0.02
