"""The Fourier recipe: what it keeps, what it may see, and how beta is chosen."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, told, write_cohort
from tests.unit.tiny import a_context, read, write_photographs

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Store
from allograft.errors import NeedsError, SpecError
from allograft.figure import Images, Lines
from allograft.methods.fourier import (
    GRID,
    Fourier,
    FourierPredictor,
    averaged_beta,
    beta_grid,
    curve,
    mean_prediction,
)
from allograft.methods.start import Start
from allograft.networks import build
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.parts.donors import Donors, source_scans
from allograft.phantoms.brain import write_brain
from allograft.predictor import Direct, Prediction, load_predictor, save_predictor
from allograft.predictor.whole import whole_prediction
from allograft.recipe import Needs, Scenario, parse_recipe, total_needs
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.plan import scenario_of
from allograft.study.reading import read_study
from allograft.transforms.fourier import low_amplitude

CONTRACT = {
    "arguments": {"beta": 0.1, "donors": 2},
    "options": {"beta": 0.3, "donors": 1, "search": "random", "show_images": True},
    "trains": False,
}

ROOT = Path(__file__).parents[3]
UNET = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], "num_res_units": 1}}}


def _cohort(folder: Path, size: int | None = 16, sites: Any = None) -> Cohort:
    cohort = read(write_photographs(folder, sites or {"a": 4, "b": 4}))
    return (
        replace(
            cohort, prepared=replace(cohort.prepared, preprocessing=Preprocessing(size=(size, size), intensity="none"))
        )
        if size
        else cohort
    )


def _scenario(cohort: Cohort, *targets: str) -> Scenario:
    return Scenario((cohort.site("a"),), tuple(cohort.site(name) for name in targets), sites=cohort.sites)


def _network() -> Any:
    torch.manual_seed(0)
    return build(UNET)


def _adapted(recipe: Fourier, scenario: Scenario, folder: Path | None = None, seed: int = 0) -> tuple[Any, Any]:
    """The predictor, and the unit's key."""
    context = a_context(folder, seed=seed)
    *_, last = list(context.run(replace(recipe, first=Start()), scenario, _network()))
    return last.predictor, last.unit


def test_labels_are_needed_only_to_choose_beta() -> None:
    assert Fourier().needs == Needs(source_images=True)
    assert total_needs(Fourier(beta="per-pair")) == Needs(source_images=True, target_labels=True)
    assert total_needs(Fourier(beta="averaged")) == Needs(source_images=True, target_labels=True, every_target=True)


@pytest.mark.parametrize("search", ["2d", "3d", "random"])
def test_target_images_are_shown_as_they_are_predicted(search: Any, tmp_path: Path) -> None:
    assert Fourier(show_images=True).needs == Needs(source_images=True, target_images=True)
    scenario = _scenario(_cohort(tmp_path / "cohort").unlabelled(), "b")
    recipe = Fourier(beta=0.3, donors=2, search=search, show_images=True)
    predictor, unit = _adapted(recipe, scenario, tmp_path / "out")
    figure = Store(tmp_path / "out" / unit).figures()["adapted"]
    assert isinstance(figure, Images)
    assert figure.subjects == (("b0", "b1", "b2", "b3"),) * 3 + (("a0", "a1", "a2", "a3"),)
    batch = scenario.target[0].case(0)
    versions = predictor.versions(batch)
    assert versions.shape == (1, 2, 1, 16, 16)
    torch.testing.assert_close(
        predictor(batch)["mask"], mean_prediction(predictor.inner, batch, versions, several=False)["mask"]
    )
    shown = changed_images(
        "",
        ("", middle_items(scenario.target), lambda case: predictor.versions(case)[:, 0]),
        ("", middle_items(scenario.source)),
    )
    assert figure.rows == shown.rows
    assert figure.rows[0] != figure.rows[1]
    _, plain = _adapted(replace(recipe, beta=0.0), scenario, tmp_path / "out")
    assert "adapted" not in Store(tmp_path / "out" / plain).figures()  # nothing is swapped


def test_the_searches_find_different_donors_for_a_volume(tmp_path: Path) -> None:
    manifest = write_brain(tmp_path, dims=3, sites={"a": "none", "b": "severe"}, subjects=6, size=32)
    cohort = read(manifest)
    scans, batch = list(source_scans([cohort.site("a")], "fourier")), cohort.site("b").whole(0).batch
    searched = {
        search: Donors.from_scans(scans, search, 3)
        for search in ("2d", "2.5d", "3d")  # type: ignore[arg-type]
    }
    chosen = {search: donors.nearest(batch)[0] for search, donors in searched.items()}
    assert all(
        not torch.equal(chosen[one], chosen[other]) for one, other in (("2d", "2.5d"), ("2d", "3d"), ("2.5d", "3d"))
    )
    depth = torch.arange(32)
    for search, indices in chosen.items():
        away = (searched[search].place[indices] - depth).abs()
        assert int(away.max()) == (2 if search == "2.5d" else 0)
        scans_of = searched[search].scan[indices].sort(0).values
        assert (scans_of == scans_of[:, :1]).all() == (search == "3d")


def test_an_averaged_beta_needs_a_first_that_no_target_has_changed() -> None:
    with pytest.raises(
        SpecError, match=r"one model for all targets, and first, 'finetune', is adapted to one; choose per-pair"
    ):
        parse_recipe({"fourier": {"beta": "averaged", "first": "finetune"}})
    with pytest.raises(SpecError, match="first, 'adabn', is adapted to one"):  # by images alone
        parse_recipe({"fourier": {"beta": "averaged", "first": "adabn"}})
    parse_recipe({"fourier": {"beta": "per-pair", "first": "finetune"}})


def test_a_disc_that_holds_the_mean_alone_is_told(tmp_path: Path) -> None:
    scenario = _scenario(_cohort(tmp_path), "b")
    with pytest.warns(
        UserWarning,
        match=r"beta 0.01 is a radius of 0.16 pixels of images of 16, so the mean alone.*above 0.062 swaps more",
    ):
        _adapted(Fourier(), scenario)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _adapted(Fourier(beta=0.1), scenario)
        _adapted(Fourier(beta=0.0), scenario)


def test_beta_out_of_range_is_refused() -> None:
    for beta in (-0.01, 0.51, float("nan")):
        with pytest.raises(SpecError, match=r"beta is .*from 0 to 0\.5"):
            Fourier(beta=beta)
    with pytest.raises(SpecError, match=r"fourier\.beta"):
        parse_recipe({"fourier": {"beta": "best"}})
    with pytest.raises(SpecError, match=r"fourier\.search"):
        parse_recipe({"fourier": {"search": "4d"}})
    with pytest.raises(SpecError, match=r"fourier\.donors"):
        parse_recipe({"fourier": {"donors": 0}})


def test_beta_zero_predicts_as_the_network_does(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    predictor, _ = _adapted(Fourier(beta=0.0), _scenario(cohort))
    batch = cohort.site("b").case(0).unlabelled()
    assert torch.equal(predictor(batch)["mask"], Direct(_network())(batch)["mask"])


def test_of_random_donors_nothing_but_discs_is_kept(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    predictor, _ = _adapted(Fourier(beta=0.2, donors=3, search="random"), _scenario(cohort))
    assert predictor.style.shape == (3, 1, 7, 4)
    assert predictor.donors is None
    source = torch.cat([cohort.site("a").case(n).image for n in range(4)])
    discs = low_amplitude(source, 0.2)
    assert all(any(torch.allclose(one, disc) for disc in discs) for one in predictor.style)
    save_predictor(predictor, tmp_path / "model", {})
    assert json.loads((tmp_path / "model/card.json").read_text())["contains_images"] is False


def test_random_donors_are_of_every_source_site(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    scenario = replace(_scenario(cohort), source=(cohort.site("a"), cohort.site("b")))
    predictor, _ = _adapted(Fourier(beta=0.2, donors=8, search="random"), scenario)
    assert len(predictor.style) == 8


@pytest.mark.parametrize(("size", "search"), [(16, "2d"), (16, "3d"), (None, "2d"), (None, "random")])
def test_maps_and_whole_donors_are_said_to_be_images(size: int | None, search: Any, tmp_path: Path) -> None:
    cohort = _cohort(tmp_path, size)
    predictor, _ = _adapted(Fourier(beta=0.2, donors=3, search=search), _scenario(cohort))
    save_predictor(predictor, tmp_path / "model", {})
    kept, card = load_predictor(tmp_path / "model")
    assert card["contains_images"] is True
    image = torch.rand(2, 1, 16 if size else 20, 16)
    batch = Batch(image, torch.zeros(2, dtype=torch.int64), ("x", "y"))
    assert torch.equal(kept(batch)["mask"], predictor(batch)["mask"])
    assert kept(batch)["mask"].shape == (2, 2, *image.shape[2:])
    assert (predictor.style.shape[-2:] == (7, 4)) is (size is not None)


def test_a_study_in_slices_finds_donors_by_place(tmp_path: Path) -> None:
    manifest = write_brain(tmp_path, dims=3, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    tree: dict[str, Any] = {
        "slices": {"axis": 2},
        "preprocessing": {"size": [32, 32, 5]},
        "target_labels": "none",
        "source": ["a"],
    }
    session = session_of(manifest, tmp_path / "out", {"fourier": {"beta": 0.1, "donors": 2, "first": "start"}}, **tree)
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    *_, stage = list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    predictor: Any = stage.predictor
    donors: Donors = predictor.donors
    scans = len(world.part("a", "train", 0).cases)
    assert donors.sliced
    assert donors.place.tolist() == [*range(5)] * scans
    batch = world.part("b", "test", 0).whole(0).batch
    chosen = donors.nearest(batch)
    assert chosen.shape == (5, min(2, scans))
    assert donors.place[chosen].tolist() == [[place] * min(2, scans) for place in range(5)]


def test_a_kept_model_is_judged_scan_by_scan_as_the_live_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_brain(tmp_path, dims=3, sites={"a": "none", "b": "severe"}, subjects=4, size=32)
    tree: dict[str, Any] = {
        "slices": {"axis": 2},
        "preprocessing": {"size": [32, 32, 5]},
        "target_labels": "none",
        "source": ["a"],
    }
    recipe = {"fourier": {"beta": 0.3, "donors": 1, "search": "3d", "first": "start"}}
    # slices at a time, if they may be parted
    monkeypatch.setattr("allograft.predictor.whole.CHUNK", 2)
    *_, records = run(session_of(manifest, tmp_path / "out", recipe, **tree))
    for file in (tmp_path / "out" / "records").iterdir():
        file.unlink()
    loads: list[Any] = []
    monkeypatch.setattr(
        "allograft.context.store.load_predictor", lambda *a, **k: loads.append(a) or load_predictor(*a, **k)
    )
    *_, again = run(session_of(manifest, tmp_path / "out", recipe, **tree))
    assert again
    assert told(again) == told({key: records[key] for key in again})
    assert len(loads) == 1


def test_a_scan_in_slices_has_one_choice_of_donor_scans_however_long_it_is() -> None:
    torch.manual_seed(0)
    scans = torch.rand(6, 40, 1, 24, 24)
    target = torch.cat([scans[1, :20], scans[4, 20:]])  # either half resembles another scan
    batch = Batch(target, torch.zeros(40, dtype=torch.int64), tuple(f"t.nii.gz#{place}" for place in range(40)))
    nearest = {search: Donors.from_scans(list(scans), search, 2, sliced=True) for search in ("2d", "3d")}
    called: list[int] = []

    def inner(part: Batch) -> Prediction:
        called.append(len(part))
        return {"mask": torch.cat([part.image, -part.image], 1)}

    for search, donors in nearest.items():
        called.clear()
        predictor = FourierPredictor(inner, scans.flatten(0, 1), 0.2, contains_images=True, donors=donors)
        assert predictor.sees_whole_cases is (search == "3d")
        whole = whole_prediction(predictor, batch)["mask"]
        assert called == [32, 32, 16]  # sixteen slices at a time, in two styles each
        assert torch.equal(whole, predictor(batch)["mask"])
        halves = torch.cat([predictor(batch[:20])["mask"], predictor(batch[20:])["mask"]])
        assert torch.equal(halves, whole) is (search == "2d")
    chosen = nearest["3d"].nearest(batch)
    assert nearest["3d"].scan[chosen].unique(dim=0).sort().values.tolist() == [[1, 4]]
    assert not replace(predictor, beta=0.0).sees_whole_cases


def test_the_grid_is_the_papers_and_goes_on_where_a_step_is_less_than_a_pixel() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert beta_grid(256) == beta_grid(201) == (0.0, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035)
    with pytest.warns(UserWarning, match=r"35 pixels a beta of 0\.029 or less swaps the mean alone"):
        grid = beta_grid(35)
    assert grid[: len(GRID)] == GRID
    assert list(grid) == sorted(set(grid))
    assert grid[len(GRID)] * 35 == pytest.approx(0.005 * 256, abs=2e-3)
    assert grid[-1] * 35 == pytest.approx(0.035 * 256, abs=2e-3)
    with pytest.warns(UserWarning, match="pixels"):
        assert max(beta_grid(8)) <= 0.5


def _planted(monkeypatch: pytest.MonkeyPatch, best: dict[str, int]) -> list[tuple[str, ...]]:
    """Scores of a grid that peak at its n-th beta; what each call was shown."""
    shown: list[tuple[str, ...]] = []

    def scores(adapted: Any, grid: Sequence[float], cohort: Cohort, context: Any) -> tuple[float | None, ...]:
        assert all(isinstance(adapted(beta), FourierPredictor) for beta in grid)
        shown.append(tuple(case.name for case in cohort.cases))
        (site,) = {case.site for case in cohort.cases}
        return tuple(1 - abs(n - best[site]) / 16 for n in range(len(grid)))

    monkeypatch.setattr("allograft.methods.fourier.curve", scores)
    return shown


@pytest.mark.filterwarnings("ignore:fourier:UserWarning")
def test_per_pair_takes_the_best_beta_of_the_labelled_cases_and_shows_the_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort = _cohort(tmp_path / "cohort")
    labelled, rest = cohort.of(["b0", "b1"]), cohort.of(["b2", "b3"]).unlabelled()
    scenario = Scenario((cohort.site("a"),), (labelled, rest), sites=cohort.sites)
    shown = _planted(monkeypatch, {"b": 10})
    predictor, unit = _adapted(Fourier(beta="per-pair", donors=2), scenario, tmp_path / "units")
    assert shown == [("b0.png", "b1.png")]
    figure = Store(tmp_path / "units" / unit).figures()["beta"]
    assert isinstance(figure, Lines)
    assert predictor.donors.count == 2
    card = json.loads((tmp_path / "units" / unit / "stages/adapted/card.json").read_text())
    assert card["predictor"]["fields"]["beta"] == figure.x[10]
    assert figure.y == {"b": tuple(1 - abs(n - 10) / 16 for n in range(len(figure.x)))}
    assert "up to 0.062 only the mean" in figure.title


@pytest.mark.filterwarnings("ignore:fourier:UserWarning")
def test_averaged_takes_the_best_mean_over_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = _cohort(tmp_path / "cohort", sites={"a": 3, "b": 2, "c": 2})
    _planted(monkeypatch, {"b": 3, "c": 9})
    predictor, _ = _adapted(Fourier(beta="averaged", donors=2), _scenario(cohort, "b", "c"))
    assert predictor.beta == beta_grid(16)[3]  # all from 3 to 9 are alike on average: the smallest
    with pytest.raises(SpecError, match="one target, here are b, c"):
        _adapted(Fourier(beta="per-pair"), _scenario(cohort, "b", "c"))


def test_the_curve_is_the_tasks_score_of_each_beta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("allograft.methods.fourier.beta_grid", lambda side: (0.0, 0.1, 0.4))
    cohort = _cohort(tmp_path / "cohort")
    scenario = _scenario(cohort, "b")
    _, unit = _adapted(Fourier(beta="per-pair", donors=2), scenario, tmp_path / "units")
    figure: Any = Store(tmp_path / "units" / unit).figures()["beta"]
    context = a_context()
    expected = []
    for beta in figure.x:
        fixed, _ = _adapted(Fourier(beta=beta, donors=2), scenario)
        cases = [
            {
                "case": case.name,
                "subject": case.subject,
                **context.task.measure(fixed(cohort.site("b").case(n)), cohort.site("b").whole(n)),
            }
            for n, case in enumerate(cohort.site("b").cases)
        ]
        expected.append(context.task.aggregate(cases)["dice"])
    assert figure.y["b"] == pytest.approx(expected)
    assert figure.y["b"].index(max(figure.y["b"])) == figure.x.index(predictor_beta(tmp_path / "units" / unit))


def predictor_beta(unit: Path) -> float:
    card = json.loads((unit / "stages/adapted/card.json").read_text())
    return float(card["predictor"]["fields"]["beta"])


def test_averaged_beta_of_several_targets() -> None:
    one, two = {"b": (0.5, 0.7, 0.6)}, {"c": (0.9, 0.5, 0.8)}

    def best(curves: dict[str, tuple[float | None, ...]]) -> float:
        return averaged_beta(Lines("", (0.0, 0.1, 0.2), curves, "", ""))

    assert best({**one}) == 0.1
    assert best({**one, **two}) == 0.0  # 0.7 twice: the smaller
    assert best({**one, **two, "d": (None, 0.5, None)}) == 0.1
    with pytest.raises(NeedsError, match="no beta has a score"):
        best({"d": (None, None, None)})


def test_a_budget_of_slices_is_refused(tmp_path: Path) -> None:
    cohort = replace(_cohort(tmp_path), chosen=frozenset({("b0.png", 0)}))
    with pytest.raises(SpecError, match="counts slices"):
        curve(lambda beta: Direct(_network()), (0.0,), cohort, a_context())


def test_the_ablation_is_planned(tmp_path: Path) -> None:
    write_brain(
        tmp_path / "cohort", sites={"a": "none", "b": "severe", "c": "medium", "d": "none"}, subjects=5, size=32
    )
    small = ("preprocessing.size=[32, 32]", "patch=[32, 32]", "seeds=1", "target=[b]", "network.unet.channels=[4, 8]")
    study = read_study(ROOT / "examples/fourier_ablation.yaml", (f"cohort={tmp_path / 'cohort/manifest.csv'}", *small))
    session = Session(study, tmp_path / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    plan = session.plan(session.prepare())
    recipes = {(r.beta, r.donors, r.search) for r in study.recipes if isinstance(r, Fourier)}
    for beta in ("averaged", "per-pair"):
        assert {(beta, 7, "2d"), (beta, 7, "random"), (beta, 1, "random")} < recipes
    assert len(plan.rows) == len(study.rows)


def test_test_cases_and_further_labels_are_not_seen(tmp_path: Path) -> None:
    session = session_of(
        write_cohort(tmp_path / "c"), tmp_path / "out", {"fourier": {"beta": "per-pair"}}, target_labels={"subjects": 1}
    )
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    seen = scenario_of(world, row).narrowed(total_needs(row.recipe))
    tested = {subject for test in world.tests(0) for subject in test.cohort.subjects}
    assert sum(len(cohort.subjects) for cohort in seen.target) == 1
    assert not tested & {subject for cohort in (*seen.source, *seen.target) for subject in cohort.subjects}


@pytest.mark.filterwarnings("ignore:fourier:UserWarning")
def test_one_run_with_an_averaged_beta_answers_every_target(tmp_path: Path) -> None:
    """It sees the labelled cases of both and is trained once; a beta per pair is one run a
    target."""
    manifest = write_brain(tmp_path / "cohort", sites={"a": "none", "b": "severe", "c": "medium"}, subjects=4, size=32)
    more: dict[str, Any] = {
        "source": ["a"],
        "target": ["b", "c"],
        "recipes": [{"fourier": {"beta": beta, "donors": 2}} for beta in ("averaged", "per-pair")],
    }
    session = session_of(manifest, tmp_path / "out", "fourier", **more, target_labels={"subjects": 1})
    world = session.prepare()
    plan = session.plan(world)
    averaged, per_pair = ([row for row in plan.rows if row.recipe == recipe] for recipe in session.study.recipes)
    assert [row.target for row in averaged] == [row.target for row in per_pair] == ["b", "c"]
    assert (len({row.unit for row in averaged}), len({row.unit for row in per_pair})) == (1, 2)
    seen = scenario_of(world, averaged[0]).narrowed(total_needs(averaged[0].recipe))
    assert sorted(case.site for cohort in seen.target for case in cohort.cases) == ["b", "c"]
    session.run_all(world, plan, (1, 1), report=False)
    made = {(line.title, line.target): line for line in session.finish(world, plan, report=False).lines}
    figure: Any = Store(tmp_path / "out/units" / averaged[0].unit).figures()["beta"]
    assert sorted(figure.y) == ["b", "c"]
    for target in ("b", "c"):
        assert made["fourier beta=averaged donors=2", target].done == 1
        assert made["fourier beta=averaged donors=2", target].score(target) is not None
