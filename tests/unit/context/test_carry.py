"""What a recipe hands on beside its network: a critic that is kept, killed, resumed and loaded is
the one that was trained."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from tests.unit.context.test_context import a_network, cut, finished
from tests.unit.tiny import a_context, write_photographs
from torch import Tensor, nn

from allograft import table, tree
from allograft.batch import Batch
from allograft.context import Context, Store
from allograft.context.journal import Journal
from allograft.errors import AllograftError
from allograft.networks import build, copied, rebuildable
from allograft.predictor import Direct, save_predictor
from allograft.recipe import AnyRecipe, Carry, Needs, Scenario, Stage
from allograft.seeds import Seeds
from allograft.train import train
from allograft.tree import digest


def critic_of(channels: int, width: int) -> nn.Sequential:
    """A critic with running statistics, which are kept too."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1), nn.BatchNorm2d(width), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 4, 2, 1)
    )


@dataclass
class Contest:
    """The network learns to pass for the masks, the critic to tell."""

    network: Any
    critic: nn.Module
    optimizers: list[torch.optim.Optimizer]

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        made, masks = (
            self.network(batch.image)["mask"].softmax(1),
            F.one_hot(batch.labels["mask"][:, 0].clamp_min(0), 2).movedim(-1, 1),
        )  # type: ignore[call-overload,index,union-attr]
        terms = {"fool": F.softplus(-self.critic(made)).mean(), "told": 0.0}
        for name, optimizer in zip(terms, self.optimizers, strict=True):
            if name == "told":
                terms[name] = (
                    F.softplus(self.critic(made.detach())).mean() + F.softplus(-self.critic(masks.float())).mean()
                )
            for each in self.optimizers:
                each.zero_grad()
            terms[name].backward()  # type: ignore[union-attr]
            optimizer.step()
        return {name: value.detach() for name, value in terms.items()}  # type: ignore[union-attr]


def contest(network: Any, critic: nn.Module) -> Contest:
    return Contest(network, critic, [torch.optim.Adam(network.parameters()), torch.optim.Adam(critic.parameters())])


@dataclass(frozen=True)
class Contested:
    """Trains a critic beside the network, and hands both on, with a teacher that is a network
    too."""

    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Two trainings of the same critic, a stage after each."""
        teacher, critic = copied(network), rebuildable(critic_of, channels=2, width=4)
        step, batches = contest(network.train(), critic), context.loader(scenario.source, "source")
        for name in ("one", "two"):
            train(step, batches, steps=3, context=context, name=name)
            yield Stage(name, Direct(network))
        return Carry(network, parts={"critic": critic, "teacher": teacher})


@dataclass(frozen=True)
class GoingOn:
    """Goes on with the critic of ``first``."""

    first: AnyRecipe = field(default_factory=Contested)
    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """One training more."""
        carry = yield from context.run(self.first, scenario, network)
        step = contest(carry.network.train(), carry.parts["critic"])
        train(step, context.loader(scenario.source, "source"), steps=3, context=context)
        yield Stage("end", Direct(carry.network))
        return Carry(carry.network, parts={"critic": carry.parts["critic"]})


class Killed(BaseException):
    """Stands for a process that is gone."""


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("contested", Contested), ("going_on", GoingOn)):
        monkeypatch.setitem(table.METHODS, name, f"{__name__}:{kind.__name__}")


@pytest.fixture(scope="module")
def scenario(tmp_path_factory: pytest.TempPathFactory) -> Scenario:
    return cut(write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 3, "b": 3, "c": 2}, (16, 16)))


def outcome(carry: Carry) -> dict[str, str]:
    return {"network": digest(carry.network), **{name: digest(part) for name, part in carry.parts.items()}}


def ended(recipe: Any, scenario: Scenario, folder: Path | None = None) -> dict[str, str]:
    return outcome(finished(a_context(folder).run(recipe, scenario, a_network()))[1])


def test_a_critic_and_a_teacher_are_loaded_as_they_were(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, carry = finished(a_context(tmp_path).run(Contested(), scenario, a_network()))
    assert outcome(carry)["teacher"] == digest(a_network()) != outcome(carry)["network"]
    monkeypatch.setattr(Contest, "__call__", lambda *_: pytest.fail("trained again"))
    _, loaded = finished(a_context(tmp_path).run(Contested(), scenario, a_network()))
    assert outcome(loaded) == outcome(carry)
    maps = torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.parts["critic"].eval()(maps), carry.parts["critic"].eval()(maps))
    assert loaded.parts["critic"].spec == {"make": {f"{__name__}:critic_of": {"channels": 2, "width": 4}}}


def test_going_on_from_a_loaded_critic_is_going_on_from_the_live_one(scenario: Scenario, tmp_path: Path) -> None:
    live = ended(GoingOn(), scenario)  # nothing is kept
    ended(Contested(), scenario, tmp_path)
    assert ended(GoingOn(), scenario, tmp_path) == live
    assert live["critic"] != ended(Contested(), scenario, tmp_path)["critic"]


@pytest.mark.parametrize("write", [2, 4, 5, 9, 14, 16, 21])
def test_killed_and_resumed_is_undisturbed(
    write: int, scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends right after the n-th of 22 files; checkpoints come at every step, and the
    14th ends the first unit."""
    undisturbed, count, real = ended(GoingOn(), scenario), 0, tree.write_bytes
    monkeypatch.setattr(Journal, "due", lambda self: self.writes)

    def counted(path: Path, data: bytes) -> None:
        nonlocal count
        real(path, data)
        count += 1
        if count == write:
            raise Killed

    with monkeypatch.context() as patch:
        for module in ("allograft.tree", "allograft.predictor.folder"):
            patch.setattr(f"{module}.write_bytes", counted)
        with pytest.raises(Killed):
            ended(GoingOn(), scenario, tmp_path)
    assert ended(GoingOn(), scenario, tmp_path) == undisturbed


def test_another_process_than_the_first_writes_nothing(tmp_path: Path) -> None:
    store, journal = Store(tmp_path / "unit", writes=False), Journal(tmp_path / "journal", 0.0, writes=False)
    store.keep_stage(Stage("end", Direct(a_network())), {})
    store.keep(Carry(a_network()), [], {}, {})
    assert journal.once("made", lambda: 5) == 5
    journal.keep("train", dict)  # type: ignore[arg-type]
    assert not journal.due()
    assert list(tmp_path.iterdir()) == []


def test_a_part_of_the_users_own_module_is_loaded_with_it(tmp_path: Path) -> None:
    own = nn.Conv2d(1, 2, 1)
    spec = {"build": {"custom": {"class": "torch:Conv2d", "key": "mask"}}, "surgery": []}
    carry = Carry(build(spec, own), parts={"teacher": build(spec, own)})
    Store(tmp_path, template=own).keep(carry, [], {}, {})
    found = Store(tmp_path, template=own).load()
    assert found is not None
    assert outcome(found[0]) == outcome(carry)


def test_a_part_that_could_not_be_loaded_is_refused_at_once() -> None:
    with pytest.raises(
        AllograftError, match=r"Carry.parts: 'critic' is a Sequential without a spec.*rebuildable\(FUNCTION"
    ):
        Carry(a_network(), parts={"critic": critic_of(2, 4)})


def test_a_predictor_does_not_hold_it(tmp_path: Path) -> None:
    with Seeds(0).everything(), pytest.raises(TypeError, match="a predictor holds networks, and a Sequential is none"):
        save_predictor(Direct(rebuildable(critic_of, channels=2, width=4)), tmp_path, {})
