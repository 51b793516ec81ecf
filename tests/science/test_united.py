"""United pre-training on unlabelled brain phantoms, tuned on a tenth of their labels.

Written down before the first run, for the mean Dice of both tissues on unseen subjects over 3
seeds, and over the pretexts ``rotation`` and ``jigsaw``:

- ((D)+R)+A, tuned in full, beats the training from scratch of as many steps by 0.02;
- D+R+A at once, of as many steps as the three phases together, does not beat ((D)+R)+A by more than
  0.01;
- the pre-trained decoder is worth 0.01: (D)+R beats the encoder alone of the same pre-training;
- at the control, whose pool is noise without any anatomy, ((D)+R)+A gains no more than 0.02.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from tests.science.judge import halves, tissue_dice
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context, write_photographs

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.encoder_alone import EncoderAlone
from allograft.methods.finetune import Finetune
from allograft.methods.target_supervised import TargetSupervised
from allograft.methods.united import United
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Segmentation(("white", "grey"))
SEEDS, LABELLED, STEPS, EPOCHS = 3, 4, 60, 8
MARGIN, AT_ONCE, DECODER, TOLERANCE = 0.02, 0.01, 0.01, 0.02
PRETEXTS: tuple[Any, ...] = ("rotation", "jigsaw")


def rows_of(pretext: Any, *, control: bool) -> dict[str, Any]:
    """Row -> what is tuned in full."""
    hidden = (64,)
    d = United(pretext, hidden=hidden, epochs=EPOCHS)
    dr = United(pretext, "D+R", hidden=hidden, epochs=EPOCHS, first=d)
    dra = United(pretext, "D+R+A", hidden=hidden, epochs=EPOCHS, first=dr)
    at_once = United(pretext, "D+R+A", hidden=hidden, epochs=3 * EPOCHS)
    stepwise = {"((D)+R)+A": dra}
    more = {"D+R+A": at_once, "(D)+R": dr, "(D)+R, encoder": EncoderAlone(dr), "D": d}
    return stepwise if control else {**stepwise, **more}


def scores(cohort: Cohort, pool: Cohort, seed: int, folder: Path, *, control: bool) -> dict[str, float]:
    """The Dice of the training from scratch, and of each row as a mean over pretexts."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [8, 16, 32]}}})
    training, test = halves(cohort)
    labelled = training.of(np.random.default_rng(seed).permutation(training.subjects)[:LABELLED].tolist())
    budget = Budget(steps=STEPS, adapt_steps=STEPS, batch_size=4, steps_per_epoch=10)
    context = replace(a_context(folder, seed=seed, budget=budget, optimizer={"adam": {"lr": 2e-3}}), task=TASK)
    scenario = Scenario(target=(labelled,), pool=(pool.unlabelled(),), sites=cohort.sites)

    def reached(recipe: Any) -> float:
        return tissue_dice(list(context.run(recipe, scenario, network))[-1].predictor, test)

    rows = [rows_of(pretext, control=control) for pretext in PRETEXTS]
    tuned = {name: mean(reached(Finetune(first=each[name])) for each in rows) for name in rows[0]}
    return {"scratch": reached(TargetSupervised()), **tuned}


def read(manifest: Path) -> Cohort:
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing())


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """Pool -> means over seeds."""
    folder = tmp_path_factory.mktemp("united")
    cohort = read(write_brain(folder / "brain", subjects=56, size=48, sites={"a": "none"}))
    pool = halves(cohort)[0]
    noise = read(write_photographs(folder / "noise", {"a": len(pool)}, size=(48, 48)))
    means, kept = {}, []
    for name, images in (("brains", pool), ("noise", noise)):
        made = [
            scores(cohort, images, seed, folder / name / str(seed), control=name == "noise") for seed in range(SEEDS)
        ]
        means[name] = {row: mean(one[row] for one in made) for row in made[0]}
        kept += lines(name, made)
        print(f"\n{name}: " + ", ".join(f"{row} {value:.4f}" for row, value in means[name].items()))
    keep("united", kept)
    return means


def test_stepwise_pretraining_gains_where_labels_are_few(found: dict[str, dict[str, float]]) -> None:
    assert found["brains"]["((D)+R)+A"] >= found["brains"]["scratch"] + MARGIN


def test_all_at_once_does_not_win(found: dict[str, dict[str, float]]) -> None:
    assert found["brains"]["D+R+A"] <= found["brains"]["((D)+R)+A"] + AT_ONCE


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the encoder alone is 0.0082 ahead of (D)+R")
def test_the_pretrained_decoder_is_worth_something(found: dict[str, dict[str, float]]) -> None:
    assert found["brains"]["(D)+R"] >= found["brains"]["(D)+R, encoder"] + DECODER


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="noise gains 0.0301, brains 0.0343: most of the gain is not anatomy"
)
def test_noise_teaches_nothing(found: dict[str, dict[str, float]]) -> None:
    assert found["noise"]["((D)+R)+A"] <= found["noise"]["scratch"] + TOLERANCE
