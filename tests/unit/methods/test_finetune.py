"""Fine-tuning on kept features: what it asks of a study, and that it is fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, told, write_cohort
from tests.unit import tiny

from allograft.context import Budget, Context, Journal, Store
from allograft.errors import SpecError
from allograft.methods.finetune import Finetune
from allograft.methods.start import Start
from allograft.networks import build
from allograft.recipe import Carry, Scenario, parse_recipe
from allograft.seeds import Seeds
from allograft.step import GradientStep
from allograft.tree import digest

CONTRACT = {"options": {"scope": "top", "augmentation": "none", "show_features": True}}


@pytest.fixture
def scenario(tmp_path: Path) -> Scenario:
    cohort = tiny.read(tiny.write_photographs(tmp_path / "cohort", {"b": 3}))
    return Scenario(target=(cohort,), sites=("b",))


def a_network() -> Any:
    with Seeds(0).everything("network"):
        return build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8, 16]}}})


def tuned(scenario: Scenario, context: Context, *, cached: bool) -> Carry:
    """In one place of the tree of draws, so that both meet the same cases."""
    running = Finetune("top", cache_features=cached, first=Start()).run(scenario, a_network(), context)
    while True:
        try:
            next(running)
        except StopIteration as stop:
            carry: Carry = stop.value
            return carry


def test_same_weights_as_without(scenario: Scenario) -> None:
    context = tiny.a_context(budget=Budget(adapt_steps=5, batch_size=1))
    plain, cached = (tuned(scenario, context, cached=one) for one in (False, True))
    before = a_network().state_dict()
    moved = {key for key, value in plain.network.state_dict().items() if not torch.equal(value, before[key])}
    assert any(key.startswith("heads.") for key in moved)
    for key, value in plain.network.state_dict().items():
        assert torch.equal(cached.network.state_dict()[key], value), key
    assert plain.optimizer is not None
    assert cached.optimizer is not None
    assert plain.optimizer["state"].keys() == cached.optimizer["state"].keys()


def test_the_size_is_told_to_those_who_watch(scenario: Scenario, capsys: pytest.CaptureFixture[str]) -> None:
    context = tiny.a_context()
    tuned(scenario, context, cached=True)
    assert capsys.readouterr().err == ""
    tuned(scenario, replace(context, progress=True, label="finetune, seed 0: "), cached=True)
    said = capsys.readouterr().err
    assert said.startswith("finetune, seed 0: keeping features of 3 cases, ")
    assert said.endswith(" MiB in memory\n")


@pytest.mark.parametrize("scope", ["full", "first"])
def test_a_scope_that_begins_at_the_image_has_nothing_to_keep(scope: Any) -> None:
    with pytest.raises(SpecError, match=f"scope '{scope}' tunes from the start; set scope: top"):
        Finetune(scope, cache_features=True)
    with pytest.raises(SpecError, match="set scope: top"):
        parse_recipe({"finetune": {"scope": scope, "cache_features": True}})


def test_views_that_change_are_refused_before_anything_is_trained(scenario: Scenario) -> None:
    context = tiny.a_context()
    for settings, recipe, message in (
        (
            replace(context.settings, augmentation="light"),
            Finetune("top", cache_features=True),
            "augmentation is 'light'; set augmentation: none",
        ),
        (context.settings, Finetune("top", "strong", True), "augmentation is 'strong'; set augmentation: none"),
        (
            replace(context.settings, patch=(8, 8)),
            Finetune("top", cache_features=True),
            r"patch: \[8, 8\] .*; set patch: null",
        ),
    ):
        with pytest.raises(SpecError, match=message):
            # without a network: nothing is run
            next(recipe.run(scenario, None, replace(context, settings=settings)))
    light, cropped = (
        replace(context.settings, augmentation="light"),
        replace(context.settings, augmentation="strong", patch=(8, 8)),
    )
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    Finetune("top", "none", True).check(
        scenario, network, replace(context, settings=light)
    )  # the row's own augmentation counts
    Finetune("top").check(scenario, network, replace(context, settings=cropped))


class Killed(BaseException):
    """Stands for a process that is gone."""


def test_killed_and_resumed_is_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is kept is in a checkpoint: the cases are computed again."""
    manifest = write_cohort(tmp_path / "cohort")

    def weights_and_records(out: Path) -> Any:
        recipe = {"finetune": {"scope": "top", "cache_features": True, "first": "start"}}
        _, row, records = run(session_of(manifest, out, recipe, augmentation="none"))
        found = Store(out / "units" / row.unit).load()
        assert found is not None
        return digest(found[0].network), told(records)

    expected = weights_and_records(tmp_path / "undisturbed")
    monkeypatch.setattr(Journal, "due", lambda self: self.writes)
    with monkeypatch.context() as patch:
        real, count = GradientStep.__call__, 0

        def counted(self: GradientStep, batch: Any) -> Any:
            nonlocal count
            count += 1
            if count == 3:
                raise Killed
            return real(self, batch)

        patch.setattr(GradientStep, "__call__", counted)
        with pytest.raises(Killed):
            weights_and_records(tmp_path / "killed")
    assert list((tmp_path / "killed" / "units").glob("*/journal/*.safetensors"))
    assert weights_and_records(tmp_path / "killed") == expected
