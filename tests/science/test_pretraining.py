"""Pre-training a vision transformer on unlabelled chest phantoms, tuned on a tenth of their labels.

Written down before the first run, for the mean AUROC on unseen patients over seeds:

- each of ``simmim`` and ``popar`` beats the same training from scratch by 0.03 at least;
- POPAR's two halves alone (the order of patches; restoration of distorted images) do not beat
  POPAR by more than 0.02;
- with every label there is less to gain: the gain of ``simmim`` and of ``popar`` there is at most
  0.03.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests.science.kept import keep
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.popar import Popar
from allograft.methods.simmim import SimMim
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.chest import CLASSES, write_chest
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Classification(CLASSES)
SEEDS = 3
EPOCHS = 12
FIRST: dict[str, Any] = {
    "scratch": None,
    "simmim": SimMim(patch=8, epochs=EPOCHS),
    "popar": Popar(epochs=EPOCHS),
    "popar, order": Popar(tasks="order", epochs=EPOCHS),
    "popar, distorted": Popar(tasks="distorted", epochs=EPOCHS),
}
VIT = {"image_size": 32, "patch_size": 4, "embed_dim": 48, "depth": 4, "num_heads": 3}


def area(cohort: Cohort, first: Any, seed: int, folder: Path, *, share: float) -> float:
    """Pre-train on all training images of site "a", tune on the share of them that has labels; the
    AUROC on its other patients."""
    site = cohort.site("a")
    tested, others = set(site.subjects[::3]), [s for n, s in enumerate(site.subjects) if n % 3]
    labelled = others[seed : seed + round(share * len(others))] if share < 1 else others
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = build({"build": {"vit": {"in_channels": 1, "outputs": {"label": 2}, **VIT}}})
    settings = a_context(folder, seed=seed, budget=Budget(steps=80, batch_size=16), optimizer={"adamw": {"lr": 1e-3}})
    context = replace(settings, task=TASK, settings=replace(settings.settings, augmentation="light"))
    scenario = Scenario(source=(site.of(labelled),), pool=(site.of(others).unlabelled(),), sites=("a",))
    stages = list(context.run(Supervised(first=first), scenario, network))
    cases = [site.of(tested).case(index) for index in range(len(site.of(tested)))]
    logits = torch.cat([stages[-1].predictor(case.unlabelled())["label"] for case in cases]).softmax(1)[:, 1]  # type: ignore[misc]
    return float(roc_auc_score([int(case.labels["label"]) for case in cases], logits))  # type: ignore[arg-type]


def areas(tmp_path: Path, share: float, names: list[str]) -> dict[str, float]:
    manifest = write_chest(tmp_path / "cohort", sites={"a": "none"}, subjects=180, size=32)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))
    made = {
        name: [area(cohort, FIRST[name], seed, tmp_path / "out", share=share) for seed in range(SEEDS)]
        for name in names
    }
    setting = "every label" if share == 1 else "a tenth"
    keep(
        f"pretraining_{share:g}",
        [(setting, name, "auroc", seed, one) for name, each in made.items() for seed, one in enumerate(each)],
    )
    return {name: mean(each) for name, each in made.items()}


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="0.573 from scratch, 0.559 simmim, 0.579 popar (order alone 0.591, distorted alone 0.479): all near chance, "
    "which training from scratch with every label does not leave either (0.551)",
)
def test_pretraining_helps_where_labels_are_few(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reached = areas(tmp_path, 0.1, list(FIRST))
    with capsys.disabled():
        print(
            "\nAUROC with a tenth of the labels: " + ", ".join(f"{name} {value:.3f}" for name, value in reached.items())
        )
    for name in ("simmim", "popar"):
        assert reached[name] >= reached["scratch"] + 0.03
    for half in ("popar, order", "popar, distorted"):
        assert reached[half] <= reached["popar"] + 0.02


@pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="0.551 from scratch, 0.571 simmim, 0.609 popar: a gain of 0.057, between numbers near chance",
)
def test_there_is_less_to_gain_with_every_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reached = areas(tmp_path, 1.0, ["scratch", "simmim", "popar"])
    with capsys.disabled():
        print("\nAUROC with every label: " + ", ".join(f"{name} {value:.3f}" for name, value in reached.items()))
    assert max(reached["simmim"], reached["popar"]) - reached["scratch"] <= 0.03
