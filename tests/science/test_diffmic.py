"""DiffMIC on chest phantoms of which one in six has an opacity, beside the plain classifier and
parts of itself.

Written down before the first run, for the mean macro-F1 over seeds on the site that it was trained
on:

- the full method beats the plain classifier of the same steps by 0.02 at least;
- without the discrepancy (C2), without guidance (C1), and the guidance alone do not beat it by more
  than 0.02;
- the spread over samples finds errors: its AUROC against them is above 0.6.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from tests.science.kept import keep
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.diffmic import DiffMic
from allograft.methods.supervised import Supervised
from allograft.metrics.classification import auroc, confusion, macro_f1
from allograft.networks import build
from allograft.phantoms.chest import CLASSES, write_chest
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

pytestmark = [pytest.mark.science, pytest.mark.timeout(3000)]

TASK = Classification(CLASSES)
SEEDS, STEPS, TRAINED, SIZE = 3, 240, 120, 64
SMALL = {"warmup": 4, "crop_size": 16, "width": 128, "training_steps": 1000}
ROWS = {
    "basic": Supervised(),
    "C1": DiffMic(**SMALL, guidance=False, mmd=0.0),
    "C2": DiffMic(**SMALL, mmd=0.0),
    "guidance alone": DiffMic(**SMALL, diffusion=False, mmd=0.0),
    "full": DiffMic(**SMALL),
}


def scores(train: Cohort, test: Cohort, recipe: object, seed: int) -> tuple[float, float | None]:
    """Macro-F1, and the AUROC of the spread against errors."""
    torch.manual_seed(seed)
    unet = {"in_channels": 1, "outputs": {"label": 2}, "channels": [8, 16, 32, 64], "norm": "batch"}
    budget = Budget(steps=STEPS, batch_size=16)
    context = replace(a_context(seed=seed, budget=budget, optimizer={"adam": {"lr": 1e-3}}), task=TASK)
    network = build({"build": {"unet": unet}})
    stage = next(recipe.run(Scenario(source=(train,), sites=("a",)), network, context))  # type: ignore[attr-defined]
    cases = [test.case(index) for index in range(len(test))]
    label = torch.tensor([int(one.labels["label"]) for one in cases])
    answers = [stage.predictor(one.unlabelled()) for one in cases]
    found = torch.cat([one["label"] for one in answers]).argmax(1)
    wrong = found != label
    spread = None
    if "spread" in answers[0] and 0 < int(wrong.sum()) < len(wrong):
        spread = auroc(torch.cat([one["spread"] for one in answers]), wrong)
    return macro_f1(confusion(found, label, 2)), spread


@pytest.mark.xfail(
    strict=True,
    reason="macro-F1 over three seeds: full 0.359, basic 0.505 (0.02 more was to be gained); AUROC of the spread "
    "against errors 0.541, not 0.6; of C1, C2 and the guidance alone, seed 0 is 0.471, 0.473 and 0.500. After 240 "
    "steps the denoiser still misses the noise by a mean square of 0.65 (0.38 of C1; 1 is no skill), 0.5 on the mean "
    "in the frequent class, which the sampler amplifies: of seed 1 98 of 120 images are called rare, 4 by the guidance",
)
def test_each_part_earns_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = write_chest(tmp_path, sites={"a": "none"}, subjects=400, size=SIZE)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
    subjects = cohort.subjects
    # every second subject is ill; of those every fifth stays: one in six
    kept = [name for number, name in enumerate(subjects) if number % 2 == 0 or number % 10 == 1]
    train, test = cohort.of(kept[:TRAINED]), cohort.of(kept[TRAINED:])
    found = {name: [scores(train, test, recipe, seed) for seed in range(SEEDS)] for name, recipe in ROWS.items()}
    keep(
        "diffmic",
        [
            ("chest", name, "macro-f1", seed, score)
            for name, each in found.items()
            for seed, (score, _) in enumerate(each)
        ],
    )
    means = {name: fmean(score for score, _ in each) for name, each in found.items()}
    spreads = [spread for _, spread in found["full"] if spread is not None]
    with capsys.disabled():
        print(f"\nmacro-F1: {means}; AUROC of the spread against errors: {spreads}")
    assert means["full"] >= means["basic"] + 0.02
    assert all(means[name] <= means["full"] + 0.02 for name in ("C1", "C2", "guidance alone"))
    assert fmean(spreads) > 0.6
