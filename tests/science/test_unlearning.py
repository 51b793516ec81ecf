"""Unlearning of skin tone on the skin phantom, beside plain supervised training.

At the source a melanoma is on light skin, and a naevus on dark skin, four times in five: partial
confounding. At the site judged, with the same dermatoscope, neither goes with the other. The gap is
what tone alone does to a score: over both classes, the mean difference between light and dark skin
of the mean chance of melanoma that the model gives to lesions of that class.

Written down before the first run, for means over three seeds, and what the kept run has:

- plain supervised training has a gap of 0.10 at least (else there is nothing to unlearn): held,
  0.28 at AUROC 0.76;
- each method's gap is smaller than that by 0.03 at least: held, LNTL 0.08, TABE 0.22, CLGR 0.20;
- at the cost of 0.05 of the overall AUROC at most: did NOT hold, LNTL 0.50, TABE 0.56, CLGR 0.61. A
  model that separates lesions less well has a smaller gap for that alone, so how much of the
  shrinking is fairness is open;
- on the control, where the source is not confounded, none gains more than 0.03 AUROC: held for LNTL
  0.48 and CLGR 0.74 (plain 0.87), did NOT hold for TABE, 0.905, a gain of 0.033;
- on the control no gap differs from plain training's, 0.10, by more than 0.05: held for LNTL 0.11
  and TABE 0.09, did NOT hold for CLGR, 0.02.

Seeds lie far apart: the gap of plain training is 0.35, 0.48 and 0.00. An earlier version had other
numbers (plain 0.33 at AUROC 0.83; LNTL 0.07 at 0.57, TABE 0.14 at 0.62, CLGR 0.07 at 0.63), and both
margins of TABE at the control the other way round. With gentler weights (reversal and entropy 0.1,
confusion 0.3) its gaps were LNTL 0.38, TABE 0.19, CLGR 0.18 at AUROC 0.76, 0.73, 0.70, and the order
of scores still gave away the tone within a class: so short a training makes scores flatter rather
than blind to the tone.

The published step sizes (SGD 3e-4 and 3e-3, for thousands of steps from ImageNet weights) move a
tiny network nowhere in 150 steps, so weights and step sizes are larger here, alike for all methods,
and chosen before the first run. The published defaults are no part of the claim.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.science.kept import keep
from tests.unit.tiny import a_context
from torch import Tensor

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.supervised import Supervised
from allograft.methods.unlearning import Unlearning
from allograft.networks import build
from allograft.phantoms.skin import CLASSES, LIGHT, write_skin
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Classification(CLASSES)
SEEDS = 3
SETTINGS = {"confounded": 0.6, "control": 0.0}
GAP, SHRINKS, COST = 0.10, 0.03, 0.05
CONTROL_GAIN, CONTROL_GAP = 0.03, 0.05
STRONG: dict[str, Any] = {
    "attributes": ("tone",),
    "reversal": 1.0,
    "entropy": 0.3,
    "confusion": 1.0,
    "head_lr": 0.1,
    "encoder_lr": 0.01,
}
ROWS: Mapping[str, Any] = {
    "supervised": Supervised(),
    "lntl": Unlearning("lntl", **STRONG),
    "tabe": Unlearning("tabe", **STRONG),
    "clgr": Unlearning("clgr", **STRONG),
}
METHODS = [name for name in ROWS if name != "supervised"]


@dataclass(frozen=True)
class Judged:
    """The test site at once: images (N, 3, 32, 32), labels (N,), whether skin is light (N,)."""

    image: Tensor
    label: Tensor
    light: Tensor


def judged(cohort: Cohort) -> Judged:
    batches = [cohort.case(number) for number in range(len(cohort))]
    labels = torch.cat([torch.as_tensor(one.labels["label"]) for one in batches])
    return Judged(
        torch.cat([one.image for one in batches]),
        labels,
        torch.cat([one.attributes["tone"] for one in batches]) <= LIGHT,
    )


def scores(source: Cohort, there: Judged, recipe: Any, seed: int) -> dict[str, float]:
    """Train at the source; at the other site the gap, how well the score tells the tone within a
    class (0 to 1), and the AUROC."""
    torch.manual_seed(seed)
    spec = {"in_channels": 3, "outputs": {"label": 2}, "channels": [8, 16, 32], "hidden": 16, "dropout": 0.0}
    context = a_context(seed=seed, budget=Budget(steps=150, batch_size=16), optimizer={"adam": {"lr": 3e-3}})
    run = recipe.run(
        Scenario(source=(source,), sites=("a",)), build({"build": {"stain_cnn": spec}}), replace(context, task=TASK)
    )
    network = next(run).predictor.network.eval()
    with torch.no_grad():
        chance = network(there.image)["label"].softmax(1)[:, 1]
    apart = [
        chance[(there.label == label) & there.light].mean() - chance[(there.label == label) & ~there.light].mean()
        for label in range(2)
    ]
    told = [roc_auc_score(there.light[there.label == label], chance[there.label == label]) for label in range(2)]
    return {
        "gap": float(sum(abs(one) for one in apart)) / 2,
        "tone told": float(sum(abs(2 * one - 1) for one in told)) / 2,
        "auroc": float(roc_auc_score(there.label, chance)),
    }


def seeds(folder: Path, confounding: float) -> dict[str, list[dict[str, float]]]:
    """Row -> its gap, how well it tells the tone, and its AUROC, per seed."""
    options: dict[str, Any] = {"sites": {"a": "none", "d": "none"}, "subjects": 160, "size": 32, "hairy": 0.0}
    manifest = write_skin(folder, confounding={"a": confounding}, **options)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
    there = judged(cohort.site("d"))
    return {
        name: [scores(cohort.site("a"), there, recipe, seed) for seed in range(SEEDS)] for name, recipe in ROWS.items()
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, dict[str, float]]]:
    """Setting -> row -> means over seeds."""
    made = {name: seeds(tmp_path_factory.mktemp(name), value) for name, value in SETTINGS.items()}
    keep(
        "unlearning",
        [
            (setting, name, key, seed, one[key])
            for setting, rows in made.items()
            for name, each in rows.items()
            for seed, one in enumerate(each)
            for key in one
        ],
    )
    means = {
        setting: {name: {key: mean(one[key] for one in each) for key in each[0]} for name, each in rows.items()}
        for setting, rows in made.items()
    }
    print(means)
    return means


@pytest.fixture(scope="module")
def confounded(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return found["confounded"]


@pytest.fixture(scope="module")
def control(found: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, float]]:
    return found["control"]


def test_plain_training_has_a_gap(confounded: dict[str, dict[str, float]]) -> None:
    assert confounded["supervised"]["gap"] >= GAP


@pytest.mark.parametrize("name", METHODS)
def test_each_method_shrinks_the_gap_between_tones(name: str, confounded: dict[str, dict[str, float]]) -> None:
    assert confounded[name]["gap"] <= confounded["supervised"]["gap"] - SHRINKS


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="AUROC 0.500 LNTL, 0.559 TABE, 0.609 CLGR, plain training 0.762",
)
@pytest.mark.parametrize("name", METHODS)
def test_a_smaller_gap_costs_little(name: str, confounded: dict[str, dict[str, float]]) -> None:
    assert confounded[name]["auroc"] >= confounded["supervised"]["auroc"] - COST


def missed(name: str, reason: str) -> Any:
    """A method that does not keep to a margin."""
    return pytest.param(name, marks=pytest.mark.xfail(strict=True, raises=AssertionError, reason=reason))


@pytest.mark.parametrize("name", ["lntl", missed("tabe", "AUROC 0.905, plain training 0.872"), "clgr"])
def test_without_confounding_there_is_nothing_to_gain(name: str, control: dict[str, dict[str, float]]) -> None:
    assert control[name]["auroc"] <= control["supervised"]["auroc"] + CONTROL_GAIN


@pytest.mark.parametrize("name", ["lntl", "tabe", missed("clgr", "gap 0.022, plain training 0.103")])
def test_without_confounding_gaps_are_those_of_plain_training(name: str, control: dict[str, dict[str, float]]) -> None:
    assert abs(control[name]["gap"] - control["supervised"]["gap"]) <= CONTROL_GAP
