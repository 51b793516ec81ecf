"""The embedding of cases: features as the predictor makes them, colours that are losses, and
nothing a rule may see."""

from __future__ import annotations

import ast
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.manifold import TSNE
from tests.unit.tiny import VESSEL, read, write_photographs, write_volumes
from torch import nn

from allograft.batch import Batch
from allograft.cohort import Cohort, Slices
from allograft.networks import build
from allograft.predictor import Direct
from allograft.results.analysis import features as module
from allograft.results.analysis.embedding import (
    MOST,
    by_class,
    embedded,
    embedding,
    groups_of,
    of_volumes,
)
from allograft.results.analysis.features import Known, cloud_of, encoder_of, features, loss_of
from allograft.study.reading import make_study
from allograft.study.world import World
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel

UNET = {
    "build": {
        "unet": {"in_channels": 1, "outputs": {"mask": 2}, "spatial_dims": 2, "channels": [4, 8], "num_res_units": 1}
    }
}
VIT = {
    "build": {
        "vit": {
            "in_channels": 1,
            "outputs": {"label": 2},
            "image_size": 16,
            "patch_size": 4,
            "embed_dim": 8,
            "depth": 2,
            "num_heads": 2,
        }
    }
}


def made(spec: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    return build({**spec, "surgery": []})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read(write_photographs(tmp_path_factory.mktemp("blobs"), {"a": 6, "b": 6}))


def split(cohort: Cohort) -> dict[str, Cohort]:
    b = cohort.site("b").cases
    return {
        "source": cohort.site("a"),
        "target, training": replace(cohort, cases=b[:3]),
        "target, test": replace(cohort, cases=b[3:]),
    }


def test_a_point_is_a_case_and_its_colour_the_loss(cohort: Cohort) -> None:
    predictor = Direct(made(UNET))
    found = embedding(predictor, VESSEL, split(cohort), title="supervised at b")
    assert found is not None
    (points,) = found.figures
    assert points.group == ("source",) * 6 + ("target, training",) * 3 + ("target, test",) * 3
    assert points.colour_axis == "loss"
    names = {case.name for case in cohort.cases} | {case.subject for case in cohort.cases}
    assert not names & set(points.group)
    groups = split(cohort)
    losses = []
    for part in groups.values():
        order = sorted(
            range(len(part.cases)), key=lambda n, part=part: module.Seeds(0, ("embedding",)).number(part.cases[n].name)
        )
        for which in order:
            prediction = predictor(part.whole(which).batch)
            losses.append(1 - VESSEL.measure(prediction, part.whole(which))["dice"])  # type: ignore[operator]
    assert points.colour == pytest.approx(losses, abs=1e-6)
    # the same each time
    assert embedding(predictor, VESSEL, split(cohort), title="supervised at b") == found


@pytest.mark.parametrize(("spec", "key"), [(UNET, "mask"), (VIT, "label")], ids=["unet", "vit"])
def test_features_are_the_encoders_last_averaged_over_space(cohort: Cohort, spec: dict[str, Any], key: str) -> None:
    network = made(spec)
    image = cohort.whole(0).batch
    with features(network.encoder) as kept:
        Direct(network)(image.unlabelled())
    network.eval()
    with torch.no_grad():
        last = network.encoder(image.image)[-1]
    expected = torch.tensor([[float(channel.double().mean()) for channel in last[0]]])
    assert last.ndim == 4
    torch.testing.assert_close(kept[0].float(), expected.float())
    assert not network.encoder._forward_hooks


@dataclass(frozen=True)
class Twice:
    """Stands for a predictor that averages over passes."""

    inner: Any

    def __call__(self, batch: Batch) -> Any:
        assert not batch.labels
        self.inner(replace(batch, image=-batch.image))
        return self.inner(batch)


def test_a_feature_is_the_mean_over_the_predictors_passes(cohort: Cohort) -> None:
    network = made(UNET)
    twice, once = Twice(Direct(network)), Direct(network)
    whole, encoder = cohort.whole(0), network.encoder
    assert encoder_of(twice) is encoder
    mirrored = Twice(lambda batch: once(replace(batch, image=-batch.image)))
    both, plain, turned = (module._look(each, encoder, VESSEL, whole) for each in (twice, once, mirrored))
    assert both is not None
    assert plain is not None
    assert turned is not None
    assert both.feature == pytest.approx(turned.feature)
    assert both.feature != pytest.approx(plain.feature)
    # of the prediction, and not of all passes
    assert (both.loss, both.entropy) == (plain.loss, plain.entropy)


def test_volumes_are_told_from_images_by_the_first_case_in_slices_or_not(cohort: Cohort, tmp_path: Path) -> None:
    volumes = Cohort.read(write_volumes(tmp_path, [(6, 5, 4)]))
    assert of_volumes({"none": replace(volumes, cases=()), "all": volumes})
    assert of_volumes({"all": replace(volumes, slices=Slices(0))})
    assert not of_volumes({"none": replace(volumes, cases=()), "all": cohort})
    assert not of_volumes({"none": replace(volumes, cases=())})


def test_cases_without_a_loss(cohort: Cohort) -> None:
    predictor, groups = Direct(made(UNET)), split(cohort)
    none = embedding(predictor, VESSEL, {name: part.unlabelled() for name, part in groups.items()}, title="x")
    assert none is not None
    (points,) = none.figures
    assert points.colour_axis == "mean entropy of the prediction"
    assert all(0 <= value <= 1 for value in points.colour)
    assert "entropy, not loss" in none.notes[-1]
    some = embedding(predictor, VESSEL, {**groups, "target, test": groups["target, test"].unlabelled()}, title="x")
    assert some is not None
    every, known = some.figures
    assert (len(every.x), every.colour) == (12, ())
    assert (len(known.x), len(known.colour), known.colour_axis) == (9, 9, "loss")
    assert known.x == every.x[:9]  # the same plane
    assert some.notes[-1].startswith("3 cases have no label")


def test_losses_of_labels(cohort: Cohort) -> None:
    labelled = replace(
        cohort,
        cases=tuple(replace(case, labels={"label": "b"}) for case in cohort.cases),
        prepared=replace(cohort.prepared, coding=Classification(("a", "b")).coding),
    )
    logits = torch.tensor([[0.5, 2.0]])

    def loss(task: Any, images: Cohort) -> float | None:
        return loss_of(task, task.measure({"label": logits}, images.whole(0)))

    expected = -math.log(math.exp(2.0) / (math.exp(0.5) + math.exp(2.0)))
    assert loss(Classification(("a", "b")), labelled) == pytest.approx(expected)
    several = replace(labelled, prepared=replace(cohort.prepared, coding=Multilabel(("a", "b")).coding))
    first, second = (1 / (1 + math.exp(-value)) for value in (0.5, 2.0))
    expected = -(math.log(1 - first) + math.log(second)) / 2
    assert loss(Multilabel(("a", "b")), several) == pytest.approx(expected)
    assert loss_of(Classification(("a", "b")), {}) is None
    assert loss_of(VESSEL, {"dice": 0.25, "iou": 0.5}) == 0.75
    assert loss_of(VESSEL, {"dice": None}) is None


def test_a_classification_shows_unseen_cases_by_class_and_site(cohort: Cohort) -> None:
    task = Classification(("a", "b"))
    coded = replace(cohort, prepared=replace(cohort.prepared, coding=task.coding))
    parts = {
        name: replace(part, cases=tuple(replace(case, labels={"label": case.site}) for case in part.cases))
        for name, part in split(coded).items()
    }
    groups = {
        "a, test": parts["source"],
        "b, validation": parts["target, training"].unlabelled(),
        "b, test": parts["target, test"],
    }
    (figure,) = by_class(Direct(made(VIT)), task, groups, title="supervised at b")
    assert figure.title == "features of supervised at b, by class and site"
    assert figure.colour == (0,) * 6 + (1,) * 3
    assert figure.colour_axis == "0 = a, 1 = b"
    assert figure.group == ("a, test",) * 6 + ("b, test",) * 3  # what has no class is not there
    assert by_class(Direct(made(UNET)), VESSEL, split(cohort), title="x") == ()


def test_two_clouds_stay_two() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(0, 1, (20, 70)), rng.normal(8, 1, (20, 70))])
    plane, how = embedded(rows)
    centres = plane[:20].mean(0), plane[20:].mean(0)
    nearer = np.linalg.norm(plane[:, None] - np.array(centres), axis=2).argmin(1)
    assert nearer.tolist() == [0] * 20 + [1] * 20
    assert "t-SNE of 40 principal components, perplexity 13" in how
    assert np.array_equal(embedded(rows)[0], plane)


def test_it_goes_on_after_the_early_exaggeration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose 250 iterations only gather the clusters."""
    fitted: list[TSNE] = []
    real = TSNE.fit_transform
    monkeypatch.setattr(TSNE, "fit_transform", lambda self, rows: fitted.append(self) or real(self, rows))
    embedded(np.random.default_rng(2).normal(size=(40, 6)))
    assert fitted[0].n_iter_ > 250


@pytest.mark.parametrize(("rows", "channels"), [(2, 5), (5, 1), (8, 1), (9, 3), (120, 60)])
def test_any_number_of_cases(rows: int, channels: int) -> None:
    plane, how = embedded(np.random.default_rng(1).normal(size=(rows, channels)))
    assert plane.shape == (rows, 2)
    assert np.isfinite(plane).all()
    assert ("too few" in how) == (rows < 8)
    if rows == 120:
        assert "50 principal components, perplexity 30" in how


def test_cases_that_are_all_alike() -> None:
    plane, how = embedded(np.ones((20, 4)))
    assert np.array_equal(plane, np.zeros((20, 2)))
    assert "too alike" in how


def test_too_many_cases_are_drawn_and_said_so(cohort: Cohort) -> None:
    found = embedding(Direct(made(UNET)), VESSEL, split(cohort), title="x", most=8)
    assert found is not None
    groups = found.figures[0].group
    assert (groups.count("source"), groups.count("target, training"), groups.count("target, test")) == (3, 2, 3)
    assert found.notes[0] == "8 of 12 cases, drawn by group."
    assert MOST >= 100


def test_networks_without_an_encoder(cohort: Cohort) -> None:
    from allograft.networks.network import Wrapped

    assert encoder_of(Direct(Wrapped(nn.Conv2d(1, 2, 1), "mask"))) is None
    assert embedding(Direct(Wrapped(nn.Conv2d(1, 2, 1), "mask")), VESSEL, split(cohort), title="x") is None
    assert embedding(Direct(made(UNET)), VESSEL, {"source": replace(cohort, cases=cohort.cases[:1])}, title="x") is None


def test_the_global_generators_are_untouched(cohort: Cohort) -> None:
    predictor = Direct(made(UNET))
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    embedding(predictor, VESSEL, split(cohort), title="x")
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_selection_knows_nothing_of_it() -> None:
    """Test cases are in it: no rule, plan or judge may import it."""
    package = Path(module.__file__).parents[2]
    rooms = (
        "results/select.py",
        "study/plan.py",
        "run/judge.py",
        "results/analysis/label_free.py",
        "results/analysis/selection.py",
    )
    for name in rooms:
        tree = ast.parse((package / name).read_text(encoding="utf-8"))
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert "allograft.results.analysis.embedding" not in imported
        assert not {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names
        } & {"embedding"}


def test_the_groups_of_a_study(tmp_path: Path) -> None:
    from tests.contract.world import session_of, write_cohort

    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "supervised")
    world = session.prepare()
    groups = groups_of(world, "b", 0)
    assert {case.name for case in groups["target, test"].cases} == {
        case.name for case in world.part("b", "test", 0).cases
    }
    assert {case.name for case in groups["source"].cases} == {
        case.name for site in "ad" for case in world.part(site, "train", 0).cases
    }
    assert {case.site for case in groups["target, training"].cases} == {"b"}


def test_source_cohorts_keep_their_own_preprocessing(tmp_path: Path) -> None:
    """Of one cohort the sites are a group; what another cohort's images are prepared by is its own."""
    write_photographs(tmp_path / "one", {"a": 4, "b": 4})
    write_photographs(tmp_path / "two", {"c": 4, "d": 4}, seed=8)
    cohorts = {name: {"manifest": str(tmp_path / name / "manifest.csv")} for name in ("one", "two")}
    cohorts["two"]["preprocessing"] = {"size": [8, 8]}  # type: ignore[assignment]
    tree = {"cohorts": cohorts, "task": {"segmentation": {"classes": ["vessel"]}}, "recipes": ["supervised"]}
    tree |= {"network": {"unet": {"channels": [4, 8]}}, "near_duplicates": "warn", "test": {"fraction": 0.3}}

    def sizes(source: list[str], target: str) -> dict[str, tuple[int, ...]]:
        world = World.read(make_study({**tree, "source": source, "target": [target]}), tmp_path / "out")
        groups = groups_of(world, target, 0)
        return {name: tuple(cohort.case(0).image.shape[2:]) for name, cohort in groups.items() if "target" not in name}

    assert sizes(["one/a", "two/c"], "one/b") == {"source, one": (16, 16), "source, two": (8, 8)}
    assert sizes(["one/a", "one/b"], "two/d") == {"source": (16, 16)}


def test_a_model_predicts_a_case_once_whatever_shows_it(cohort: Cohort) -> None:
    predictor, passes = Direct(made(UNET)), []
    predictor.network.register_forward_hook(lambda *_: passes.append(1))
    known: Known = {}
    assert embedding(predictor, VESSEL, split(cohort), title="x", known=known) is not None
    assert (len(passes), len(known)) == (12, 12)
    unseen = {"a, test": cohort.site("a"), "b, test": split(cohort)["target, test"]}
    again = cloud_of(predictor, VESSEL, unseen, None, 300, known)
    assert len(passes) == 12
    afresh = cloud_of(predictor, VESSEL, unseen, None, 300, {})
    assert len(passes) == 12 + 9
    assert again is not None
    assert afresh is not None
    assert np.array_equal(again.rows, afresh.rows)
    assert [case.site for case in again.cases] == ["a"] * 6 + ["b"] * 3
    first = cohort.cases[0]
    cloud_of(predictor, VESSEL, unseen, None, 300, {first.name: known[first.name]})
    assert len(passes) == 12 + 9 + 8
