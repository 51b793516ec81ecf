"""CateNorm beside batch normalisation on brains of several sites that are trained on together, and
on as many sites without a shift.

Written down before the first run, for the mean Dice over seeds, sites and test subjects (the paper
gains 0.005 to 0.01, table 2):

- multi-site: the second pass beats batch normalisation by 0.005 at least;
- control, three sites with one scanner: it differs from batch normalisation by 0.005 at most;
- the second pass is no worse than the first in either, by more than 0.002.

CateNorm takes two steps in each iteration after its warm-up, so the control also tells what the
further steps alone bring.

In the first run, whose Dice had no squares in its denominators, the multi-site gain reached its
margin (+0.0098, one seed of three lost) and the control's missed it (+0.0051). With the paper's
squares the two were +0.0041 and +0.0115 in an earlier version, and are +0.0145 and +0.0072 with
today's draws: the control gains half as much, so that CateNorm answers the shift is not shown here.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import pytest
import torch
from tests.science.judge import tissue_dice
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.catenorm import CateNorm
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Segmentation(("white", "grey"))
SEEDS, TRAIN, SUBJECTS = 3, 8, 16
COHORTS = {"multi-site": ("none", "medium", "severe"), "control": ("none", "none", "none")}
ROWS = {"BN": Supervised(), "CateNorm": CateNorm()}


def scores(cohort: Cohort, seed: int) -> dict[str, float]:
    """Row and stage -> Dice; all sites are trained on together and tested on other subjects."""
    sites = [cohort.site(site) for site in "abc"]
    scenario = Scenario(tuple(replace(site, cases=site.cases[:TRAIN]) for site in sites), sites=tuple("abc"))
    tests = [replace(site, cases=site.cases[TRAIN:]) for site in sites]
    found = {}
    for name, recipe in ROWS.items():
        torch.manual_seed(seed)
        arguments = {"in_channels": 1, "outputs": TASK.outputs, "channels": [8, 16, 32], "norm": "batch"}
        network = build({"build": {"unet": arguments}})
        budget = Budget(steps=150, batch_size=9)
        context = replace(a_context(seed=seed, budget=budget, optimizer={"adam": {"lr": 3e-3}}), task=TASK)
        for stage in recipe.run(scenario, network, context):  # type: ignore[attr-defined]
            found[f"{name} {stage.name}"] = tissue_dice(stage.predictor, *tests)
    return found


@pytest.fixture(scope="module")
def means(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Cohort -> row and stage -> mean Dice over seeds, printed with each seed's."""
    found, kept, folder = {}, [], tmp_path_factory.mktemp("cohorts")
    for name, shifts in COHORTS.items():
        manifest = write_brain(folder / name, sites=dict(zip("abc", shifts, strict=True)), subjects=SUBJECTS, size=32)
        cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))
        each = [scores(cohort, seed) for seed in range(SEEDS)]
        found[name] = {row: fmean(one[row] for one in each) for row in each[0]}
        kept += lines(name, each)
        told = (f"{row} {' '.join(f'{one[row]:.4f}' for one in each)}, mean {found[name][row]:.4f}" for row in each[0])
        print(f"\n{name}: {'; '.join(told)}; gain {gain(found[name]):+.4f}", end="")
    keep("catenorm", kept)
    return found


def gain(of: dict[str, float]) -> float:
    """Of the second pass over batch normalisation."""
    return of["CateNorm second-pass"] - of["BN trained"]


@pytest.mark.parametrize("name", COHORTS)
def test_the_second_pass_is_no_worse_than_the_first(name: str, means: dict[str, dict[str, float]]) -> None:
    assert means[name]["CateNorm second-pass"] >= means[name]["CateNorm first-pass"] - 0.002


def test_several_sites_gain(means: dict[str, dict[str, float]]) -> None:
    assert gain(means["multi-site"]) >= 0.005


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="gains 0.0072 where there is no shift, more than 0.005")
def test_sites_without_a_shift_do_not(means: dict[str, dict[str, float]]) -> None:
    assert abs(gain(means["control"])) <= 0.005
