"""MixCL on two data sets of brains of which one has the white matter marked and the other the grey
matter, tuned on both tissues with a tenth of the labels.

Written down before the first run, for the mean Dice of both tissues on unseen brains over 3 seeds:

- tuned after MixCL, the network beats the training from scratch of as many steps by 0.02;
- on a pool of noise, whose masks are of no anatomy, MixCL gains no more than 0.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.science.judge import halves, tissue_dice
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.finetune import Finetune
from allograft.methods.mixcl import MixCl
from allograft.methods.target_supervised import TargetSupervised
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Segmentation(("white", "grey"))
SEEDS, LABELLED, STEPS, EPOCHS = 3, 2, 100, 10
UNETR = {"spatial_dims": 2, "image_size": 64, "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}


def read(manifest: Path, values: Mapping[str, tuple[int, ...]]) -> Cohort:
    """With the classes of the task, those without a value unknown to this data set."""
    return Cohort.read(manifest, Coding(mask=dict(values)), preprocessing=Preprocessing(intensity="zscore"))


def one_tissue(folder: Path, value: int, seed: int) -> Path:
    """Brains whose masks hold this value alone."""
    manifest = write_brain(folder, sites={"a": "none"}, subjects=20, seed=seed)
    for file in folder.rglob("*mask*/*.png"):
        mask = np.asarray(Image.open(file))
        Image.fromarray(np.where(mask == value, mask, 0).astype(np.uint8)).save(file)
    return manifest


def scores(cohort: Cohort, pool: tuple[Cohort, ...], seed: int, folder: Path) -> dict[str, float]:
    """The Dice from scratch and after MixCL."""
    torch.manual_seed(seed)
    network = build({"build": {"unetr": {"in_channels": 1, "outputs": dict(TASK.outputs), **UNETR}}})
    training, test = halves(cohort)
    labelled = training.of(np.random.default_rng(seed).permutation(training.subjects)[:LABELLED].tolist())
    budget = Budget(steps=STEPS, adapt_steps=STEPS, batch_size=4, steps_per_epoch=10)
    context = replace(a_context(folder, seed=seed, budget=budget, optimizer={"adamw": {"lr": 1e-3}}), task=TASK)
    scenario = Scenario(target=(labelled,), pool=pool, sites=("a",))
    rows: dict[str, Any] = {"scratch": TargetSupervised(), "mixcl": Finetune(first=MixCl(epochs=EPOCHS))}
    return {
        name: tissue_dice(list(context.run(recipe, scenario, network))[-1].predictor, test)
        for name, recipe in rows.items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Pool -> seed -> scores."""
    folder = tmp_path_factory.mktemp("mixcl")
    cohort = read(write_brain(folder / "both", sites={"a": "none"}, subjects=27), {"white": (1,), "grey": (2,)})
    white = read(one_tissue(folder / "white", 1, seed=1), {"white": (1,), "grey": ()})
    grey = read(one_tissue(folder / "grey", 2, seed=2), {"white": (), "grey": (2,)})
    noise = read(write_photographs(folder / "noise", {"n": 40}, size=(64, 64)), {"white": (1,), "grey": ()})
    made = {
        name: [scores(cohort, pool, seed, folder / name / str(seed)) for seed in range(SEEDS)]
        for name, pool in (("brains", (white, grey)), ("noise", (noise,)))
    }
    keep("mixcl", [line for name, each in made.items() for line in lines(name, each)])
    return made


def gain(seeds: list[dict[str, float]]) -> float:
    return fmean(one["mixcl"] - one["scratch"] for one in seeds)


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="Dice 0.554 from scratch, 0.549 after MixCL: gains of 0.027, 0.006 and -0.048. Where MixCL gains, a pool of "
    "noise gains as much (0.025, 0.006), so it is not the labels that help after 100 steps",
)
def test_labels_of_two_data_sets_help_where_labels_are_few(found: dict[str, list[dict[str, float]]]) -> None:
    print(found["brains"])
    assert gain(found["brains"]) >= 0.02


def test_labels_of_noise_teach_nothing(found: dict[str, list[dict[str, float]]]) -> None:
    print(found["noise"])
    assert gain(found["noise"]) <= 0.02
