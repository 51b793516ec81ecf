"""DiffMIC on chest phantoms of which one in six has an opacity, beside the plain classifier and
parts of itself.

Written down before the first run, for the mean macro-F1 over seeds on the site that it was trained
on:

- the full method beats the plain classifier of the same steps by 0.02 at least;
- without the discrepancy (C2), without guidance (C1), and the guidance alone do not beat it by more
  than 0.02;
- the spread over samples finds errors: its AUROC against them is above 0.6.

Not among the margins, and added when they had failed: what the same models do on their own training
images, with the denoiser as trained and trained longer on features that stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.science.kept import keep
from tests.unit.tiny import a_context
from torch import Tensor

from allograft.batch import Batch, collate
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.context.context import copied
from allograft.methods.diffmic import DiffMic
from allograft.methods.supervised import Supervised
from allograft.metrics.classification import auroc, confusion, macro_f1
from allograft.networks import build
from allograft.networks.diffmic import DiffMicNetwork, pooled
from allograft.nn.diffusion import diffuse, linear_alphas
from allograft.phantoms.chest import CLASSES, write_chest
from allograft.predictor import Direct
from allograft.predictor.denoising import DiffMicPredictor, conditions
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

pytestmark = [pytest.mark.science, pytest.mark.timeout(3000)]

TASK = Classification(CLASSES)
SEEDS, STEPS, TRAINED, SIZE = 3, 240, 120, 64
FURTHER = 4000
"""Steps of the denoiser alone, to see what its short training costs."""
SMALL = {"warmup": 4, "crop_size": 16, "width": 128, "training_steps": 1000}
ROWS = {
    "basic": Supervised(),
    "C1": DiffMic(**SMALL, guidance=False, mmd=0.0),
    "C2": DiffMic(**SMALL, mmd=0.0),
    "guidance alone": DiffMic(**SMALL, diffusion=False, mmd=0.0),
    "full": DiffMic(**SMALL),
}


def trained(train: Cohort, recipe: object, seed: int) -> Any:
    """The predictor of a row."""
    torch.manual_seed(seed)
    unet = {"in_channels": 1, "outputs": {"label": 2}, "channels": [8, 16, 32, 64], "norm": "batch"}
    budget = Budget(steps=STEPS, batch_size=16)
    context = replace(a_context(seed=seed, budget=budget, optimizer={"adam": {"lr": 1e-3}}), task=TASK)
    network = build({"build": {"unet": unet}})
    stage = next(recipe.run(Scenario(source=(train,), sites=("a",)), network, context))  # type: ignore[attr-defined]
    return stage.predictor


def whole(cohort: Cohort) -> tuple[Batch, Tensor]:
    """All cases as one batch, and their labels."""
    batch = collate([cohort.case(index) for index in range(len(cohort))])
    label = batch.labels["label"]
    assert isinstance(label, Tensor)
    return batch.unlabelled(), label


def scores(predictor: Any, cohort: Cohort) -> tuple[float, float | None]:
    """Macro-F1, and the AUROC of the spread against errors."""
    batch, label = whole(cohort)
    answer = predictor(batch)
    found = answer["label"].argmax(1)
    wrong = found != label
    spread = None
    if "spread" in answer and 0 < int(wrong.sum()) < len(wrong):
        spread = auroc(answer["spread"], wrong)
    return macro_f1(confusion(found, label, 2)), spread


def denoised_longer(predictor: DiffMicPredictor, train: Cohort) -> DiffMicPredictor:
    """The same with ``FURTHER`` steps of the noise's error for the denoiser alone, on features of the
    training images that stay as they are."""
    network = copied(predictor.network).eval()
    assert isinstance(network, DiffMicNetwork)
    assert network.guidance is not None
    assert network.denoiser is not None
    assert network.feature is not None
    batch, label = whole(train)
    with torch.no_grad():
        features, guided = pooled(network.encoder, batch.image), network.guidance(batch.image)
        given = conditions(guided, predictor.prior)["both"]
    rng, bars = torch.Generator().manual_seed(0), linear_alphas(network.steps).cumprod(0).float()
    parts = (network.denoiser.train(), network.feature.train())
    optimizer = torch.optim.Adam([p for part in parts for p in part.parameters()], lr=1e-3)
    for _ in range(FURTHER):
        at = torch.randint(len(label), (32,), generator=rng)
        t, noise = torch.randint(network.steps, (32,), generator=rng), torch.randn(32, 2, generator=rng)
        y = diffuse(F.one_hot(label[at], 2).float(), given.drift[at], bars[t], noise)
        optimizer.zero_grad()
        F.mse_loss(parts[0](y, given.vectors[at], parts[1](features[at]), t), noise).backward()
        optimizer.step()
    return replace(predictor, network=network.eval())


def on_training_images(predictor: DiffMicPredictor, train: Cohort) -> dict[tuple[str, str, str], float]:
    """Macro-F1 of the guidance and of the sampler, also with a denoiser that is trained longer, and how
    often ten steps of DDIM name its class: where a fault would show, whatever generalises."""
    longer, (batch, _) = denoised_longer(predictor, train), whole(train)
    short = replace(longer, sampler="ddim", steps=10)
    same = longer(batch)["label"].argmax(1) == short(batch)["label"].argmax(1)
    made = {"guidance": Direct(predictor.network), "as trained": predictor, "denoiser trained longer": longer}
    found = {("training images", name, "macro-f1"): scores(each, train)[0] for name, each in made.items()}
    return found | {("training images", "ten steps", "same class"): float(same.double().mean())}


def cohorts(folder: Path) -> tuple[Cohort, Cohort]:
    """Training and test subjects, of whom one in six is ill."""
    manifest = write_chest(folder, sites={"a": "none"}, subjects=400, size=SIZE)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
    # every second subject is ill; of those every fifth stays
    kept = [name for number, name in enumerate(cohort.subjects) if number % 2 == 0 or number % 10 == 1]
    return cohort.of(kept[:TRAINED]), cohort.of(kept[TRAINED:])


def measured(train: Cohort, test: Cohort, name: str, seed: int) -> dict[tuple[str, str, str], float]:
    """Setting, row and measure -> what one training gives."""
    predictor = trained(train, ROWS[name], seed)
    score, spread = scores(predictor, test)
    found = {("chest", name, "macro-f1"): score}
    if spread is not None:
        found["chest", name, "spread"] = spread
    return found | (on_training_images(predictor, train) if name == "full" else {})


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="macro-F1 over three seeds: full 0.359, basic 0.505 (0.02 more was to be gained); C1 0.423 and the "
    "guidance alone 0.522 beat the full method by more than 0.02 (C2, 0.350, does not); AUROC of the spread against "
    "errors 0.541, not 0.6. On its own training images the guidance has 1.0 and the sampler 0.515, and 0.981 after "
    "4,000 further steps of the denoiser alone: in 240 steps the denoiser is not trained",
)
def test_each_part_earns_its_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test = cohorts(tmp_path)
    found = {(name, seed): measured(train, test, name, seed) for seed, name in product(range(SEEDS), ROWS)}
    keep("diffmic", [(*key, seed, value) for (_, seed), each in found.items() for key, value in each.items()])
    means = {name: fmean(found[name, seed]["chest", name, "macro-f1"] for seed in range(SEEDS)) for name in ROWS}
    spreads = [each["chest", "full", "spread"] for each in found.values() if ("chest", "full", "spread") in each]
    with capsys.disabled():
        print(f"\nmacro-F1: {means}; AUROC of the spread against errors: {spreads}")
    assert means["full"] >= means["basic"] + 0.02
    assert all(means[name] <= means["full"] + 0.02 for name in ("C1", "C2", "guidance alone"))
    assert fmean(spreads) > 0.6
