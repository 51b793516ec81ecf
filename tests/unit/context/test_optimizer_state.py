"""The state of an optimizer is kept where a recipe continues it, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.context.test_context import a_network, cut, finished, manifest  # noqa: F401 - a fixture
from tests.unit.tiny import a_context, write_photographs

from allograft import run_study, tree
from allograft.context import Context, Store
from allograft.context.store import LEFT_OUT
from allograft.methods.finetune import Finetune
from allograft.methods.octl import Octl
from allograft.methods.supervised import Supervised
from allograft.recipe import AnyRecipe, Carry, Scenario
from allograft.step import GradientStep


def held(context: Context, recipe: AnyRecipe, scenario: Scenario) -> bool:
    """Whether the unit's carry has an optimizer's state."""
    assert context.folder is not None
    kept = tree.load(Store(context.folder / context.unit(recipe, scenario, a_network())).carry_file)
    assert kept[LEFT_OUT] == (kept["optimizer"] is None)
    return kept["optimizer"] is not None


def studied(folder: Path) -> Context:
    """As a study makes it."""
    return replace(a_context(folder), continues=False)


def ran(context: Context, recipe: AnyRecipe, scenario: Scenario) -> Carry:
    return finished(context.run(recipe, scenario, a_network()))[1]


def test_nothing_that_is_not_asked_for_is_kept(manifest: Path, tmp_path: Path) -> None:  # noqa: F811
    scenario, context = cut(manifest), studied(tmp_path)
    fresh = ran(context, Finetune(), scenario)
    assert fresh.optimizer is None
    assert not held(context, Finetune(), scenario)
    assert not held(context, Supervised(), scenario)
    loaded = ran(context, Finetune(), scenario)
    assert loaded.optimizer is None
    for name, value in fresh.network.state_dict().items():
        assert torch.equal(value, loaded.network.state_dict()[name]), name


def test_what_a_recipe_continues_is_kept_and_its_own_is_not(manifest: Path, tmp_path: Path) -> None:  # noqa: F811
    scenario, context = cut(manifest), studied(tmp_path)
    ran(context, Octl(), scenario)
    assert held(context, Supervised(), scenario)
    assert not held(context, Octl(), scenario)
    # all that lies below a recipe that continues one
    ran(context, Octl(first=Finetune()), scenario)
    assert held(context, Finetune(), scenario)


def test_a_state_that_was_left_out_is_made_again_to_the_same_bytes(manifest: Path, tmp_path: Path) -> None:  # noqa: F811
    scenario, context, alone = cut(manifest), studied(tmp_path / "one"), studied(tmp_path / "two")
    before = ran(context, Supervised(), scenario).network.state_dict()
    assert not held(context, Supervised(), scenario)
    late, early = ran(context, Octl(), scenario), ran(alone, Octl(), scenario)
    assert held(context, Supervised(), scenario)
    for name, value in early.network.state_dict().items():
        assert torch.equal(value, late.network.state_dict()[name]), name
    after = ran(context, Supervised(), scenario).network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_keys_do_not_depend_on_it(manifest: Path, tmp_path: Path) -> None:  # noqa: F811
    scenario, context = cut(manifest), studied(tmp_path)
    asked = replace(context, continued=frozenset({context.unit(Supervised(), scenario, a_network())}))
    assert asked.unit(Supervised(), scenario, a_network()) == context.unit(Supervised(), scenario, a_network())
    fresh = ran(asked, Supervised(), scenario)
    assert held(asked, Supervised(), scenario)
    loaded = ran(asked, Supervised(), scenario)
    for carry in (fresh, loaded):
        assert carry.optimizer is not None
        assert carry.optimizer["kind"] == "adam"
        assert set(carry.optimizer["state"]) == {name for name, _ in carry.network.named_parameters()}


def test_a_context_of_ones_own_keeps_all(manifest: Path, tmp_path: Path) -> None:  # noqa: F811
    scenario, context = cut(manifest), a_context(tmp_path)
    assert ran(context, Finetune(), scenario).optimizer is not None
    assert held(context, Finetune(), scenario)
    assert held(context, Supervised(), scenario)


def test_a_study_trains_the_source_once_for_rows_with_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'supervised' runs first; the plan knows that 'octl' will continue its optimizer, of another
    part too."""
    steps: list[int] = []
    real: Any = GradientStep.__call__

    def counted(self: Any, batch: Any) -> Any:
        steps.append(1)
        return real(self, batch)

    monkeypatch.setattr("allograft.step.GradientStep.__call__", counted)
    both = {"plain": {"recipes": ["supervised"]}, "continued": {"recipes": ["octl"]}}
    study = {
        "cohort": str(write_photographs(tmp_path / "cohort", {"a": 4, "b": 5})),
        "task": {"segmentation": {"classes": ["square"]}},
        "network": {"unet": {"spatial_dims": 2, "channels": [2, 4]}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": ["octl"],
        "seeds": 1,
        "test": {"fraction": 0.4, "val": 0.25},
        "budget": {"steps": 3, "adapt_steps": 2, "batch_size": 2},
        "augmentation": "none",
    }
    run_study(study, tmp_path / "alone", report=False)
    needed = len(steps)
    run_study({**study, "each": both}, tmp_path / "out", report=False)
    assert len(steps) == 2 * needed, "what 'plain' asks for is part of what 'continued' does"
    kept = [tree.load(path) for path in (tmp_path / "out" / "units").glob("*/carry.safetensors")]
    assert sum(state["optimizer"] is not None for state in kept) == 1
    assert sum(state[LEFT_OUT] for state in kept) == len(kept) - 1
