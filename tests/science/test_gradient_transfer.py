"""MMTL against fine-tuning all on two labelled subjects of another scanner, and at a control
scanner that has no shift.

Written down before the first run, for the mean Dice over seeds. The budget is small, so that two
subjects can be overfitted:

- under the shift MMTL beats no adaptation by 0.05 at least (it did not, see below), and fine-tuning
  all does not beat MMTL by more than 0.02 (paper, table 2);
- the source score survives (its table 3): after MMTL it is at most 0.02 below that before, and
  above that after fine-tuning all;
- at the control MMTL gains and loses at most 0.02 beside the source model: more steps on more of
  the same are worth nothing (it gains more, see below).

OCTL, which in the paper needs more subjects than these, is printed and not asserted.

The first margin did not hold: the first run gave 0.781 for MMTL against 0.745 for no adaptation, a
gain of 0.036, and at the control 0.011. There MMTL alone had the paper's learning rate, divided by
ten for the last quarter. With that schedule for every row the gain is 0.047, and the control gains
0.021 from the further steps, so that the last margin does not hold either. No margin was moved.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from tests.science.judge import halves, tissue_dice
from tests.science.kept import keep, lines
from tests.unit.tiny import a_context

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget
from allograft.methods.finetune import Finetune
from allograft.methods.mmtl import Mmtl
from allograft.methods.octl import Octl
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.phantoms.brain import write_brain
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Segmentation(("white", "grey"))
SEEDS, LABELLED = 5, 2
SCHEDULE = {"step": {"at": (0.75,), "factor": 0.1}}
"""The paper's, for every row: MMTL has it of itself, and the others would otherwise keep their
learning rate."""
ROWS = {"nothing": Supervised(), "fine-tune all": Finetune(), "OCTL": Octl(), "MMTL": Mmtl()}
Scores = dict[str, tuple[float, float]]  # row -> Dice at the target, at the source


def scores(cohort: Cohort, target: str, seed: int, folder: Path) -> Scores:
    """Each row's Dice at the target's and the source's test subjects; the rows share one source
    training."""
    torch.manual_seed(seed)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": dict(TASK.outputs), "channels": [8, 16, 32]}}})
    budget = Budget(steps=150, adapt_steps=120, batch_size=8)
    context = replace(
        a_context(folder, seed=seed, budget=budget, optimizer={"adam": {"lr": 1e-3}}, schedule=SCHEDULE), task=TASK
    )
    (source, source_test), (there, target_test) = halves(cohort.site("a")), halves(cohort.site(target))
    subjects = there.subjects
    labelled = there.of([subjects[(seed * LABELLED + n) % len(subjects)] for n in range(LABELLED)])
    scenario = Scenario((source,), (labelled,), sites=("a", target))
    found = {}
    for name, recipe in ROWS.items():
        *_, last = context.run(recipe, scenario, network)
        found[name] = tissue_dice(last.predictor, target_test), tissue_dice(last.predictor, source_test)
    return found


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scores]:
    """Target -> means over seeds."""
    folder = tmp_path_factory.mktemp("gradient_transfer")
    manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe", "d": "none"}, subjects=24, size=64)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))
    means: dict[str, Scores] = {}
    kept = []
    for target in "bd":
        each = [scores(cohort, target, seed, folder / "units") for seed in range(SEEDS)]
        means[target] = {
            name: (mean(one[name][0] for one in each), mean(one[name][1] for one in each)) for name in ROWS
        }
        for place, measure in enumerate(("target", "source")):
            kept += lines(target, [{name: one[name][place] for name in ROWS} for one in each], measure)
        report = ", ".join(f"{name} {there:.4f} (source {home:.4f})" for name, (there, home) in means[target].items())
        print(f"\n{'severe shift' if target == 'b' else 'no shift'}: {report}", end="")
    keep("gradient_transfer", kept)
    return means


def gain(at: Scores) -> float:
    """Of MMTL over no adaptation, at the target."""
    return at["MMTL"][0] - at["nothing"][0]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.7783, no adaptation 0.7316: a gain of 0.047")
def test_mmtl_gains_under_a_shift(found: dict[str, Scores]) -> None:
    assert gain(found["b"]) >= 0.05


def test_finetuning_all_does_not_win(found: dict[str, Scores]) -> None:
    assert found["b"]["fine-tune all"][0] <= found["b"]["MMTL"][0] + 0.02


def test_the_source_score_survives(found: dict[str, Scores]) -> None:
    assert found["b"]["MMTL"][1] >= found["b"]["nothing"][1] - 0.02
    assert found["b"]["MMTL"][1] > found["b"]["fine-tune all"][1]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.8629, no adaptation 0.8416: a gain of 0.021")
def test_mmtl_gains_nothing_without_a_shift(found: dict[str, Scores]) -> None:
    assert abs(gain(found["d"])) <= 0.02
