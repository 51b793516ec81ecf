"""MetaMedSeg on volumes of four organs, a ball, a tube, lobes and a shell: each in turn is the
target, of which 8 slices are labelled, and meta-training sees the other three.

Written down before the first run, for the mean IoU of unseen volumes over targets and 2 seeds:

- volumetric tasks beat standard ones by 0.01, with average updates (the paper's main claim);
- with standard tasks inverse-distance updates beat average ones by 0.01 on the lobes, the one organ
  that is darker than what is around it, and so unlike all that it was meta-trained on (the paper's
  claim for targets far from the sources); over all organs they lose no more than 0.02;
- volumetric tasks with either update beat training from scratch by 0.05, and transfer, the
  supervised training of 20 epochs on the same sources, by 0.01;
- at the control, whose sources have the masks of other subjects, average updates of volumetric tasks
  gain no more than 0.02 over training from scratch.

Of these only the margins to training from scratch and of inverse distances over all organs held; the
marks below have the numbers.

All rows are tuned alike. There are 40 meta-epochs of 3 tasks, 5 epochs over 8 shots each, where the
paper has 100 of 5, 20 and 15; the meta rate is 0.025, so that rate times meta-epochs is the paper's.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import torch
from tests.science.judge import halves
from tests.science.kept import keep
from tests.unit.tiny import a_context, write_rows

from allograft.cohort import Cohort, Preprocessing, Slices
from allograft.context import Budget
from allograft.methods.metamedseg import Metamedseg
from allograft.methods.supervised import Supervised
from allograft.metrics.segmentation import iou
from allograft.networks import build
from allograft.phantoms.organs import ORGANS, write_organs
from allograft.recipe import Scenario
from allograft.seeds import Seeds
from allograft.tasks.segmentation import Segmentation

pytestmark = [pytest.mark.science, pytest.mark.timeout(7200)]

TASK = Segmentation(("organ",))
SEEDS, SHOTS, FOREGROUND = 2, 8, 10
VOLUMETRIC, INVERSE, LOST, SCRATCH, TRANSFER, CONTROL = 0.01, 0.01, 0.02, 0.05, 0.01, 0.02
DARK = "lobed"
META = Metamedseg(
    tasks=3, shots=SHOTS, meta_epochs=40, local_epochs=5, batch_size=4, meta_lr=0.025, foreground=FOREGROUND
)
ROWS: dict[str, Metamedseg] = {
    "scratch": replace(META, meta_epochs=0),
    "transfer": replace(META, meta_epochs=0, first=Supervised(epochs=20)),
    "average, standard": replace(META, rule="average", task="standard"),
    "average, volumetric": replace(META, rule="average"),
    "inverse distance, standard": replace(META, task="standard"),
    "inverse distance, volumetric": META,
}
CONTROLLED = "average, volumetric"


def read(manifest: Path) -> Cohort:
    """Slices that show the organ."""
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(), slices=Slices(axis=2))
    shown = [
        (cohort.cases[case].name, place)
        for item, (case, place) in enumerate(cohort.items)
        if int((cohort.case(item).labels["mask"] > 0).sum()) >= FOREGROUND  # type: ignore[operator]
    ]
    return replace(cohort, chosen=frozenset(shown))


def with_masks_of_others(manifest: Path) -> Path:
    """The same images, each with the mask of the next subject of its site."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for site in {row["site"] for row in rows}:
        own = [row for row in rows if row["site"] == site]
        masks = [row["mask"] for row in own]
        for row, mask in zip(own, masks[1:] + masks[:1], strict=True):
            row["mask"] = mask
    return write_rows(manifest.with_name("others.csv"), rows)


def volume_iou(predictor: Any, cohort: Cohort) -> float:
    """Mean IoU over volumes, each with all of its slices."""
    found = []
    for whole in replace(cohort, chosen=None).wholes():
        guess = whole.restack(predictor(whole.batch)["mask"]).argmax(0)
        found.append(iou(guess == 1, whole.mask == 1))
    return mean(found)


def reached(recipe: Metamedseg, sources: Cohort, target: Cohort, seed: int, folder: Path) -> float:
    """The IoU on unseen volumes of the target, tuned on its few slices."""
    training, test = halves(target)
    few = training.few(SHOTS, Seeds(seed).child("shots"))
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        spec = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [8, 16, 32], "num_res_units": 0}
        network = build({"build": {"unet": {**spec, "norm": "instance"}}})
    budget = Budget(steps=1, adapt_steps=1, batch_size=4)
    context = replace(a_context(folder, seed=seed, budget=budget, optimizer={"adam": {"lr": 1e-3}}), task=TASK)
    others = tuple(halves(sources.site(site))[0] for site in sources.sites if site != target.cases[0].site)
    scenario = Scenario(source=others, target=(few,), sites=sources.sites)
    return volume_iou(list(context.run(recipe, scenario, network))[-1].predictor, test)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    """Row -> organ -> IoU of each seed; the control's row is named ``control``."""
    folder = tmp_path_factory.mktemp("organs")
    manifest = write_organs(folder, subjects=12, size=32)
    cohort, wrong = read(manifest), read(with_masks_of_others(manifest))
    asked = {name: (recipe, cohort) for name, recipe in ROWS.items()} | {"control": (ROWS[CONTROLLED], wrong)}
    made: dict[str, dict[str, list[float]]] = {name: {organ: [] for organ in ORGANS} for name in asked}
    for seed in range(SEEDS):
        for organ in ORGANS:
            for name, (recipe, sources) in asked.items():
                score = reached(recipe, sources, cohort.site(organ), seed, folder / name / organ / str(seed))
                made[name][organ].append(score)
                print(f"{seed} {organ} {name} {score:.4f}", flush=True)
    keep(
        "metamedseg",
        [
            (organ, name, "iou", seed, score)
            for name, organs in made.items()
            for organ, scores in (*organs.items(), ("all", list(map(mean, zip(*organs.values(), strict=True)))))
            for seed, score in enumerate(scores)
        ],
    )
    return made


def over_all(organs: dict[str, list[float]]) -> float:
    return mean(map(mean, organs.values()))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.1584, standard tasks 0.1621")
def test_volumetric_tasks_beat_standard_ones(found: dict[str, dict[str, list[float]]]) -> None:
    assert over_all(found["average, volumetric"]) >= over_all(found["average, standard"]) + VOLUMETRIC


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.1280 on the lobes, average updates 0.1294")
def test_inverse_distances_pay_where_the_target_is_unlike_the_sources(found: dict[str, dict[str, list[float]]]) -> None:
    inverse, average = found["inverse distance, standard"], found["average, standard"]
    assert mean(inverse[DARK]) >= mean(average[DARK]) + INVERSE


def test_inverse_distances_cost_little_over_all_organs(found: dict[str, dict[str, list[float]]]) -> None:
    assert over_all(found["inverse distance, standard"]) >= over_all(found["average, standard"]) - LOST


@pytest.mark.parametrize("row", ["average, volumetric", "inverse distance, volumetric"])
def test_meta_training_beats_training_from_scratch(row: str, found: dict[str, dict[str, list[float]]]) -> None:
    assert over_all(found[row]) >= over_all(found["scratch"]) + SCRATCH


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.1584 and 0.1602, transfer 0.3195")
@pytest.mark.parametrize("row", ["average, volumetric", "inverse distance, volumetric"])
def test_meta_training_beats_transfer(row: str, found: dict[str, dict[str, list[float]]]) -> None:
    assert over_all(found[row]) >= over_all(found["transfer"]) + TRANSFER


@pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="0.1525, from scratch 0.0824 and with the right masks 0.1584"
)
def test_masks_of_other_subjects_teach_nothing(found: dict[str, dict[str, list[float]]]) -> None:
    assert over_all(found["control"]) <= over_all(found["scratch"]) + CONTROL
