"""Stain-AgLr on unseen laboratories of the histology phantom, beside HED augmentation and each of
its losses alone.

Written down before the first run, for the mean AUROC over seeds and over the two shifted
laboratories:

- it beats plain supervised training by 0.05 at least;
- HED augmentation alone, and with either loss alone, do not beat it by more than 0.02;
- at the control laboratory, where the stains are the source's, it gains no more than 0.03, and
  loses no more.

An earlier version, without the paper's elastic deformation in its strong set, had 0.874 for
Stain-AgLr on unseen laboratories, 0.891 for plain supervised training and 0.936 for HED augmentation
alone, so that neither of the first two held. With it, and with other draws, they are 0.969, 0.853 and
0.967, and all three hold; of its two losses only regeneration adds to the augmentation (0.988).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.science.kept import keep
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.stain_aglr import StainAgLr
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.histology import CLASSES, write_histology
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Classification(CLASSES)
SEEDS = 3
ROWS = {
    "supervised": Supervised(),
    "HED": StainAgLr(regeneration=0, consistency=0),
    "HED + regeneration": StainAgLr(consistency=0),
    "HED + consistency": StainAgLr(regeneration=0),
    "Stain-AgLr": StainAgLr(),
}


def areas(cohort: Cohort, recipe: object, seed: int) -> dict[str, float]:
    """Train on laboratory "a"; the AUROC at each other one."""
    torch.manual_seed(seed)
    network = build(
        {"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}, "channels": [8, 16, 32], "hidden": 16}}}
    )
    budget = Budget(steps=200, batch_size=16)
    context = replace(a_context(seed=seed, budget=budget, optimizer={"adam": {"lr": 3e-3}}), task=TASK)
    stage = next(recipe.run(Scenario(source=(cohort.site("a"),), sites=("a",)), network, context))  # type: ignore[attr-defined]
    found = {}
    for site in "bcd":
        there = cohort.site(site)
        cases = [there.case(index) for index in range(len(there))]
        logits = torch.cat([stage.predictor(one.unlabelled())["label"] for one in cases]).softmax(1)[:, 1]
        found[site] = float(roc_auc_score([int(one.labels["label"]) for one in cases], logits))
    return found


def test_stain_aglr_on_unseen_laboratories(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_histology(tmp_path, subjects=80, size=32)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="none"))
    found = {name: [areas(cohort, recipe, seed) for seed in range(SEEDS)] for name, recipe in ROWS.items()}
    moved = {name: mean(mean((one["b"], one["c"])) for one in each) for name, each in found.items()}
    still = {name: mean(one["d"] for one in each) for name, each in found.items()}
    keep(
        "stain_aglr",
        [
            (site, name, "auroc", seed, one[site])
            for name, each in found.items()
            for seed, one in enumerate(each)
            for site in one
        ],
    )
    with capsys.disabled():
        for name, each in found.items():
            told = ", ".join(f"{site} {mean(one[site] for one in each):.3f}" for site in "bcd")
            print(f"\n{name}: {told}; unseen {moved[name]:.3f}", end="")
        print(f"\ngain {moved['Stain-AgLr'] - moved['supervised']:+.3f}", end="")
    assert moved["Stain-AgLr"] >= moved["supervised"] + 0.05
    for name in ("HED", "HED + regeneration", "HED + consistency"):
        assert moved[name] <= moved["Stain-AgLr"] + 0.02
    assert abs(still["Stain-AgLr"] - still["supervised"]) <= 0.03
