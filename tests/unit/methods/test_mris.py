"""MRIS: what it trains, what its database holds, and what it refuses."""

from __future__ import annotations

import csv
import json
import runpy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import a_context as plain_context
from tests.unit.tiny import write_rows

from allograft import cli, load
from allograft.apply.index import add_to_index, recall_of, remove_from_index
from allograft.apply.predictions import write_predictions
from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.cohort.prepared_images import file_hash
from allograft.context import Budget, Context
from allograft.errors import MissingWeightsError, ModelError, SpecError
from allograft.methods import mris
from allograft.methods.mris import Mris, OfTheImageAlone, TripletStep, paired
from allograft.networks import build
from allograft.networks.fetch import _timm
from allograft.phantoms.knee import write_knee
from allograft.predictor import Direct, save_predictor
from allograft.predictor.retrieval import Retrieval
from allograft.recipe import Carry, Scenario, Stage
from allograft.study.reading import make_study
from allograft.tasks.synthesis import Synthesis
from allograft.transforms.sample import Sample

CONTRACT = {
    "arguments": {"k": 2, "encoder": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}},
    "study": {"cohort": "paired.csv", "task": {"synthesis": {"range": [0, 2]}}, "preprocessing": {"intensity": "unit"}},
    "options": {
        "encoder": {"unet": {"channels": [4, 6], "num_res_units": 1, "norm": "batch"}},
        "margin": 0.0,
        "k": 3,
        "negative": "clamp",
        "weights": "timm:mobilenetv3_small_050",
        "bands": 2,
        "key_rate": 1.0,
        "optimizer": {"sgd": {"lr": 0.1}},
        "clip": 1e-6,
    },
    "under": {"weights": {"arguments": {"encoder": {"timm": {"name": "mobilenetv3_small_050"}}}}},
    "own_settings": ("clip", "optimizer"),
    # the database is made of the trained encoders at the end
    "marks": (),
}

TASK = Synthesis(range=(0, 255))
QUICK: dict[str, Any] = {"k": 3, "encoder": {"unet": {"channels": [4, 8], "norm": "batch"}}}
QUICK_SPEC = {"build": {"unet": {"in_channels": 1, "outputs": {}, "channels": [4, 8], "norm": "batch"}}}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_knee(tmp_path_factory.mktemp("knees"), sites={"a": "none"}, subjects=5, size=32)


@pytest.fixture(scope="module")
def cohort(manifest: Path) -> Cohort:
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))


def a_context(**settings: Any) -> Context:
    budget = settings.pop("budget", Budget(steps=6, batch_size=4))
    return replace(plain_context(budget=budget, **settings), task=TASK)


def a_network() -> Any:
    return build({"build": {"unet": {"in_channels": 1, "outputs": {"paired": 1}, "channels": [4, 8]}}})


def finished(recipe: Mris, cohort: Cohort, context: Context) -> tuple[list[Stage], Carry]:
    running = context.run(recipe, Scenario(source=(cohort,), sites=("a",)), a_network())
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            return stages, end.value


def test_the_papers_values_are_the_defaults() -> None:
    recipe = Mris()
    assert (recipe.margin, recipe.k, recipe.key_rate, recipe.clip, recipe.bands) == (0.1, 20, 0.1, 1.0, 1)
    assert recipe.optimizer == {"adamw": {"lr": 1e-4, "weight_decay": 1e-3}}
    assert recipe.encoder == {"resnet": {"depth": 18}}


def test_batches_rates_and_what_an_encoder_sees(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """One timepoint of a subject in an epoch; each encoder at its rate, a fifth at each third."""
    seen: list[tuple[tuple[str, ...], list[float], tuple[int, ...]]] = []
    real = TripletStep.__call__

    def watched(self: TripletStep, batch: Batch) -> Any:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        seen.append((batch.subjects, rates, tuple(batch.labels["paired"].shape)))  # type: ignore[union-attr]
        return real(self, batch)

    monkeypatch.setattr(TripletStep, "__call__", watched)
    context = a_context(budget=Budget(steps=6, batch_size=5))
    stages, carry = finished(Mris(**QUICK), cohort, context)
    assert all(len(set(subjects)) == 5 for subjects, _, _ in seen)
    expected = [1e-4, 1e-4, 2e-5, 2e-5, 4e-6, 4e-6]
    assert [rates for _, rates, _ in seen] == [[pytest.approx(one), pytest.approx(one / 10)] for one in expected]
    (stage,) = stages
    assert isinstance(stage.predictor, Retrieval)
    (band,) = stage.predictor.bands
    assert len(band.names) == len(cohort) == 30
    assert stage.facts["database"] == 30
    assert stage.facts["encoders"] == "from scratch"
    assert 0 <= float(stage.facts["recall@1 (train)"]) <= float(stage.facts["recall@20 (train)"]) <= 1
    assert set(carry.parts) == {"query-0", "key-0"}
    weights = [dict(carry.parts[name].named_parameters()) for name in ("query-0", "key-0")]
    assert not any(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] if name.endswith("weight"))
    for name, part in carry.parts.items():
        own = {"query-0": band.query, "key-0": band.key}[name]
        assert all(torch.equal(a, b) for a, b in zip(part.parameters(), own.parameters(), strict=True))


def test_recall_is_that_of_images_among_keys(cohort: Cohort) -> None:
    query, context = build(QUICK_SPEC), a_context()
    keys = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        images = torch.cat([query.eval().encoder(cohort.case(number).image)[-1].mean((2, 3)) for number in range(30)])  # type: ignore[union-attr, operator]
    alike = torch.nn.functional.cosine_similarity(images[:, None], keys[None], dim=2)
    own = alike.diagonal()
    of_image, of_key = (alike >= own[:, None]).sum(1), (alike >= own).sum(0)
    found = Mris(**QUICK)._recall(query, keys, [cohort], context)  # type: ignore[arg-type]
    assert found == {k: pytest.approx(float((of_image <= k).double().mean())) for k in (1, 5, 10, 20)}
    assert any((of_image <= k).sum() != (of_key <= k).sum() for k in found)  # else this says nothing


def test_the_map_stays_where_the_image_turns(cohort: Cohort) -> None:
    transform = OfTheImageAlone(Sample("light", None))
    case = cohort.case(0)
    moved = [transform(case, torch.Generator().manual_seed(n)) for n in range(6)]
    assert all(torch.equal(one.labels["paired"], case.labels["paired"]) for one in moved)  # type: ignore[arg-type]
    assert len({one.image.sum().item() for one in moved}) > 2


def test_bands_have_networks_and_databases_of_their_own(cohort: Cohort) -> None:
    stages, carry = finished(Mris(**QUICK, bands=2), cohort, a_context())
    predictor = stages[0].predictor
    assert isinstance(predictor, Retrieval)
    upper, lower = predictor.bands
    assert upper.images.shape == lower.images.shape == (30, 1, 16, 32)
    whole = torch.cat([band.images.rows(torch.tensor([4])) for band in (upper, lower)], 2)
    torch.testing.assert_close(whole.float(), cohort.case(4).labels["paired"], rtol=1e-3, atol=1e-3)
    assert set(carry.parts) == {"query-0", "key-0", "query-1", "key-1"}
    assert predictor(cohort.case(0))["paired"].shape == (1, 1, 32, 32)  # type: ignore[union-attr]


def test_each_band_trains_on_its_part_of_the_map(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[Batch] = []
    embedded: list[torch.Tensor] = []
    real, step = mris.embed, TripletStep.__call__
    monkeypatch.setattr(mris, "embed", lambda network, image: embedded.append(image) or real(network, image))
    monkeypatch.setattr(TripletStep, "__call__", lambda self, batch: batches.append(batch) or step(self, batch))
    finished(Mris(**QUICK, bands=2), cohort, a_context())
    parts = [image for image in embedded if image.shape[2] == 16]
    assert len(parts) == len(batches) == 12
    for number, (part, batch) in enumerate(zip(parts, batches, strict=True)):
        whole = batch.labels["paired"]
        assert isinstance(whole, torch.Tensor)
        assert torch.equal(part, whole[:, :, :16] if number < 6 else whole[:, :, 16:])


def test_cases_without_a_pair_are_left_out_and_named(cohort: Cohort) -> None:
    bare = {cohort.cases[number].name for number in (0, 7)}
    cases = tuple(replace(one, labels={}) if one.name in bare else one for one in cohort.cases)
    stages, _ = finished(Mris(**QUICK), replace(cohort, cases=cases), a_context())
    assert stages[0].facts["without a pair"] == ", ".join(sorted(bare))
    assert stages[0].facts["database"] == 28


# ------------------------------------------------------------------ bad input
def refused(match: str, cohort: Cohort, context: Context | None = None, **options: Any) -> None:
    with pytest.raises(SpecError, match=match):
        Mris(**{**QUICK, **options}).check(
            Scenario(source=(cohort,), sites=("a",)), a_network(), context or a_context()
        )


def test_what_cannot_be_done_is_refused_before_anything_is_trained(cohort: Cohort) -> None:
    refused("k is 31, the database has 30", cohort, k=31)
    refused("the database is empty", cohort.unlabelled())
    refused("all pairs are of one subject", cohort.of(["a-000"]))
    refused("32 rows do not divide into 3 bands", cohort, bands=3)
    refused("expected task: {synthesis", cohort, plain_context())
    refused("unknown network 'resnt'", cohort, encoder={"resnt": {}})
    with pytest.raises(SpecError, match="expected one"):
        Mris(encoder={})
    with pytest.raises(SpecError, match="optimizer"):
        Mris(optimizer={"adamm": {}})


# ------------------------------------------------------------------ the index on disk
@pytest.fixture
def model(manifest: Path, tmp_path: Path) -> Path:
    """A model folder as a study leaves it."""
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit")).of(["a-000", "a-001"])
    stages, _ = finished(Mris(**QUICK), cohort, a_context())
    assert stages[0].predictor is not None
    card = {
        "task": {"synthesis": {"range": [0, 255]}},
        "preprocessing": {"intensity": "unit"},
        "channels": 1,
        "sites": ["a"],
        "training_images": [],
    }
    save_predictor(stages[0].predictor, tmp_path / "model", card)
    return tmp_path / "model"


def test_cases_are_added_and_removed_by_subject(model: Path, manifest: Path, capsys: Any) -> None:
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    more = [row for row in rows if row["subject"] in ("a-002", "a-003")]
    more[0]["paired"] = ""
    write_rows(manifest.parent / "more.csv", more)
    before = load(model)
    cli.app(["index", "add", str(model), str(manifest.parent / "more.csv")], standalone_mode=False)
    said = capsys.readouterr().out
    assert "11 images added, 23 in the database" in said
    assert f"left out: {more[0]['image']}" in said
    grown = load(model)
    assert isinstance(grown.predictor, Retrieval)
    assert [row["image"] for row in more[1:]] == list(grown.predictor.bands[0].names[12:])
    assert len(grown.card["training_images"]) == 11
    assert {key: grown.card[key] for key in ("task", "channels")} == {
        key: before.card[key] for key in ("task", "channels")
    }
    query = grown.predictor.bands[0].query
    old = before.predictor.bands[0].query  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(query.parameters(), old.parameters(), strict=True))
    with pytest.raises(SpecError, match="in the database already"):
        add_to_index(model, manifest.parent / "more.csv")

    cli.app(["index", "remove", str(model), "--subject", "a-000"], standalone_mode=False)
    assert "6 images of a-000 removed, 17 in the database" in capsys.readouterr().out
    left = load(model)
    assert "a-000" not in left.predictor.bands[0].subjects  # type: ignore[attr-defined]
    assert "a-000" not in (model / "card.json").read_text()
    assert sorted(path.name for path in model.parent.iterdir()) == ["model"]
    with pytest.raises(SpecError, match="'a-000' has no case"):
        remove_from_index(model, "a-000")


def test_after_a_removal_no_band_asks_for_more_neighbours_than_another(model: Path) -> None:
    loaded = load(model)
    (band,) = loaded.predictor.bands  # type: ignore[attr-defined]
    save_predictor(Retrieval((band, replace(band, k=2))), model, loaded.card)
    remove_from_index(model, "a-000")
    assert [band.k for band in load(model).predictor.bands] == [2, 2]  # type: ignore[attr-defined]


def test_recall_is_asked_of_pairs_that_the_model_has_not_seen(model: Path, manifest: Path, capsys: Any) -> None:
    rows = [
        row for row in csv.DictReader(manifest.read_text().splitlines()) if row["subject"] not in ("a-000", "a-001")
    ]
    write_rows(manifest.parent / "unseen.csv", rows)
    found = recall_of(model, manifest.parent / "unseen.csv", where={"timepoint": "0"})
    assert found.pairs == 6  # both sides of three subjects
    (band,) = load(model).predictor.bands  # type: ignore[attr-defined]
    cohort = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="unit"))
    cohort = cohort.where(lambda case: case.subject > "a-001" and case.attributes["timepoint"] == "0")
    cases = [cohort.case(number) for number in range(6)]
    query = torch.cat([band.query.encoder(case.image)[-1].mean((2, 3)) for case in cases])
    keys = torch.cat([band.key.encoder(case.labels["paired"])[-1].mean((2, 3)) for case in cases])  # type: ignore[arg-type]
    near = torch.nn.functional.cosine_similarity(query[:, None], keys[None], dim=2).argsort(1, descending=True)
    assert found.bands[0][1] == float((near[:, 0] == torch.arange(6)).double().mean())
    assert found.bands[0][5] == float((near[:, :5] == torch.arange(6)[:, None]).any(1).double().mean())
    assert found.bands[0][20] == 1.0
    options = ["--where", "timepoint=0", "--where", "side=left"]
    cli.app(["index", "recall", str(model), str(manifest.parent / "unseen.csv"), *options], standalone_mode=False)
    assert "recall@20 100.0%, of 3 pairs" in capsys.readouterr().out
    with pytest.raises(SpecError, match="none of these rows has a paired image"):
        recall_of(model, manifest.parent / "unseen.csv", where={"timepoint": "9"})
    card = json.loads((model / "card.json").read_text())
    assert card["training_images"] == []
    with pytest.raises(SpecError, match="expected COLUMN=VALUE"):
        cli.app(["index", "recall", str(model), str(manifest), "--where", "timepoint"], standalone_mode=False)


def test_recall_is_refused_on_images_of_the_training(model: Path, manifest: Path) -> None:
    rows = [row for row in csv.DictReader(manifest.read_text().splitlines()) if row["subject"] == "a-003"]
    write_rows(manifest.parent / "added.csv", rows)
    add_to_index(model, manifest.parent / "added.csv")
    with pytest.raises(ModelError):
        recall_of(model, manifest.parent / "added.csv")


def test_what_stops_a_change_leaves_the_model_as_it_was(model: Path, manifest: Path, monkeypatch: Any) -> None:
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    monkeypatch.setattr("allograft.apply.index.save_predictor", lambda *_: pytest.fail("the disk is full"))
    with pytest.raises(pytest.fail.Exception):
        remove_from_index(model, "a-000")
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_a_kill_between_the_two_renames_is_made_good(model: Path, monkeypatch: Any) -> None:
    renamed: list[Path] = []
    real = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if renamed:
            raise KeyboardInterrupt
        renamed.append(self)
        return real(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_from_index(model, "a-000")
    monkeypatch.undo()
    assert not model.exists()
    assert remove_from_index(model, "a-000").total == 6
    assert sorted(path.name for path in model.parent.iterdir()) == ["model"]


def test_predict_lists_the_neighbours(model: Path, manifest: Path, tmp_path: Path) -> None:
    image = manifest.parent / "images" / "a-004-left-0.png"
    write_predictions(model, [image], tmp_path / "out")
    (row,) = csv.DictReader((tmp_path / "out" / "results.csv").read_text().splitlines())
    assert len(row["neighbours"].split("; ")) == 3
    assert all(name.startswith("images/a-00") for name in row["neighbours"].split("; "))
    assert -1 <= float(row["score"]) <= 1
    assert (tmp_path / "out" / "a-004-left-0_paired.png").is_file()


def test_a_model_without_a_database_is_refused(tmp_path: Path) -> None:
    card = {"task": {"synthesis": {}}, "preprocessing": {}, "channels": 1}
    save_predictor(Direct(a_network()), tmp_path, card)
    with pytest.raises(ModelError, match="has no database of images"):
        remove_from_index(tmp_path, "a")


def test_made_maps_become_the_images_of_studies_of_their_own(model: Path, manifest: Path, tmp_path: Path) -> None:
    """``examples/knee_downstream.py``: one of three unseen subjects tests, on made maps and on true ones."""
    script = runpy.run_path(str(Path(__file__).parents[3] / "examples" / "knee_downstream.py"))
    card = json.loads((model / "card.json").read_text())
    seen = [row for row in csv.DictReader(manifest.read_text().splitlines()) if row["subject"] <= "a-001"]
    card["training_images"] = [file_hash(manifest.parent / row["image"]) for row in seen]
    (model / "card.json").write_text(json.dumps(card))
    script["write_maps"](model, manifest, tmp_path / "down")
    tables = {
        (question, kind): list(csv.DictReader((tmp_path / "down" / f"{question}-{kind}.csv").read_text().splitlines()))
        for question in ("grade", "progression")
        for kind in ("made", "true")
    }
    assert {len(rows) for rows in tables.values()} == {18}
    for (question, kind), rows in tables.items():
        assert {row["subject"] for row in rows if row["split"] == "test"} == {"a-004"}
        assert [row["label"] for row in rows] == [row["label"] for row in tables[question, "true"]]
        study = make_study(script["study_of"](question, kind, tmp_path / "down"))
        assert study.source == study.target == (kind,)
        assert {row["label"] for row in rows} <= set(study.made_task.classes)
    first, true = (tmp_path / "down" / tables["grade", kind][0]["image"] for kind in ("made", "true"))
    maps = [np.asarray(Image.open(path)) for path in (first, true)]
    assert (maps[0].dtype, maps[1].dtype) == (np.uint16, np.uint8)
    (answer,) = load(model).predict(manifest.parent / "images" / "a-002-left-0.png")
    np.testing.assert_allclose(maps[0] / 65535, answer.answer.maps["paired"].numpy(), atol=1e-4)


def test_both_encoders_start_from_published_weights_and_the_stage_says_so(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm
    from safetensors.torch import save_file

    name = "mobilenetv3_small_050"
    published = timm.create_model(name).state_dict()
    save_file(published, tmp_path / _timm(name)[2])
    monkeypatch.setenv("ALLOGRAFT_WEIGHTS", str(tmp_path))
    recipe = Mris(k=2, encoder={"timm": {"name": name}}, weights=f"timm:{name}")
    encoders = recipe._networks(Scenario(source=(cohort,)))
    for encoder in encoders:
        own = encoder.state_dict()
        same = [key for key, ours in encoder.aliases.items() if torch.equal(own[ours], published[key])]
        assert len(same) > 0.9 * len(encoder.aliases)  # not the first convolution, of three channels there
    monkeypatch.setenv("ALLOGRAFT_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(MissingWeightsError, match=name):
        recipe._networks(Scenario(source=(cohort,)))
    assert recipe._said(Scenario(source=(cohort,)), torch.zeros(3))["encoders"] == f"timm:{name}"
    with pytest.raises(SpecError, match=r"weights is 'imagenet'; expected timm:NAME"):
        Mris(weights="imagenet")


def test_pairs_are_taken_of_every_site_that_has_some() -> None:
    sites: Any = [
        SimpleNamespace(labelled=lambda key, cases=cases: {"paired": cases}[key]) for cases in ("ab", "", "c")
    ]
    assert paired(sites) == ["ab", "c"]
