"""The one loop. It knows no method's name: what a step holds is found, kept and restored without
being declared."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeGuard

from torch import Tensor, nn

from allograft.batch import Batch
from allograft.errors import TrainingError
from allograft.figure import thinned
from allograft.nn.batchnorm import shared_batch_norm
from allograft.progress import Bar
from allograft.recipe import Stage
from allograft.step import Step, Terms

if TYPE_CHECKING:
    from allograft.context import Context, Meter
    from allograft.context.journal import Checkpoint

FLUSH = 50
"""Steps between two readings of the terms; reading waits for the device."""


class Batches(Protocol):
    """An endless source addressed by step number."""

    def __call__(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on."""


@dataclass
class History:
    """Each term's value at each step of a training, over all calls of its name, and the seconds
    these took."""

    terms: dict[str, list[float]] = field(default_factory=dict)
    seconds: float = 0.0
    waiting: list[Mapping[str, Tensor]] = field(default_factory=list)

    def add(self, terms: Mapping[str, Tensor], number: int) -> None:
        """Note the terms of a step."""
        self.waiting.append(terms)
        if len(self.waiting) >= FLUSH:
            self.flush(number + 1)

    def flush(self, number: int) -> None:
        """Read what is waiting, the newest of it from step ``number - 1``. ``TrainingError`` when a
        term is not finite."""
        for step, terms in enumerate(self.waiting, number - len(self.waiting)):
            for key, value in terms.items():
                self.terms.setdefault(key, []).append(float(value))
                if not math.isfinite(self.terms[key][-1]):
                    raise TrainingError(
                        f"step {step}: the loss term '{key}' is not finite; lower the learning rate, or clip the "
                        "gradients (clip: 1.0)"
                    )
        self.waiting.clear()

    @property
    def last(self) -> dict[str, float]:
        """The newest value of each term."""
        return {key: values[-1] for key, values in self.terms.items() if values}


def train(step: Step, batches: Batches, *, steps: int | range, context: Context, name: str = "train") -> History:
    """Run a step over batches, with checkpoints, and go on from the newest one.

    Global generators are seeded anew at each step from (seed, unit, name, step, rank), and are
    outside as they were before.

    Args:
        step: called with a batch on the device; its state is what its fields hold (see ``parts``).
        batches: addressed by step number.
        steps: how many, or which numbers: epochs call ``train`` with ranges.
        name: of the training; calls of one name continue it over consecutive steps, and share one
            checkpoint and one loss curve. What an earlier life of the run kept is loaded, not
            repeated.

    Returns:
        The history of the training up to now.
    """
    span = range(steps) if isinstance(steps, int) else steps
    if context.rehearsal is not None:
        return _rehearsed(step, batches, span, context)
    history: History = context.meter.histories.setdefault(name, History())
    start = _resumed(step, span, context, name, history)
    if start is None:
        return history
    began = time.perf_counter()

    def state(number: int) -> Checkpoint:
        history.flush(number)
        kept = {path: part.state_dict() for path, part in parts(step)}
        spent = history.seconds + time.perf_counter() - began
        return {"at": number, "history": history.terms, "seconds": spent, "parts": kept}

    if start < span.stop:
        bar = Bar(f"{context.label}{name}", span, start, context.progress)
        with context.seeds.everything(name), shared_batch_norm(modules(step)), bar:
            stream = batches(start)
            for number in range(start, span.stop):
                batch = next(stream)  # never zip(range, stream): it draws one batch too many
                context.seeds.seed_everything(name, number, context.fabric.global_rank)
                history.add(_taken(step, context.fabric.to_device(batch)), number)
                bar.show(number + 1, history)
                if context.journal.due():
                    context.journal.keep(name, partial(state, number + 1))
        history.flush(span.stop)
        context.journal.finish(name, partial(state, span.stop))
    spent = time.perf_counter() - began
    history.seconds += spent
    context.meter.train_seconds += spent
    context.meter.figures[f"loss-{name}"] = thinned(history.terms, f"loss of '{name}'")
    return history


def _resumed(step: Step, span: range, context: Context, name: str, history: History) -> int | None:
    """The step to go on from, with step and history as the newest checkpoint has them; None where
    an earlier life of the run is past these steps."""
    saved = context.journal.open(name, span)
    if saved is None:
        return None if context.journal.passed(name, span) else span.start
    for path, part in parts(step):
        part.load_state_dict(saved["parts"][path])
    history.terms, history.seconds = saved["history"], saved["seconds"]
    context.meter.train_seconds += history.seconds
    return saved["at"]


def train_with_checkpoints(
    step: Step,
    batches: Batches,
    *,
    steps: int | range,
    context: Context,
    along: Sequence[Stage],
    name: str = "train",
    total: int = 0,
) -> Generator[Stage, None, History]:
    """``train``, which yields the models along the way that ``budget.checkpoints`` asks for; that
    at the end is the recipe's to yield.

    Args:
        step, batches, steps, context, name: as of ``train``.
        along: what is yielded at each checkpoint, named by its number of steps: ``tuned-50``; of
            the live network.
        total: steps of the whole training, where these are a part of it.
    """
    span = range(steps) if isinstance(steps, int) else steps
    total = total or span.stop
    marks = context.settings.budget.marks(total)
    edges = [span.start, *(mark for mark in marks if span.start < mark < span.stop), span.stop]
    history = History()
    for start, stop in pairwise(edges):
        history = train(step, batches, steps=range(start, stop), context=context, name=name)
        if stop in marks and stop > start:
            yield from (replace(stage, name=f"{stage.name}-{stop}") for stage in along)
    return history


def _taken(step: Step, batch: Batch) -> Terms:
    """The step; what torch's normalisations say of a single value is said in the study's words."""
    try:
        return step(batch)
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 "):
            raise
        raise TrainingError(
            f"a batch of {len(batch)} leaves one value a channel in the network, too few to normalise; raise "
            "budget.batch_size, "
            "or make images larger: patch, preprocessing.size"
        ) from error


def modules(step: Step) -> Iterator[nn.Module]:
    """The modules a step holds."""
    return (part for _, part in parts(step) if isinstance(part, nn.Module))


def _rehearsed(step: Step, batches: Batches, span: range, context: Context) -> History:
    """Three steps in the place of all, the first to warm up: how long all would take goes to the
    meter.

    Of a training in parts, such as epochs, the first part's three stand for all.
    """
    meter = context.meter
    history, times = History(), []
    if not span or (meter.tried is not None and meter.tried() is step):
        return _planned(meter, len(span), history)
    few, stream = span[:3], batches(span.start)
    with shared_batch_norm(modules(step)):
        for number in few:
            began = time.perf_counter()
            history.add(_taken(step, context.fabric.to_device(next(stream))), number)
            history.flush(number + 1)  # reads the terms, so waits for the device
            times.append(time.perf_counter() - began)
    meter.tried, meter.rate = weakref.ref(step), min(times[1:] or times)
    return _planned(meter, len(span), history)


def _planned(meter: Meter, steps: int, history: History) -> History:
    meter.planned_steps += steps
    meter.planned_seconds += meter.rate * steps
    return history


class Stateful(Protocol):
    """What has a state to keep: a module, an optimizer, a schedule."""

    def state_dict(self) -> Mapping[str, object]:
        """The state."""

    def load_state_dict(self, state: Mapping[str, object], /) -> object:
        """As ``state_dict`` gave it."""


def _is_stateful(thing: object) -> TypeGuard[Stateful]:
    return hasattr(thing, "state_dict") and hasattr(thing, "load_state_dict")


def parts(thing: object, path: str = "step", seen: set[int] | None = None) -> Iterator[tuple[str, Stateful]]:
    """Every stateful thing a step holds, once: modules, optimizers, schedules, and the plain
    numbers of unfrozen dataclasses.

    State hidden in a closure is not found; the resume test of the contract catches that.
    """
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    if _is_stateful(thing):
        seen.add(id(thing))
        yield path, thing
    elif is_dataclass(thing) and not isinstance(thing, type):
        seen.add(id(thing))
        for f in fields(thing):
            yield from parts(getattr(thing, f.name), f"{path}.{f.name}", seen)
        counters = tuple(f.name for f in fields(thing) if type(getattr(thing, f.name)) in (int, float, bool))
        if counters and not thing.__dataclass_params__.frozen:  # type: ignore[attr-defined]
            yield f"{path}#", _Counters(thing, counters)
    elif isinstance(thing, (list, tuple)):
        for i, value in enumerate(thing):
            yield from parts(value, f"{path}[{i}]", seen)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from parts(value, f"{path}[{key}]", seen)


@dataclass(frozen=True)
class _Counters:
    owner: object
    names: tuple[str, ...]

    def state_dict(self) -> dict[str, object]:
        return {name: getattr(self.owner, name) for name in self.names}

    def load_state_dict(self, state: Mapping[str, object], /) -> None:
        for name, value in state.items():
            setattr(self.owner, name, value)
