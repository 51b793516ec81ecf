"""Features along a tuning: which images, at which moments, and that showing them changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unit.tiny import a_context, read, write_photographs, write_volumes
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort, Slices
from allograft.context import Store
from allograft.context.journal import Journal
from allograft.errors import SpecError
from allograft.figure import Points
from allograft.methods.finetune import Finetune
from allograft.methods.mmtl import Mmtl
from allograft.methods.start import Start
from allograft.networks import build
from allograft.networks.network import Wrapped
from allograft.parts.feature_series import CELLS, MOST, Series, groups_of
from allograft.recipe import Needs, Scenario
from allograft.step import GradientStep
from allograft.tree import digest

RECIPES = [Finetune(show_features=True, first=Start()), Mmtl(epochs=2, show_features=True, first=Start())]


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    cohort = read(write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 5, "b": 7}))
    target = cohort.site("b")
    labelled, rest = target.of(target.subjects[:3]), target.of(target.subjects[3:]).unlabelled()
    return Scenario((cohort.site("a"),), (labelled, rest), sites=cohort.sites)


def a_network() -> Any:
    torch.manual_seed(0)
    return build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})


def ran(recipe: Any, scenario: Scenario, folder: Path) -> tuple[dict[str, Any], Any]:
    """The figures of features, and the carry."""
    context, network = a_context(folder), a_network()
    running = context.run(recipe, scenario, network)
    while True:
        try:
            next(running)
        except StopIteration as stop:
            figures = Store(folder / context.unit(recipe, scenario, network)).figures()
            return {name: each for name, each in figures.items() if name.startswith("features-")}, stop.value


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_a_series_from_the_start_to_the_end(recipe: Any, scenario: Scenario, tmp_path: Path) -> None:
    figures, _ = ran(recipe, scenario, tmp_path)
    assert list(figures) == ["features-0", "features-1", "features-2", "features-3"]  # of three steps
    for step, figure in enumerate(figures.values()):
        assert isinstance(figure, Points)
        assert figure.title == f"t-SNE of the encoder's last feature after {step} of 3 steps"
        assert figure.group == ("source",) * 5 + ("target, labelled",) * 3 + ("target, unlabelled",) * 4
    assert len({figure.x for figure in figures.values()}) == 4


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: type(recipe).__name__)
def test_showing_changes_nothing(
    recipe: Any, scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, shown = ran(recipe, scenario, tmp_path / "shown")
    monkeypatch.setattr(Series, "show", lambda self, step, steps: None)
    _, bare = ran(recipe, scenario, tmp_path / "bare")
    assert digest(shown.network) == digest(bare.network)


@pytest.mark.parametrize("at", [1, 2])
def test_a_run_that_was_killed_shows_the_same(
    at: int, scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = RECIPES[0]
    figures, _ = ran(recipe, scenario, tmp_path / "undisturbed")
    monkeypatch.setattr(Journal, "due", lambda self: True)
    real, calls = GradientStep.__call__, []

    def dying(self: GradientStep, batch: Batch) -> Any:
        calls.append(1)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        ran(recipe, scenario, tmp_path / "killed")
    again, _ = ran(recipe, scenario, tmp_path / "killed")
    assert len(calls) == 4  # one step was interrupted
    assert again == figures


def test_it_is_the_last_feature_in_evaluation_mode_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = a_network().train(), torch.rand(5, 1, 16, 16)
    series, seen = Series(network, {"a": ()}, a_context()), []
    expected = F.adaptive_avg_pool2d(network.encoder(image)[-1], CELLS).flatten(1)
    torch.testing.assert_close(series._last(image), expected)
    monkeypatch.setattr("allograft.parts.feature_series.images_in_order", lambda cohorts, size: [image])
    real = Series._last

    def watched(self: Series, image: Tensor) -> Tensor:
        seen.append(self.network.training)
        return real(self, image)

    monkeypatch.setattr(Series, "_last", watched)
    series.points()
    assert seen == [False]
    assert network.training


def test_what_it_needs_and_what_it_refuses(scenario: Scenario) -> None:
    assert Finetune().needs == Needs(target_labels=True)
    assert Finetune(show_features=True).needs == Needs(source_images=True, target_images=True, target_labels=True)
    assert Mmtl().needs == Needs(source_images=True, target_labels=True)
    opaque = Wrapped(nn.Conv2d(1, 2, 1), "mask")
    for recipe in RECIPES:
        with pytest.raises(SpecError, match="show_features: the network is one opaque module without an encoder"):
            recipe.check(scenario, opaque, a_context())


def test_few_images_of_each_group(tmp_path: Path) -> None:
    class Long(Cohort):
        def __len__(self) -> int:
            return 60 * len(self.cases)

    cohort = read(write_volumes(tmp_path, [(5, 4, 3)] * 4), slices=Slices(2))
    long = Long(cohort.cases, cohort.sites, cohort.prepared, cohort.slices)
    (few,) = groups_of(Scenario((long,)))["source"]
    assert len(few.cases) == MOST // 60
    assert set(groups_of(Scenario((cohort,)))) == {"source"}


def test_the_cohorts_of_a_group_share_its_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 5, "b": 5}))
    monkeypatch.setattr("allograft.parts.feature_series.MOST", 6)
    groups = groups_of(Scenario((cohort.site("a"), cohort.site("b")), (cohort.site("b").unlabelled(),)))
    assert {name: [len(few) for few in cohorts] for name, cohorts in groups.items()} == {
        "source": [3, 3],
        "target, unlabelled": [5],
    }
