"""The loop: stopped anywhere, it goes on to the same bytes; it draws what it needs and nothing
more."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.tiny import a_context
from torch import nn

from allograft.batch import Batch
from allograft.context import Context, Journal, Meter
from allograft.errors import AllograftError, TrainingError
from allograft.seeds import Seeds
from allograft.train import train


class Gone(BaseException):
    """Stands for a killed process."""


@dataclass
class Source:
    """Batches of noise, and which of them were drawn."""

    drawn: list[int] = field(default_factory=list)

    def __call__(self, start: int) -> Iterator[Batch]:
        number = start
        while True:
            self.drawn.append(number)
            image = torch.rand(2, 1, 4, 4, generator=Seeds(1).rng(number))
            yield Batch(image, torch.zeros(2).long(), ("a", "b"))
            number += 1


@dataclass
class Counter:
    count: int = 0
    rate: float = 1.0


@dataclass
class Pair:
    """Two networks, two optimizers, a schedule, a counter, dropout, running statistics; it draws
    from every global generator."""

    first: nn.Module
    others: dict[str, list[Any]]
    one: torch.optim.Optimizer
    two: torch.optim.Optimizer
    schedule: Any
    counter: Counter
    calls: int = 0
    dies_at: frozenset[int] = frozenset()  # a plain number would be restored with the rest

    def __call__(self, batch: Batch) -> dict[str, torch.Tensor]:
        if self.calls in self.dies_at:
            raise Gone
        self.calls += 1
        self.counter.count += 2
        self.counter.rate *= 0.9
        second = self.others["nets"][0]
        noise = torch.randn(()) + np.random.rand() + random.random()
        loss = (second(self.first(batch.image)) * noise).square().mean() * self.counter.rate
        loss.backward()
        for optimizer in (self.one, self.two)[: 1 + self.calls % 2]:
            optimizer.step()
        for optimizer in (self.one, self.two):
            optimizer.zero_grad()
        self.schedule.step()
        return {"loss": loss.detach()}


def a_pair(*dies_at: int) -> Pair:
    with Seeds(0).everything():
        first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5))
        second = nn.Conv2d(3, 1, 1)
    one = torch.optim.Adam(first.parameters(), 0.01)
    two = torch.optim.SGD(second.parameters(), 0.01, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(one, 3, 0.5)
    return Pair(first, {"nets": [second]}, one, two, schedule, Counter(), 0, frozenset(dies_at))


def told(pair: Pair) -> Any:
    from allograft.tree import digest

    counters = pair.counter.count, pair.counter.rate, pair.calls, pair.one.param_groups[0]["lr"]
    return digest(pair.first), digest(pair.others["nets"][0]), counters


def journalled(folder: Path, seconds: float = 0.0) -> Context:
    return replace(a_context(), journal=Journal(folder, seconds))


@pytest.mark.parametrize("dies_at", [1, 4, 9])
def test_stopped_and_resumed_is_undisturbed(dies_at: int, tmp_path: Path) -> None:
    whole = a_pair()
    history = train(whole, Source(), steps=10, context=a_context())
    with pytest.raises(Gone):
        train(a_pair(dies_at), Source(), steps=10, context=journalled(tmp_path))
    resumed, source = a_pair(), Source()
    again = train(resumed, source, steps=10, context=journalled(tmp_path))
    assert told(resumed) == told(whole)
    assert again.terms == history.terms
    assert source.drawn == list(range(dies_at, 10))
    assert len(history.terms["loss"]) == 10


def test_a_finished_call_is_loaded(tmp_path: Path) -> None:
    whole = a_pair()
    train(whole, Source(), steps=4, context=journalled(tmp_path))
    loaded, source = a_pair(0), Source()
    loaded_history = train(loaded, source, steps=4, context=journalled(tmp_path))
    assert told(loaded) == told(whole)
    assert source.drawn == []
    assert len(loaded_history.terms["loss"]) == 4


def test_a_damaged_checkpoint_starts_anew(tmp_path: Path) -> None:
    train(a_pair(), Source(), steps=3, context=journalled(tmp_path))
    (tmp_path / "train.safetensors").write_bytes(b"cut")
    source = Source()
    train(a_pair(), source, steps=5, context=journalled(tmp_path))
    assert source.drawn == [0, 1, 2, 3, 4]


PARTS = (range(0, 2), range(2, 4), range(4, 5), range(5, 9))


def in_parts(pair: Pair, source: Source, context: Context) -> list[float]:
    """One training over ``PARTS``; the whole history of its loss."""
    for part in PARTS:
        history = train(pair, source, steps=part, context=context)
    return history.terms["loss"]


def test_a_training_in_parts_equals_one_call() -> None:
    once, parted, source = a_pair(), a_pair(), Source()
    whole = train(once, Source(), steps=9, context=a_context())
    assert in_parts(parted, source, context := a_context()) == whole.terms["loss"]
    assert source.drawn == list(range(9))
    assert told(parted) == told(once)
    assert len(context.meter.figures["loss-train"].y["loss"]) == 9


@pytest.mark.parametrize("dies_at", range(1, 9))
def test_parts_leave_one_checkpoint_and_those_before_it_are_not_run_again(dies_at: int, tmp_path: Path) -> None:
    undisturbed = a_pair()
    losses = in_parts(undisturbed, Source(), a_context())
    with pytest.raises(Gone):
        in_parts(a_pair(dies_at), Source(), journalled(tmp_path))
    assert len(list(tmp_path.iterdir())) == 1
    again, source, context = a_pair(), Source(), journalled(tmp_path)
    assert in_parts(again, source, context) == losses
    assert told(again) == told(undisturbed)
    assert source.drawn == list(range(dies_at, 9))
    assert len(context.meter.figures["loss-train"].y["loss"]) == 9


def test_epochs_with_names_of_their_own_draw_differently() -> None:
    whole, pair, source = a_pair(), a_pair(), Source()
    train(whole, Source(), steps=6, context=a_context())
    for epoch in range(3):
        train(pair, source, steps=range(2 * epoch, 2 * epoch + 2), context=a_context(), name=f"epoch-{epoch}")
    assert source.drawn == [0, 1, 2, 3, 4, 5]
    assert pair.calls == 6
    assert told(pair) != told(whole)


def test_every_step_draws_its_own() -> None:
    """Dropout masks, say: of PyTorch's, NumPy's and Python's generators."""
    drawn: list[tuple[float, float, float]] = []

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        drawn.append((float(torch.rand(())), float(np.random.rand()), random.random()))
        return {"loss": torch.zeros(())}

    train(step, Source(), steps=5, context=a_context())
    assert all(len(set(values)) == 5 for values in zip(*drawn, strict=True))


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    context = journalled(tmp_path)
    train(a_pair(), Source(), steps=1, context=context)
    with pytest.raises(AllograftError, match=r"train\(name='train'\) was called twice"):
        train(a_pair(), Source(), steps=1, context=context)
    train(a_pair(), Source(), steps=1, context=context, name="more")


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_exactly_n_batches_are_drawn(steps: int) -> None:
    source = Source()
    train(a_pair(), source, steps=steps, context=a_context())
    assert source.drawn == list(range(steps))


def test_the_callers_generators_are_untouched_and_unheard() -> None:
    def run() -> Any:
        pair = a_pair()
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        train(pair, Source(), steps=3, context=a_context())
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
        return told(pair)

    first = run()
    torch.rand(5)
    np.random.rand()
    random.random()
    assert run() == first


def test_name_and_seed_change_the_draws() -> None:
    results = set()
    for name, seed in (("a", 0), ("b", 0), ("a", 1)):
        pair = a_pair()
        train(pair, Source(), steps=2, context=a_context(seed=seed), name=name)
        results.add(told(pair))
    assert len(results) == 3


@pytest.mark.parametrize(("bad", "steps"), [(3, 10), (60, 120), (49, 50), (0, 1)])
def test_a_loss_that_is_not_finite_names_term_and_step(bad: int, steps: int) -> None:
    calls = iter(range(1000))

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        number = next(calls)
        return {"dice": torch.tensor(1.0), "extra": torch.tensor(float("nan") if number >= bad else 1.0)}

    with pytest.raises(
        TrainingError, match=rf"^step {bad}: the loss term 'extra' is not finite; lower the learning rate"
    ):
        train(step, Source(), steps=steps, context=a_context())
    assert next(calls) <= bad + 50


def test_a_single_value_that_no_step_can_normalise_is_said_in_the_studys_words() -> None:
    def step(batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": torch.nn.BatchNorm1d(2)(torch.ones(1, 2)).sum()}

    with pytest.raises(TrainingError, match=r"leaves one value a channel .*raise budget\.batch_size"):
        train(step, Source(), steps=1, context=a_context())

    def other(batch: Batch) -> dict[str, torch.Tensor]:
        raise ValueError("something else")

    with pytest.raises(ValueError, match="something else"):
        train(other, Source(), steps=1, context=a_context())


def test_terms_may_come_and_go() -> None:
    calls = iter(range(10))

    def step(batch: Batch) -> dict[str, torch.Tensor]:
        number = next(calls)
        return {"even" if number % 2 == 0 else "odd": torch.tensor(float(number))}

    history = train(step, Source(), steps=5, context=a_context())
    assert history.terms == {"even": [0, 2, 4], "odd": [1, 3]}
    assert history.last == {"even": 4, "odd": 3}


def test_the_checkpoint_is_of_finite_steps_only(tmp_path: Path) -> None:
    def step(batch: Batch) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(float("inf"))}

    with pytest.raises(TrainingError, match="step 0"):
        train(step, Source(), steps=3, context=journalled(tmp_path))
    assert not list(tmp_path.glob("*"))


def test_once_is_computed_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return {"x": [torch.ones(2), 3]}

    def run() -> Any:
        return journalled(tmp_path).once("split", make)

    assert torch.equal(run()["x"][0], run()["x"][0])
    assert made == [1]
    assert journalled(tmp_path).once("another", lambda: 5) == 5
    assert a_context().once("split", make)["x"][1] == 3
    assert made == [1, 1]


def test_a_rehearsal_takes_three_steps_and_tells_the_time_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that moves by one second a look: each step takes one."""
    ticks = itertools.count()
    monkeypatch.setattr("allograft.train.time.perf_counter", lambda: float(next(ticks)))
    taken: list[Any] = []

    def step(batch: Any) -> dict[str, torch.Tensor]:
        taken.append(batch)
        return {"loss": torch.tensor(1.0)}

    meter = Meter()
    context: Any = SimpleNamespace(rehearsal={}, meter=meter, fabric=SimpleNamespace(to_device=lambda batch: batch))
    history = train(step, lambda start: itertools.count(start), steps=range(10, 50), context=context)  # type: ignore[arg-type]
    assert taken == [10, 11, 12]
    assert len(history.terms["loss"]) == 3
    assert (meter.planned_steps, meter.planned_seconds) == (40, 40.0)
    # its first part stands for all parts of a training
    for epoch in (range(50, 90), range(90, 130)):
        train(step, lambda start: itertools.count(start), steps=epoch, context=context)  # type: ignore[arg-type]
    assert taken == [10, 11, 12]
    assert (meter.planned_steps, meter.planned_seconds) == (120, 120.0)
    train(lambda batch: step(batch), lambda start: itertools.count(start), steps=5, context=context)  # type: ignore[arg-type]
    assert taken[3:] == [0, 1, 2]  # another training is tried itself
    assert (meter.planned_steps, meter.planned_seconds) == (125, 125.0)
