"""What a recipe runs in, what its stages are stamped with, and what the end of a run leaves."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from tests.unit.context.test_context import a_network, cut, finished, manifest  # noqa: F401 - a fixture
from tests.unit.tiny import a_context
from torch import nn

from allograft import table
from allograft.context import Context, Journal, NoJournal, Store
from allograft.figure import Lines
from allograft.networks import rebuildable
from allograft.predictor import Direct, Weights, load_predictor
from allograft.predictor.card import read_card
from allograft.recipe import AnyRecipe, Carry, Needs, Scenario, Stage
from allograft.recipe.recipe import Saw

CURVE = Lines("a curve", (0.0,), {"x": (1.0,)}, "step", "value")


def critic_of(width: int) -> nn.Linear:
    """A part that is handed on."""
    return nn.Linear(width, width)


@dataclass(frozen=True)
class Showing:
    """Yields a stage that is judged, unless it leaves weights only, and one that is not."""

    judged: bool = True
    first: AnyRecipe | None = None
    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)
    seen: ClassVar[list[tuple[Scenario, Any, Context]]] = []
    dies: ClassVar[list[bool]] = []

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Keeps what it is given."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        self.seen.append((scenario, network, context))
        context.meter.train_seconds += 2.0
        context.show("mine", CURVE)
        context.once("begun", lambda: 1)
        yield Stage("one", Direct(network) if self.judged else None, ("a",), {"models": 2})
        if self.dies:
            raise SystemExit
        context.meter.train_seconds += 3.0
        with torch.no_grad():
            for p in network.parameters():
                p.add_(1.0)
        yield Stage("two", None)
        return Carry(network, {"kind": "none", "state": {}}, {"critic": rebuildable(critic_of, width=2)})


@pytest.fixture(autouse=True)
def showing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(table.METHODS, "showing", f"{Showing.__module__}:Showing")
    real = table.find
    monkeypatch.setattr(table, "find", lambda kind, name: Showing if name == "showing" else real(kind, name))
    monkeypatch.setattr(Showing, "seen", [])
    monkeypatch.setattr(Showing, "dies", [])


Ran = Callable[..., tuple[list[Stage], Carry]]


@pytest.fixture
def ran(manifest: Path) -> Ran:  # noqa: F811
    def run(context: Context, recipe: Any = None) -> tuple[list[Stage], Carry]:
        return finished(context.run(recipe or Showing(), cut(manifest), a_network()))

    return run


def test_a_stage_is_stamped_with_its_unit_what_it_saw_and_what_it_cost(ran: Ran, tmp_path: Path) -> None:
    context = a_context(tmp_path, seed=4)
    for _ in range(2):  # run, and loaded
        (one, two), _ = ran(context)
        (folder,) = tmp_path.iterdir()
        assert {one.unit, two.unit} == {folder.name}
        assert (one.recipe, one.sites, one.seen, dict(one.facts)) == (Showing(), ("a",), ("a",), {"models": 2})
        assert one.saw == Saw(("a",), (), (), ())
        assert [stage.cost["train_seconds"] for stage in (one, two)] == [2.0, 5.0]
        assert two.predictor is None
    assert len(Showing.seen) == 1
    card = read_card(folder / "stages" / "one")
    assert (card["seed"], card["sites"], card["cost"]["train_seconds"]) == (4, ["a"], 2.0)
    assert card["recipe"] == {"showing": {"judged": True, "first": None}}


def test_what_a_recipe_runs_in_is_its_own(ran: Ran, tmp_path: Path) -> None:
    outside = replace(a_context(tmp_path, seed=4, seconds=7.0), workers=2, continued=frozenset({"x"}), continues=False)
    outside.meter.train_seconds = 99.0
    ran(outside)
    ((scenario, network, inside),) = Showing.seen
    assert (scenario.target, len(scenario.source)) == ((), 1)
    assert inside.label == "showing, seed 4: "
    assert inside.meter is not outside.meter
    assert (inside.workers, inside.continued, inside.continues) == (2, frozenset({"x"}), False)
    assert isinstance(inside.journal, Journal)
    assert (inside.journal.seconds, inside.journal.writes) == (7.0, True)
    (folder,) = tmp_path.iterdir()
    assert inside.journal.folder == folder / "journal"
    assert inside.lease.held is not None
    assert inside.seeds.seed == 4
    assert inside.seeds != outside.seeds
    assert next(network.parameters()).device == outside.fabric.device
    ran(a_context())
    assert isinstance(Showing.seen[-1][2].journal, NoJournal)
    assert Showing.seen[-1][2].lease.held is None


def test_a_finished_unit_has_its_figures_and_neither_journal_nor_lock(ran: Ran, tmp_path: Path) -> None:
    ran(a_context(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["carry.safetensors", "figures.json", "stages"]
    assert Store(folder).figures() == {"mine": CURVE}
    (folder / "journal").mkdir()  # as a process killed in the last moment leaves it
    ran(a_context(tmp_path))
    assert not (folder / "journal").exists()


def test_what_leaves_weights_only_leaves_a_folder_to_start_from(ran: Ran, tmp_path: Path) -> None:
    stages, carry = ran(a_context(tmp_path), Showing(judged=False))
    assert [stage.predictor for stage in stages] == [None, None]
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in (folder / "stages").iterdir()] == ["two"]
    kept, card = load_predictor(folder / "stages" / "two")
    assert isinstance(kept, Weights)
    assert card["cost"]["train_seconds"] == 5.0
    for name, value in kept.network.state_dict().items():
        assert torch.equal(value, carry.network.state_dict()[name])
    ran(a_context(tmp_path / "judged"))
    assert [path.name for path in (tmp_path / "judged").glob("*/stages/*")] == ["one"]


def test_a_stage_that_an_earlier_life_kept_is_judged_as_it_was_then(
    ran: Ran,
    manifest: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    Showing.dies.append(True)
    with pytest.raises(SystemExit):
        ran(a_context(tmp_path))
    (folder,) = tmp_path.iterdir()
    assert (folder / "journal").exists()
    assert not (folder / "lock").exists()
    before = (folder / "stages" / "one" / "model.safetensors").read_bytes()
    Showing.dies.clear()
    later = a_context(tmp_path)
    running = later.run(Showing(), cut(manifest), a_network())
    stage = next(running)
    Showing.seen[-1][2].meter.train_seconds += 50.0  # the second life took longer
    assert stage.predictor is not None
    assert stage.predictor.folder == folder / "stages" / "one"  # type: ignore[attr-defined]
    assert stage.cost["train_seconds"] == 2.0
    finished(running)
    assert (folder / "stages" / "one" / "model.safetensors").read_bytes() == before


def test_what_is_loaded_comes_to_the_device(ran: Ran, tmp_path: Path) -> None:
    ran(a_context(tmp_path))
    context = a_context(tmp_path)
    fabric: Any = SimpleNamespace(
        device=torch.device("meta"),
        is_global_zero=True,
        world_size=1,
        _precision=context.fabric._precision,
        broadcast=lambda value: value,
        barrier=lambda: None,
    )
    _, carry = ran(replace(context, fabric=fabric))
    assert {p.device.type for p in carry.network.parameters()} == {"meta"}
    assert {p.device.type for p in carry.parts["critic"].parameters()} == {"meta"}
    assert len(Showing.seen) == 1


def test_units_that_were_asked_for_are_named_and_each_has_a_meter_of_its_own(ran: Ran, tmp_path: Path) -> None:
    context = replace(a_context(tmp_path), rehearsal={})
    stages, _ = ran(context, Showing(first=Showing(judged=False)))
    inner, outer = (one.unit for one in (stages[0], stages[-1]))
    assert [stage.unit for stage in stages] == [inner, inner, outer, outer]
    assert context.asked == {outer}
    assert Showing.seen[-1][2].asked == {inner}
    assert context.rehearsal is not None
    assert {unit: meter.train_seconds for unit, meter in context.rehearsal.items()} == {inner: 5.0, outer: 5.0}


@dataclass(frozen=True)
class Other:
    """A process that is not the first."""

    is_global_zero: bool = False
    world_size: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def broadcast(self, value: Any) -> Any:
        return value

    def barrier(self) -> None:
        """Waits for nobody."""


def test_only_the_first_process_takes_the_lock_and_keeps_anything(ran: Ran, tmp_path: Path) -> None:
    fabric: Any = Other()
    object.__setattr__(fabric, "_precision", a_context().fabric._precision)
    ran(replace(a_context(tmp_path), fabric=fabric))
    assert list(tmp_path.iterdir()) == []
    inside = Showing.seen[-1][2]
    assert inside.lease.held is None
    assert not inside.journal.writes  # type: ignore[union-attr]


def test_a_unit_that_is_run_again_for_its_optimizer_holds_its_lock(ran: Ran, tmp_path: Path) -> None:
    _, carry = ran(replace(a_context(tmp_path), continues=False))
    assert carry.optimizer is None
    _, carry = ran(a_context(tmp_path))
    assert carry.optimizer == {"kind": "none", "state": {}}
    assert len(Showing.seen) == 2
    assert Showing.seen[-1][2].lease.held is not None
    ran(a_context(tmp_path))
    assert len(Showing.seen) == 2
