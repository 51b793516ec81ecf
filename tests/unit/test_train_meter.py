"""What a training leaves beside its weights: seconds, curves and checkpoints under its own name,
on the device and for the process that it runs on."""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context
from torch import nn

from allograft.batch import Batch
from allograft.context import Budget, Context, Journal
from allograft.recipe import Stage
from allograft.seeds import Seeds
from allograft.train import History, parts, train, train_with_checkpoints


def batches(start: int) -> Iterator[Batch]:
    """Of nothing."""
    for number in itertools.count(start):
        yield Batch(torch.full((1, 1, 2, 2), float(number)), torch.zeros(1).long(), ("a",))


@dataclass
class Noting:
    """A step that keeps what it saw."""

    network: Any = None
    seen: list[Any] = field(default_factory=list)

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.seen.append((batch.image.device.type, torch.rand(()).item()))
        return {"loss": torch.tensor(float(batch.image.mean() if batch.image.device.type == "cpu" else 0.0))}


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by one second a look."""
    clock = itertools.count()
    monkeypatch.setattr("allograft.train.time.perf_counter", lambda: float(next(clock)))


def kept_in(folder: Path, seconds: float = 0.0) -> Context:
    return replace(a_context(), journal=Journal(folder, seconds))


def test_seconds_are_those_of_all_calls_and_of_earlier_lives(ticks: None, tmp_path: Path) -> None:
    """Every look at the clock takes a second: one before, one after, and one at each checkpoint."""
    context = a_context()
    for span in (range(0, 2), range(2, 4)):
        history = train(Noting(), batches, steps=span, context=context)
    assert (history.seconds, context.meter.train_seconds) == (2.0, 2.0)
    first, again = kept_in(tmp_path), kept_in(tmp_path)
    train(Noting(), batches, steps=range(0, 2), context=first)
    kept = Journal(tmp_path).open("train", range(0, 2))
    assert kept is not None
    before = kept["seconds"]
    assert before == 3.0  # two checkpoints, and that at the end
    later = train(Noting(), batches, steps=range(0, 4), context=again)
    assert later.seconds == again.meter.train_seconds == before + 4.0
    kept = Journal(tmp_path).open("train", range(0, 4))
    assert kept is not None
    assert kept["seconds"] == later.seconds - 1.0  # that of the look after the last checkpoint


def test_each_training_has_a_curve_of_its_own_name() -> None:
    context = a_context()
    train(Noting(), batches, steps=2, context=context)
    train(Noting(), batches, steps=range(4, 7), context=context, name="second")
    assert {name: shown.y["loss"] for name, shown in context.meter.figures.items()} == {
        "loss-train": (0.0, 1.0),
        "loss-second": (4.0, 5.0, 6.0),
    }


def test_a_rehearsal_goes_by_the_fastest_step_but_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take one, three and two seconds; the first warms up."""
    clock = iter([0.0, 1.0, 10.0, 13.0, 20.0, 22.0])
    monkeypatch.setattr("allograft.train.time.perf_counter", lambda: next(clock))
    context = replace(a_context(), rehearsal={})
    train(Noting(), batches, steps=10, context=context)
    assert (context.meter.rate, context.meter.planned_seconds) == (2.0, 20.0)


class Elsewhere:
    """A fabric whose device is another one."""

    global_rank = 3
    world_size = 1

    def to_device(self, batch: Batch) -> Batch:
        return batch.to("meta")


@pytest.mark.parametrize("rehearsal", [None, {}])
def test_batches_come_to_the_device(rehearsal: Any) -> None:
    step, context = Noting(), replace(a_context(), fabric=Elsewhere(), rehearsal=rehearsal)  # type: ignore[arg-type]
    train(step, batches, steps=2, context=context)
    assert {device for device, _ in step.seen} == {"meta"}


def test_every_process_draws_for_itself() -> None:
    drawn = []
    for rank in (0, 3):
        fabric: Any = type("Ranked", (), {"global_rank": rank, "to_device": lambda self, batch: batch})()
        step = Noting()
        train(step, batches, steps=3, context=replace(a_context(), fabric=fabric))
        drawn.append([value for _, value in step.seen])
    assert not set(drawn[0]) & set(drawn[1])
    with Seeds(0).everything("train"):
        Seeds(0).seed_everything("train", 1, 3)
        assert torch.rand(()).item() == drawn[1][1]


@pytest.mark.parametrize("rehearsal", [None, {}])
def test_normalisations_of_all_modules_are_shared_by_processes(rehearsal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shared: list[set[nn.Module]] = []

    class Sharing:
        def __init__(self, modules: Any) -> None:
            shared.append({*modules})

        def __enter__(self) -> None:
            shared.append(set())

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr("allograft.train.shared_batch_norm", Sharing)
    network = nn.BatchNorm2d(2)
    train(Noting(network), batches, steps=2, context=replace(a_context(), rehearsal=rehearsal))
    assert shared == [{network}, set()]


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_says_whose_training_it_is_and_goes_where_none_is_wanted(
    progress: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[Any, ...]] = []

    class Bar:
        def __init__(self, *told: Any) -> None:
            bars.append(told)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def show(self, number: int, history: History) -> None:
            bars.append((number,))

    monkeypatch.setattr("allograft.train.Bar", Bar)
    train(Noting(), batches, steps=range(1, 3), context=replace(a_context(), label="mine, seed 3: ", progress=progress))
    assert bars == [("mine, seed 3: train", range(1, 3), 1, progress), (2,), (3,)]


@pytest.mark.parametrize(
    ("spans", "total", "names"),
    [
        ([range(0, 8)], 0, ["tuned-2", "tuned-4", "tuned-6"]),
        ([range(0, 4), range(4, 8)], 8, ["tuned-2", "tuned-4", "tuned-6"]),
        ([range(0, 3), range(3, 8)], 8, ["tuned-2", "tuned-4", "tuned-6"]),
        ([range(0, 4), range(4, 4), range(4, 8)], 8, ["tuned-2", "tuned-4", "tuned-6"]),
        ([range(0, 4)], 0, ["tuned-1", "tuned-2", "tuned-3"]),
    ],
)
def test_models_along_the_way_are_those_of_the_whole_training(spans: list[range], total: int, names: list[str]) -> None:
    context = a_context(budget=Budget(checkpoints=4))
    step, found = Noting(), []

    def every() -> Generator[Stage, None, None]:
        for span in spans:
            yield from train_with_checkpoints(
                step, batches, steps=span, context=context, along=[Stage("tuned")], total=total
            )

    for stage in every():
        found.append((stage.name, len(step.seen)))
    assert [name for name, _ in found] == names
    assert [seen for _, seen in found] == [int(name.partition("-")[2]) for name in names]
    assert len(step.seen) == spans[-1].stop


@dataclass(frozen=True)
class Frozen:
    """Its numbers are settings, and no state."""

    rate: float = 1.0
    inner: Any = None


@dataclass
class Moving:
    """Its numbers are state."""

    count: int = 0
    name: str = "x"
    sure: bool = False


def test_what_has_state_is_found_once_in_whatever_holds_it() -> None:
    layer, moving = nn.Linear(1, 1), Moving(2)
    held = Frozen(inner={"a": [layer, (moving, layer)], "b": Moving})
    found = dict(parts(held))
    assert found.keys() == {"step.inner[a][0]", "step.inner[a][1][0]#"}
    assert found["step.inner[a][0]"] is layer
    state = found["step.inner[a][1][0]#"]
    assert state.state_dict() == {"count": 2, "sure": False}
    state.load_state_dict({"count": 5, "sure": True})
    assert (moving.count, moving.sure, moving.name) == (5, True, "x")


def test_other_mistakes_of_a_step_are_said_as_they_are() -> None:
    def broken(batch: Batch) -> dict[str, torch.Tensor]:
        raise ValueError("something else")

    with pytest.raises(ValueError, match=r"^something else$"):
        train(broken, batches, steps=1, context=a_context())
