"""ODEx: how its pool grows, how cases are routed, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.batch import collate
from allograft.errors import AllograftError, SpecError
from allograft.methods import odex
from allograft.methods.odex import Expert, Gaussian, Odex, OdexPredictor, storage
from allograft.networks import Wrapped
from allograft.parts.domain_features import check_one_size, domain_features, feature_name
from allograft.parts.stream import Phase
from allograft.predictor import Direct
from allograft.recipe import Stage
from allograft.recipe.needs import check_recipe
from allograft.study.plan import scenario_of
from allograft.tree import digest

CONTRACT = {
    "study": {"stream": [["a", "d"], ["b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {
        "grow": "always",
        "factor": 0.001,
        "history": "mean",
        "feature": "gram",
        "limit": 50,
        "shrinkage": 0.5,
        "held_out": 0.6,
        "drop": 0.01,
    },
    "under": {
        "history": {"arguments": {"grow": "never"}},
        "drop": {
            "arguments": {"grow": "dice-drop"},
            "study": {"budget": {"steps": 60, "batch_size": 2}, "optimizer": {"adam": {"lr": 1e-2}}},
        },
    },
    "marks": (),
}


def stream_of(manifest: Path, out: Path, arguments: dict[str, Any], **changes: Any) -> tuple[list[Stage], Any]:
    """The stages of a run on the contract's stream, and what it carries on."""
    session = session_of(manifest, out, {"odex": arguments}, **changes)
    world = session.prepare()
    row = row_of(session, world)
    running = session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0))
    stages = []
    while True:
        try:
            stages.append(next(running))
        except StopIteration as end:
            return stages, end.value


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("odex"))


def predictor_of(stage: Stage) -> OdexPredictor:
    assert stage.predictor is not None
    found = getattr(stage.predictor, "predictor", stage.predictor)
    assert isinstance(found, OdexPredictor)
    return found


def test_a_grown_model_copies_weights_and_history(manifest: Path, tmp_path: Path) -> None:
    (first, second), carry = stream_of(manifest, tmp_path, {"grow": "always"})
    assert [stage.facts["models"] for stage in (first, second)] == [1, 2]
    old, new = predictor_of(second).experts
    assert [len(expert.history) for expert in (old, new)] == [1, 2]
    assert old.history[0] is new.history[0]
    assert len(new.held_out) > len(old.held_out)
    assert digest(old.network) != digest(new.network)
    assert digest(carry.network) == digest(new.network)
    assert digest(carry.parts["model-0"]) == digest(old.network)
    # each held-out case is a reference once, though the copy keeps its distance
    assert (old.inherited, new.inherited) == (0, len(old.held_out))
    scores = [old.scaled(old.held_out), new.scaled(new.held_out)[len(old.held_out) :]]
    assert torch.equal(predictor_of(second).reference_scores, torch.cat(scores))


def test_the_mean_distance_is_that_of_the_model_it_was_copied_from_too() -> None:
    expert = Expert(nn.Identity(), (), torch.tensor([0.0, 1.0, 5.0]), inherited=2)  # type: ignore[arg-type]
    assert expert.mean == pytest.approx((0 + 1 + 5) / 3 / 10)


def test_a_pool_that_does_not_grow_moves_its_model_on(manifest: Path, tmp_path: Path) -> None:
    (_, second), _ = stream_of(manifest, tmp_path / "sum", {"grow": "never"})
    (only,) = predictor_of(second).experts
    assert len(only.history) == 2
    (_, last), _ = stream_of(manifest, tmp_path / "last", {"grow": "never", "history": "last"})
    assert len(predictor_of(last).experts[0].held_out) < len(only.held_out)


@pytest.mark.parametrize(("factor", "models"), [(1e9, 1), (1e-9, 2)])
def test_a_stage_at_least_the_threshold_away_gets_a_model(
    manifest: Path, tmp_path: Path, factor: float, models: int
) -> None:
    (_, second), _ = stream_of(manifest, tmp_path, {"factor": factor})
    assert second.facts["models"] == models
    assert (second.facts["distance"] >= second.facts["threshold"]) == (models == 2)  # type: ignore[operator]


def test_the_threshold_is_that_of_the_nearest_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 1}))
    torch.manual_seed(0)
    features = torch.randn(20, 2)
    far = Expert(nn.Identity(), (Gaussian.fit(features + 100),), torch.tensor([1.0, 4.0]))
    near = Expert(nn.Identity(), (Gaussian.fit(features),), torch.tensor([1.0, 2.0, 8.0]))
    monkeypatch.setattr(Odex, "_features", lambda *_: features)
    nearest, _, facts = Odex(factor=3.0)._choose([far, near], Phase(1, cohort, ("a",)), a_context())
    assert nearest == 1
    assert near.mean != pytest.approx(far.mean)
    assert facts["threshold"] == pytest.approx(3 * near.mean)
    each = [float(near.scaled(near.history[0].mahalanobis(case))) for case in features]
    assert facts["distance"] == pytest.approx(sum(each) / 20)  # the mean over its cases


def test_a_grown_model_begins_as_a_copy_of_the_nearest(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[str, int]] = []
    real = odex.stage_training

    def watched(network: Any, phase: Phase, context: Any) -> Any:
        begun.append((digest(network), id(network)))
        return real(network, phase, context)

    monkeypatch.setattr(odex, "stage_training", watched)
    (_, second), _ = stream_of(manifest, tmp_path, {"grow": "always"})
    old = predictor_of(second).experts[0].network
    assert begun[1] != begun[0]
    assert begun[1][0] == digest(old)
    assert begun[1][1] != id(old)


@pytest.mark.parametrize(("before", "grows"), [(0.75, False), (0.65, True)])
def test_a_model_is_added_where_the_dice_of_training_cases_falls_by_more_than_a_tenth(
    before: float, grows: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    phase = Phase(1, read(write_photographs(tmp_path, {"a": 1})), ("a",))
    features = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    expert = Expert(nn.Identity(), (Gaussian.fit(features),), torch.tensor([1.0, 4.0]), dice=0.8)
    monkeypatch.setattr(Odex, "_features", lambda *_: 100 + features)  # far, which does not count here
    monkeypatch.setattr(odex, "training_dice", lambda *_: before)
    _, grown, facts = Odex(grow="dice-drop")._choose([expert], phase, a_context())
    assert (grown, facts["dice_before"]) == (grows, before)


def test_the_gaussian_never_sees_the_held_out_cases(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[int] = []
    real = Gaussian.fit
    monkeypatch.setattr(Gaussian, "fit", staticmethod(lambda x, **more: fitted.append(len(x)) or real(x, **more)))
    (first, _), _ = stream_of(manifest, tmp_path, {"held_out": 0.4})
    expert = predictor_of(first).experts[0]
    session = session_of(manifest, tmp_path, {"odex": {}})
    world = session.prepare()
    cases = len(scenario_of(world, row_of(session, world)).stream[0])
    assert fitted[0] + len(expert.held_out) == cases
    assert first.facts["rank"] == fitted[0] - 1 < first.facts["values"]  # few cases: their number is told
    own = fitted[0] - 1.0
    assert not torch.allclose(expert.held_out, torch.full_like(expert.held_out, own))


def test_each_case_is_answered_by_the_nearest_model_and_slices_of_one_case_share_it(
    manifest: Path, tmp_path: Path
) -> None:
    (_, second), _ = stream_of(manifest, tmp_path, {"grow": "always"}, budget={"steps": 20, "batch_size": 2})
    predictor = predictor_of(second)
    session = session_of(manifest, tmp_path, {"odex": {}})
    world = session.prepare()
    cohorts = [world.part(site, "test", 0).unlabelled() for site in ("a", "b")]
    batch = collate([cohort.case(0) for cohort in cohorts])
    single = [predictor(batch[i : i + 1]) for i in range(2)]
    distances = [
        [
            float(e.scaled(e.distance(domain_features(e.network, batch.image[i : i + 1], "batch-norm", 10_000))))
            for e in predictor.experts
        ]
        for i in range(2)
    ]
    assert [int(one["chosen"]) for one in single] == [row.index(min(row)) for row in distances]
    assert [float(one["score"]) for one in single] == pytest.approx([min(row) for row in distances])
    for one, i in zip(single, range(2), strict=True):
        expert = predictor.experts[int(one["chosen"])]
        expected = Direct(expert.network)(batch[i : i + 1])["mask"]
        assert torch.equal(one["mask"], expected)
    together = predictor(replace(batch, cases=("x#0", "x#1")))
    assert len(set(together["chosen"].tolist())) == 1
    means = [sum(row[k] for row in distances) / 2 for k in range(2)]
    assert float(together["score"][0]) == pytest.approx(min(means))


def test_a_network_without_batch_normalisation_says_what_is_taken(manifest: Path, tmp_path: Path) -> None:
    small = {"channels": [4, 8], "num_res_units": 1}
    (first, _), _ = stream_of(manifest, tmp_path / "batch", {}, network={"unet": {**small, "norm": "batch"}})
    assert str(first.facts["feature"]).startswith("BatchNorm2d at encoder.")
    (first, _), _ = stream_of(manifest, tmp_path / "instance", {}, network={"unet": {**small, "norm": "instance"}})
    assert str(first.facts["feature"]).startswith("InstanceNorm2d at encoder.")
    bare = nn.Sequential(nn.Conv2d(1, 3, 1))
    assert feature_name(bare) == "Conv2d at 0"
    with pytest.raises(SpecError, match="no layer to take features from"):
        feature_name(nn.ReLU())


def test_features_run_no_further_than_the_first_normalisation() -> None:
    class Counting(nn.Module):
        calls = 0

        def forward(self, x: Tensor) -> Tensor:
            Counting.calls += 1
            return x

    network = Wrapped(nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), Counting()), "mask", multiple=2)
    assert domain_features(network, torch.rand(2, 1, 5, 5), "batch-norm", 9).shape == (2, 3)
    assert Counting.calls == 0
    assert not network.module[1]._forward_hooks
    assert network.training


def refusal(manifest: Path, out: Path, **changes: Any) -> str:
    try:
        session = session_of(manifest, out, {"odex": {}}, **changes)
        world = session.prepare()
        row = row_of(session, world)
        check_recipe(row.recipe, scenario_of(world, row), session.start(world, 0), session.context(0))
    except AllograftError as error:
        return str(error)
    pytest.fail("it was not refused")


def test_what_cannot_be_done_is_refused_before_anything_is_trained(manifest: Path, tmp_path: Path) -> None:
    said = refusal(manifest, tmp_path / "few", stream=[["a", "b"], ["d"]])
    assert "odex: stage-2 of the stream (a, b, d) has 2 subjects with labels; expected at least 4" in said
    said = refusal(manifest, tmp_path / "one", stream=[["a", "b"]])
    assert "stream: has 1 stage; expected at least two" in said
    said = refusal(manifest, tmp_path / "twice", stream=[["a", "d"], ["b", "a"]])
    assert "stream: site 'a' is in two stages; name each site once" in said


def test_images_of_several_sizes_are_refused(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "large", {"a": 3}, size=(16, 16))
    cohorts = [read(manifest), read(write_photographs(tmp_path / "small", {"b": 3}, size=(16, 8)))]
    with pytest.raises(SpecError, match=r"odex: images of several sizes, .*16, 16.*16, 8.*preprocessing: \{size"):
        check_one_size(cohorts, "odex")
    check_one_size(cohorts[:1], "odex")


def test_an_infinite_factor_is_sequential_where_a_shift_lets_the_pool_grow_alone() -> None:
    assert Odex(factor=math.inf).same_as is not None
    assert Odex(factor=math.inf, grow="always").same_as is None
    assert Odex(factor=math.inf, grow="dice-drop").same_as is None


def test_the_storage_is_that_of_weights_and_of_every_stage_of_the_history() -> None:
    fitted = [Gaussian.fit(torch.randn(9, size, generator=torch.Generator().manual_seed(size))) for size in (30, 40)]
    network = nn.Linear(1000, 1, bias=False)
    alone, both = (
        storage([Expert(network, history, torch.zeros(0))])  # type: ignore[arg-type]
        for history in (tuple(fitted[:1]), tuple(fitted))
    )
    numbers = [one.numbers for one in fitted]
    assert alone == round((4 * 1000 + 8 * numbers[0]) / 1e6, 3)
    assert both == round((4 * 1000 + 8 * sum(numbers)) / 1e6, 3)
    assert alone < both
