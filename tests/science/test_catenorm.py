"""CateNorm beside batch normalisation on brains of several sites that are trained on together, and
on as many sites without a shift.

Written down before the first run, for the mean Dice over seeds, sites and test subjects (the paper
gains 0.005 to 0.01, table 2):

- multi-site: the second pass beats batch normalisation by 0.005 at least;
- control, three sites with one scanner: it differs from batch normalisation by 0.005 at most;
- the second pass is no worse than the first in either, by more than 0.002.

CateNorm takes two steps in each iteration after its warm-up, so the control also tells what the
further steps alone bring.

In the first run the multi-site gain reached its margin, but one seed of the three lost; the
control's gain missed its margin, by a fiftieth of it, and was half as large as the multi-site one.
So that CateNorm answers the shift is not shown here: these two are printed as a record, margins as
they were, and the third, which held for each seed, is asserted.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tests.science.judge import tissue_dice
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.catenorm import CateNorm
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(1200)]

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


def test_catenorm_on_several_sites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gains = {}
    for name, shifts in COHORTS.items():
        manifest = write_brain(tmp_path / name, sites=dict(zip("abc", shifts, strict=True)), subjects=SUBJECTS, size=32)
        cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))
        each = [scores(cohort, seed) for seed in range(SEEDS)]
        means = {row: fmean(one[row] for one in each) for row in each[0]}
        gains[name] = means["CateNorm second-pass"] - means["BN trained"]
        with capsys.disabled():
            told = "; ".join(
                f"{row} {' '.join(f'{one[row]:.4f}' for one in each)}, mean {means[row]:.4f}" for row in means
            )
            print(f"\n{name}: {told}; gain {gains[name]:+.4f}", end="")
        assert means["CateNorm second-pass"] >= means["CateNorm first-pass"] - 0.002
    with capsys.disabled():
        print(
            f"\nmulti-site margin reached: {gains['multi-site'] >= 0.005}; control margin kept: "
            f"{abs(gains['control']) <= 0.005}"
        )
