"""Every part of a unit's key counts, one by one: what its bytes depend on, and nothing of it left
out or replaced by a default."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.unit.context.test_context import a_network, cut, finished, manifest  # noqa: F401 - a fixture
from tests.unit.tiny import a_context
from torch import nn

from allograft import table
from allograft.context import Budget, Context, Settings
from allograft.errors import NeedsError
from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.recipe import Carry, Needs, Scenario, Stage
from allograft.tasks.classification import Classification
from allograft.tasks.segmentation import Segmentation

BUDGET = {"steps": 5, "adapt_steps": 6, "epochs": 7, "adapt_epochs": 8, "batch_size": 9, "steps_per_epoch": 10}
SETTINGS: dict[str, Any] = {
    "optimizer": {"sgd": {"lr": 0.2}},
    "augmentation": "strong",
    "patch": (8, 8),
    "clip": 0.5,
    "schedule": {"cosine": {}},
    "loss": {"monai.DiceLoss": {}},
}
"""Another value of each, none of which is the default."""


def test_every_setting_is_here() -> None:
    assert {f.name for f in fields(Budget)} == {*BUDGET, "checkpoints"}
    assert {f.name for f in fields(Settings)} == {*SETTINGS, "budget"}


def keys(context: Context, scenario: Scenario) -> tuple[str, str]:
    """What a row draws from, and its unit."""
    return context.draws(Finetune(), scenario, a_network()), context.unit(Finetune(), scenario, a_network())


@pytest.mark.parametrize("name", [*BUDGET, *SETTINGS])
def test_a_setting_changes_draws_and_key(name: str, manifest: Path) -> None:  # noqa: F811
    scenario, plain = cut(manifest), a_context()
    if name in BUDGET:
        budget = replace(plain.settings.budget, **{name: BUDGET[name]})
        other = replace(plain, settings=replace(plain.settings, budget=budget))
    else:
        other = replace(plain, settings=replace(plain.settings, **{name: SETTINGS[name]}))
    assert all(a != b for a, b in zip(keys(plain, scenario), keys(other, scenario), strict=True))


@pytest.mark.parametrize("task", [Segmentation(("another",)), None])
def test_the_task_changes_draws_and_key(task: Any, manifest: Path) -> None:  # noqa: F811
    scenario, plain = cut(manifest), a_context()
    other = replace(plain, task=task)
    assert all(a != b for a, b in zip(keys(plain, scenario), keys(other, scenario), strict=True))


def test_the_kind_of_task_counts_where_its_fields_are_the_same(manifest: Path) -> None:  # noqa: F811
    @dataclass(frozen=True)
    class Another(Classification):
        """The same fields."""

    made = [replace(a_context(), task=kind(("no", "yes"))) for kind in (Classification, Another)]
    one, other = (context.draws(Supervised(), cut(manifest), a_network()) for context in made)
    assert one != other


@pytest.mark.parametrize("seed", [1, 2])
def test_the_seed_and_the_weights_change_what_is_drawn(seed: int, manifest: Path) -> None:  # noqa: F811
    scenario, plain, network = cut(manifest), a_context(), a_network()
    assert plain.draws(Supervised(), scenario, network) != a_context(seed=seed).draws(Supervised(), scenario, network)
    assert plain.draws(Supervised(), scenario, network) != plain.draws(Supervised(), scenario, a_network(seed))


def fabric(world_size: int = 1, precision: str = "32-true") -> Any:
    return SimpleNamespace(world_size=world_size, _precision=SimpleNamespace(precision=precision))


@pytest.mark.parametrize("other", [{"world_size": 2}, {"precision": "bf16-mixed"}])
def test_processes_and_precision_are_in_the_key_and_change_no_draw(
    other: dict[str, Any],
    manifest: Path,  # noqa: F811
) -> None:
    one, two = (replace(a_context(), fabric=fabric(**changes)) for changes in ({}, other))
    (draws, key), (same, changed) = keys(one, cut(manifest)), keys(two, cut(manifest))
    assert draws == same
    assert key != changed


@pytest.mark.parametrize("place", ["allograft.context.context.__version__", "torch.__version__"])
def test_versions_are_in_the_key(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = a_context().key("draws", Supervised())
    monkeypatch.setattr(place, "0.0.7")
    assert a_context().key("draws", Supervised()) != before


def test_the_draws_are_in_the_key_and_so_are_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """A default that another version has is another training."""
    assert a_context().key("one", Supervised()) != a_context().key("two", Supervised())
    one, two = (a_context(**changes).key("draws", Supervised()) for changes in ({}, {"clip": 1.0}))
    assert one != two
    assert a_context().key("draws", Supervised()) != a_context().key("draws", Supervised("strong"))
    named = replace(a_context(), task=Segmentation(("another",)))
    assert a_context().key("draws", Supervised()) != named.key("draws", Supervised())


@dataclass(frozen=True)
class Own:
    """A method of somebody else's."""

    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Nothing."""
        yield from ()
        return Carry(network)


class OwnTask(Segmentation):
    """A task of somebody else's."""


class OwnNetwork(nn.Conv2d):
    """A network of somebody else's."""


@pytest.mark.parametrize(
    ("recipe", "changes"),
    [
        (Own(), {}),
        (Finetune(first=Own()), {}),
        (Supervised(), {"task": OwnTask(("vessel",))}),
        (Supervised(), {"template": OwnNetwork(1, 2, 1)}),
    ],
    ids=["the recipe", "what it is built on", "the task", "the network"],
)
def test_the_code_of_whatever_is_not_ours_is_in_the_key(
    recipe: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(table.METHODS, "own", f"{Own.__module__}:Own")
    context = replace(a_context(), **changes)
    monkeypatch.setattr("allograft.context.foreign._code_beside", lambda module: f"code of {module}")
    before = context.key("draws", recipe)
    monkeypatch.setattr("allograft.context.foreign._code_beside", lambda module: f"other code of {module}")
    assert context.key("draws", recipe) != before
    assert a_context().key("draws", Supervised()) == a_context().key("draws", Supervised())


@dataclass(frozen=True)
class Pooling:
    """A pre-training of a pool, which keeps what it is given."""

    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(pool=True)
    seen: ClassVar[list[tuple[Any, Context, Scenario]]] = []

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Changes the encoder."""
        self.seen.append((network, context, scenario))
        with torch.no_grad():
            for p in network.encoder.parameters():
                p.fill_(0.125)
        yield Stage("pooled")
        return Carry(network)


@pytest.fixture
def pooling(monkeypatch: pytest.MonkeyPatch) -> Pooling:
    monkeypatch.setitem(table.METHODS, "pooling", f"{Pooling.__module__}:Pooling")
    real = table.find
    monkeypatch.setattr(table, "find", lambda kind, name: Pooling if name == "pooling" else real(kind, name))
    monkeypatch.setattr(Pooling, "seen", [])
    return Pooling()


def test_what_a_pre_training_cannot_see_is_not_in_its_key(pooling: Pooling, manifest: Path) -> None:  # noqa: F811
    scenario = replace(cut(manifest), pool=cut(manifest).source)
    plain = a_context(budget=Budget(steps=3))
    key = plain.unit(pooling, scenario, a_network())
    for settings in (
        {"budget": Budget(steps=3, adapt_steps=77)},
        {"budget": Budget(steps=3, adapt_epochs=7)},
        {"budget": Budget(steps=3), "loss": {"monai.DiceLoss": {}}},
    ):
        assert a_context(**settings).unit(pooling, scenario, a_network()) == key, settings
    assert replace(plain, task=Segmentation(("another",))).unit(pooling, scenario, a_network()) == key
    assert a_context(budget=Budget(steps=4)).unit(pooling, scenario, a_network()) != key
    assert a_context(budget=Budget(steps=3), clip=1.0).unit(pooling, scenario, a_network()) != key


def test_a_pre_training_is_given_no_head_and_no_task_and_its_encoder_comes_back_under_the_callers_heads(
    pooling: Pooling,
    manifest: Path,  # noqa: F811
) -> None:
    scenario, network = replace(cut(manifest), pool=cut(manifest).source), a_network(3)
    heads = {name: value.clone() for name, value in network.heads.state_dict().items()}
    _, carry = finished(a_context().run(pooling, scenario, network))
    ((bare, inside, seen),) = pooling.seen
    assert not bare.heads
    assert inside.task is None
    assert (seen.source, seen.target, len(seen.pool)) == ((), (), 1)
    assert all(torch.all(p == 0.125) for p in carry.network.encoder.parameters())
    assert all(torch.equal(value, heads[name]) for name, value in carry.network.heads.state_dict().items())
    assert not any(torch.all(p == 0.125) for p in network.encoder.parameters())


def test_a_run_is_refused_where_its_needs_are_not_met(pooling: Pooling, manifest: Path) -> None:  # noqa: F811
    with pytest.raises(NeedsError, match="pool"):
        finished(a_context().run(pooling, replace(cut(manifest), pool=()), a_network()))


def test_an_opaque_network_is_given_as_it_is(pooling: Pooling) -> None:
    opaque = build({"build": {"custom": {"class": "torch:Conv2d", "key": "mask"}}}, nn.Conv2d(1, 2, 1))
    given, same = a_context().given(pooling, opaque)
    assert same is opaque
    assert given.task is None
