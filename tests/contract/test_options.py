"""Every option, every setting of the study and every source site does something, in a recipe that
is run by itself: see ``directly``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.contract.directly import left_by
from tests.contract.leaving import SETTINGS, Leaves, losses_of, options_of, study_of
from tests.contract.world import METHODS, contract, request, row_of, session_of

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.recipe import parse_recipe, total_needs
from allograft.step import GradientStep
from allograft.study.plan import scenario_of
from allograft.table import find

SEEDS = 6
OPTIONS = [(name, option) for name in METHODS for option in options_of(name)]


def sides_of(name: str) -> list[str]:
    """What a recipe itself sees beside the source."""
    needs = parse_recipe(request(name)).needs
    sees = {
        "target": needs.target_images or needs.target_labels or needs.all_target_labels,
        "pool": needs.pool,
        "stream": needs.stream,
    }
    return [side for side, seen in sees.items() if seen]


def tunes_on_labels_alone(name: str) -> bool:
    needs = parse_recipe(request(name)).needs
    return needs.target_labels and not needs.target_images


@pytest.mark.parametrize("name", METHODS)
def test_every_option_is_stated(name: str) -> None:
    stated = contract(name)
    assert sorted(stated.options) == sorted(set(options_of(name)) - {"first"}), (
        f"name another value of each option in CONTRACT of '{name}'"
    )
    assert {option.partition(":")[0] for option in stated.under} <= set(stated.options)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_no_option_is_ignored(name: str, option: str, leaves: Leaves) -> None:
    under = option if option in contract(name).under else ""
    assert leaves(name, under, option) != leaves(name, under)


@pytest.mark.parametrize("setting", [*SETTINGS, "patch"])
@pytest.mark.parametrize("name", [name for name in METHODS if contract(name).trains])
def test_the_studys_settings_reach_the_recipes_own_training(name: str, setting: str, leaves: Leaves) -> None:
    assert (leaves(name, setting=setting) == leaves(name)) == (setting in contract(name).own_settings)


@pytest.mark.parametrize("name", METHODS)
def test_a_recipe_run_again_leaves_the_same(
    name: str, manifest: Path, leaves: Leaves, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the tests here would say nothing. Steps are made in training mode, with dropout and
    statistics of the batch, but where a method's paper says otherwise."""
    modes: set[bool] = set()
    update = GradientStep.__call__

    def noted(self: GradientStep, batch: Batch) -> Any:
        modes.add(self.network.training)
        return update(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", noted)
    session = session_of(manifest, tmp_path, request(name), **study_of(name))
    world = session.prepare()
    row = row_of(session, world)
    assert left_by(row.recipe, scenario_of(world, row), session, world) == leaves(name)
    assert contract(name).in_evaluation_mode == (False in modes)


@pytest.mark.parametrize(("name", "side"), [(name, side) for name in METHODS for side in sides_of(name)])
def test_the_images_of_every_side_count(name: str, side: str, leaves: Leaves) -> None:
    """Of the last site of a pool and the last stage of a stream alone too: nothing else stands in for
    them."""
    assert leaves(name, altered=side) != leaves(name)


@pytest.mark.parametrize("name", [name for name in METHODS if tunes_on_labels_alone(name)])
def test_target_cases_without_labels_have_no_part_in_tuning(name: str, leaves: Leaves) -> None:
    """A recipe is shown them where the one that it is built on needs them."""
    assert leaves(name, narrowed=False).weights == leaves(name).weights


@pytest.mark.parametrize("name", [name for name in METHODS if parse_recipe(request(name)).needs.source_images])
def test_every_source_site_counts(name: str, manifest: Path, tmp_path: Path) -> None:
    """Without the second one a method that sees the source leaves another result, for one seed of a
    few: a single image may be drawn."""
    session = session_of(manifest, tmp_path, request(name), seeds=SEEDS)
    world = session.prepare()
    row = row_of(session, world)
    recipe = row.recipe
    if "first" in options_of(name):
        # so that it is not another source model that differs
        recipe = replace(recipe, first=parse_recipe("start"))
    for seed in range(SEEDS):
        both = scenario_of(world, replace(row, recipe=recipe, seed=seed))
        assert len(both.source) == 2
        first_alone = replace(both, source=both.source[:1])
        if left_by(recipe, both, session, world, seed=seed) != left_by(recipe, first_alone, session, world, seed=seed):
            return
    pytest.fail("the first source site alone gives the same result")


OWN_LOSS = [name for name in METHODS if getattr(find("method", name), "own_loss", "")]


@pytest.mark.parametrize("name", [n for n in METHODS if contract(n).trains and losses_of(n) and n not in OWN_LOSS])
def test_a_loss_named_by_the_study_reaches_what_learns_from_labels(name: str, leaves: Leaves) -> None:
    without_labels = total_needs(parse_recipe(request(name))).only_pool or "loss" in contract(name).own_settings
    assert (leaves(name, setting="loss") == leaves(name)) == without_labels


@pytest.mark.parametrize("name", OWN_LOSS)
def test_a_recipe_with_a_loss_of_its_own_refuses_another(name: str, manifest: Path, tmp_path: Path) -> None:
    session = session_of(manifest, tmp_path, request(name), loss=losses_of(name))
    with pytest.raises(SpecError, match=f"loss: recipe '{name}.*' minimises .*drop the recipe"):
        session.prepare()
