"""DiffMIC: what it trains, when, at which rate; what it answers; and what it refuses."""

from __future__ import annotations

import csv
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context as plain_context
from tests.unit.tiny import write_brains
from torch import nn

from allograft.apply import load
from allograft.apply.predictions import write_predictions
from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget, Context
from allograft.errors import ModelError, SpecError
from allograft.figure import Points
from allograft.methods.diffmic import DiffMic, WithNoise
from allograft.networks import Wrapped, build
from allograft.networks.diffmic import DiffMicNetwork
from allograft.parts.denoising import show_denoising
from allograft.phantoms.histology import CLASSES, write_histology
from allograft.predictor import Direct
from allograft.predictor.denoising import DiffMicPredictor
from allograft.recipe import Carry, Scenario, Stage
from allograft.results.record import read_all
from allograft.step import GradientStep
from allograft.studies import run_study
from allograft.tasks.classification import Classification
from allograft.transforms.sample import Sample

CONTRACT = {
    "arguments": {"warmup": 0, "crops": 2, "crop_size": 8, "width": 16, "training_steps": 8, "steps": 4, "samples": 2},
    "study": {
        "cohort": "patches/halves.csv",
        "task": {"classification": {"classes": ["small", "large"]}},
        "preprocessing": {"intensity": "unit"},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch", "dropout": 0.2}},
    },
    "options": {
        "prior": "mean_softmax",
        "start": "forward",
        "guidance": False,
        "diffusion": False,
        "mmd": 2.0,
        "guidance_gradient": False,
        "warmup": 1,
        "guidance_rate": 1.0,
        "crops": 3,
        "crop_size": 12,
        "width": 8,
        "training_steps": 16,
        "steps": 5,
        "spacing": "released",
        "sampler": "ddim",
        "samples": 1,
        "temperature": 1.0,
        "bfloat16": True,
    },
    "under": {
        "guidance": {"arguments": {"mmd": 0.0}},
        "diffusion": {"arguments": {"mmd": 0.0}},
        "warmup": {"study": {"budget": {"steps": 3, "batch_size": 2, "steps_per_epoch": 1}}},
    },
    # each process takes the discrepancy of its own share of a batch
    "processes": {"mmd": 0.0},
    # two cases leave a normalisation the signs of their difference, and rounding for a gradient
    "processes_study": {"budget": {"steps": 3, "adapt_steps": 3, "batch_size": 12}},
}

TASK = Classification(CLASSES)
QUICK: dict[str, Any] = {**CONTRACT["arguments"], "warmup": 1}  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    manifest = write_histology(tmp_path_factory.mktemp("cohort"), sites={"a": "none"}, subjects=8, size=32)
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))


def a_network(**arguments: Any) -> Any:
    torch.manual_seed(3)
    unet = {"in_channels": 3, "outputs": {"label": 2}, "channels": [4, 8], "num_res_units": 1, "norm": "batch"}
    return build({"build": {"unet": {**unet, **arguments}}})


def a_context(**budget: Any) -> Context:
    given = Budget(**{"steps": 5, "batch_size": 4, **budget})
    return replace(plain_context(budget=given, optimizer={"sgd": {"lr": 0.1}}), task=TASK)


def finished(recipe: DiffMic, cohort: Cohort, context: Context) -> tuple[list[Stage], Carry]:
    running = context.run(recipe, Scenario(source=(cohort,), sites=("a",)), a_network())
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            return stages, end.value


def test_the_paper_s_values_are_the_defaults() -> None:
    recipe = DiffMic()
    assert (recipe.mmd, recipe.warmup, recipe.crops, recipe.crop_size, recipe.width) == (0.5, 10, 6, 32, 6144)
    assert (recipe.guidance_rate, recipe.training_steps, recipe.steps) == (0.2, 1000, 100)
    assert (recipe.prior, recipe.start, recipe.guidance_gradient) == ("sum", "paper", True)


def test_the_guidance_warms_up_alone_and_keeps_its_own_rate(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[str], list[float], int]] = []
    real = GradientStep.__call__

    def watched(self: GradientStep, batch: Batch) -> Any:
        terms = real(self, batch)
        moved = sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])
        seen.append((set(terms), [group["lr"] for group in self.optimizer.param_groups], moved))
        return terms

    monkeypatch.setattr(GradientStep, "__call__", watched)
    stages, carry = finished(DiffMic(**QUICK), cohort, a_context())
    network = carry.network
    guidance, every = (sum(p.numel() for p in m.parameters()) for m in (network.guidance, network))  # type: ignore[union-attr]
    # two steps are an epoch of eight cases, and belong to the budget of five
    assert [terms == {"cross_entropy"} for terms, _, _ in seen] == [True, True, False, False, False]
    assert [rates for _, rates, _ in seen] == [[pytest.approx(0.02)]] * 2 + [[0.1, pytest.approx(0.02)]] * 3
    assert [moved for _, _, moved in seen] == [guidance] * 2 + [every] * 3
    assert [stage.name for stage in stages] == ["trained"]


def test_each_row_of_the_ablation_trains_what_it_names(cohort: Cohort) -> None:
    rows: dict[str, dict[str, Any]] = {
        "C1": {"guidance": False, "mmd": 0.0},
        "C2": {"mmd": 0.0},
        "guidance alone": {"diffusion": False, "mmd": 0.0},
        "full": {},
    }
    losses = {}
    for name, options in rows.items():
        context = a_context(steps=3)
        stages, carry = finished(DiffMic(**{**QUICK, "warmup": 0, **options}), cohort, context)
        assert isinstance(carry.network, DiffMicNetwork)
        assert (carry.network.guidance is None) == (name == "C1")
        assert (carry.network.denoiser is None) == (name == "guidance alone")
        assert isinstance(stages[-1].predictor, Direct if name == "guidance alone" else DiffMicPredictor)
        losses[name] = stages[-1]
    assert len(losses) == 4


def test_the_loader_draws_step_and_noise_for_each_case(cohort: Cohort) -> None:
    transform = WithNoise(Sample("none", None), 50, 2)
    drawn = [transform(cohort.case(0), torch.Generator().manual_seed(n)) for n in range(400)]
    steps = torch.cat([one.attributes["diffusion step"] for one in drawn])
    noise = torch.cat([one.attributes["diffusion noise"] for one in drawn])
    assert (int(steps.min()), int(steps.max())) == (0, 49)
    assert abs(float(noise.mean())) < 0.1
    assert float(noise.std()) == pytest.approx(1, abs=0.1)
    again = transform(cohort.case(0), torch.Generator().manual_seed(7))
    assert torch.equal(again.attributes["diffusion noise"], drawn[7].attributes["diffusion noise"])


def test_the_spread_reaches_the_records(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    _, row, records = run(session_of(manifest, tmp_path / "out", {"diffmic": CONTRACT["arguments"]}))
    own = [record for record in records.values() if record.unit == row.unit and record.part == "test"]
    assert own
    assert all(0 < case["spread"] < 10 for record in own for case in record.cases)


def test_predict_gives_the_answer_of_the_study_whatever_the_file_is_called(tmp_path: Path) -> None:
    """Class probabilities and spread, also in the table that `predict` writes."""
    manifest = write_histology(tmp_path / "cells", sites={"a": "none"}, subjects=8, size=32)
    tree = {
        "cohort": str(manifest),
        "task": {"classification": {"classes": list(CLASSES)}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}},
        "preprocessing": {"intensity": "unit"},
        "source": ["a"],
        "target": ["a"],
        "recipes": [{"diffmic": CONTRACT["arguments"]}],
        "baselines": False,
        "seeds": 1,
        "budget": {"steps": 3, "batch_size": 4},
    }
    run_study(tree, tmp_path / "out")
    (record,) = (
        record
        for record in read_all(tmp_path / "out").values()
        if record.part == "test" and record.recipe["name"] == "diffmic"
    )
    (model,) = (tmp_path / "out" / "models").glob("diffmic*")
    renamed = []
    for number, case in enumerate(record.cases):
        renamed.append(tmp_path / f"{len(record.cases) - number}.png")
        renamed[-1].write_bytes((manifest.parent / str(case["case"])).read_bytes())
    write_predictions(model, renamed[::-1], tmp_path / "made")
    rows = {row["image"]: row for row in csv.DictReader((tmp_path / "made" / "results.csv").read_text().splitlines())}
    assert len(rows) == len(record.cases) > 1
    for case, image in zip(record.cases, renamed, strict=True):
        row = rows[image.name]
        shares = [float(row[name]) for name in CLASSES]
        assert shares == pytest.approx(case["probabilities"], abs=1e-5)
        assert float(row["spread"]) == pytest.approx(case["spread"], rel=1e-4)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Does the spread find the errors?" in page
    assert "AUROC of spread against errors" in page
    assert "calibration at a" in page
    # examples/diffmic_sampler.py: the recorded class, that of ten steps, and the true one
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "diffmic_sampler.py"))
    script["answers"].__globals__["STEPS"] = 3
    rows_of_seeds = script["answers"](tmp_path / "out", manifest)
    short = replace(load(model).predictor, sampler="ddim", steps=3)  # type: ignore[type-var]
    for case, (seed, name, recorded, of_few, true) in zip(record.cases, rows_of_seeds, strict=True):
        assert (seed, name, true) == (0, case["case"], case["label"])
        assert recorded == case["probabilities"].index(max(case["probabilities"]))
        cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
        only = cohort.where(lambda other, name=name: other.name == name).case(0)
        assert of_few == int(short(only.unlabelled())["label"].argmax())  # type: ignore[operator,union-attr]


# ------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    "options",
    [
        {"guidance": False},
        {"diffusion": False},
        {"guidance": False, "diffusion": False, "mmd": 0.0},
        {"steps": 200, "training_steps": 100},
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"diffmic: .*(mmd: 0|lower steps)"):
        DiffMic(**options)


def refused(cohort: Cohort, match: str, *, network: Any = None, context: Context | None = None, **options: Any) -> None:
    recipe = DiffMic(**{**QUICK, **options})
    with pytest.raises(SpecError, match=match):
        recipe.check(Scenario(source=(cohort,), sites=("a",)), network or a_network(), context or a_context())


def test_what_cannot_be_done_is_refused_before_anything_is_trained(cohort: Cohort, tmp_path: Path) -> None:
    refused(cohort, "crops of 40 pixels from images of 32x32; lower crop_size", crop_size=40)
    refused(cohort, "asks for 20 windows, a map of 16x16 has 4", crops=20, crop_size=30, network=a_network())
    refused(cohort, "a warm-up of 3 epochs takes 6 steps, the budget has 5", warmup=3)
    alone = cohort.where(lambda case: case.labels["label"] == "small")
    refused(alone, "all of one class, small")
    refused(cohort, "one class per image", context=replace(a_context(), task=plain_context().task))
    wrapped = Wrapped(nn.Conv2d(3, 2, 1), "label")
    wrapped.spec = {"build": {}, "surgery": []}
    refused(cohort, "one opaque module", network=wrapped)
    masks = build({"build": {"unet": {"in_channels": 3, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    refused(cohort, "no head for labels", network=masks)


def test_volumes_are_refused(tmp_path: Path) -> None:
    manifest = write_brains(tmp_path / "volumes", (16, 16, 16))
    task = Classification(("x", "y", "z"))
    volumes = Cohort.read(manifest, task.coding)
    refused(volumes, "2-D images, these are volumes", context=replace(a_context(steps=40), task=task))


def test_a_prior_that_is_no_number_is_refused(cohort: Cohort) -> None:
    recipe = DiffMic(**QUICK)
    network = recipe._operated(a_network())
    assert network.guidance is not None
    with torch.no_grad():
        network.guidance.local_head.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match="not a number"):
        recipe.predictor(network)(cohort.case(0))


def test_the_picture_shows_each_image_at_four_moments(tmp_path: Path) -> None:
    manifest = write_histology(tmp_path, sites={"a": "none"}, subjects=12, size=32)
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
    context = a_context()
    recipe = DiffMic(**{**QUICK, "steps": 20, "training_steps": 20})
    show_denoising(recipe.predictor(recipe._operated(a_network())), [cohort], context)  # type: ignore[arg-type]
    figure = context.meter.figures["denoising"]
    assert isinstance(figure, Points)
    assert len(figure.x) == 4 * 12
    assert list(dict.fromkeys(figure.group)) == [f"{left} steps left" for left in (19, 10, 2, 0)]
    assert figure.colour[:12] == figure.colour[12:24] == tuple([1, 0] * 6)
    assert min(figure.x) >= -1
    few = a_context()
    show_denoising(recipe.predictor(recipe._operated(a_network())), [cohort.of(cohort.subjects[:3])], few)  # type: ignore[arg-type]
    assert "denoising" not in few.meter.figures
