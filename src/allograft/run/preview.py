"""What a study would do, before it does it: its units, what they share, what is done, how long the
rest takes and whether it fits."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich import box
from rich.table import Table

from allograft.context import Meter, Store
from allograft.context.lock import held_elsewhere
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, copied
from allograft.predictor.whole import case_prediction
from allograft.recipe import Stage, title
from allograft.run.session import Session
from allograft.seeds import Seeds
from allograft.study.plan import Plan, Row, scenario_of
from allograft.study.world import World
from allograft.transforms.sample import Sample


@dataclass(frozen=True)
class UnitPreview:
    """One unit of a plan.

    Args:
        unit: its key.
        title: its recipe.
        rows: the rows of the table that it answers or that are built on it.
        state: done, running, to do, or why it cannot be tried.
        steps, seconds: of its training and judging, by a few steps tried; None when it is done or
            cannot be tried.
    """

    unit: str
    title: str
    rows: int
    state: str
    steps: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Preview:
    """All units, and the memory of one training step.

    Args:
        memory, free: bytes that a step is forecast to take, and that are free now.
    """

    units: tuple[UnitPreview, ...]
    memory: int
    free: int

    @property
    def seconds(self) -> float:
        """Of all that is to do, one unit after another."""
        return sum(unit.seconds or 0.0 for unit in self.units)


def preview(session: Session) -> Preview:
    """Prepare a study, forecast its memory, try three steps of each unit that is to do, and keep
    nothing of it.

    Raises:
        SpecError: a training step would not fit into the memory that is free; names the setting
            that would.
    """
    session = session.completed()
    world = session.prepare()
    plan = session.plan(world)
    memory, free = check_memory(session, world)
    meters: dict[str, Meter] = {}
    judging: dict[tuple[str, str], float] = {}
    reasons: dict[str, str] = {}
    built_on: dict[str, set[int]] = {}  # numbers of rows
    tried = [number for number, row in enumerate(plan.rows) if row.seed == 0]  # other seeds take as long
    for number, row in enumerate(plan.rows):
        if row.seed == 0:
            session.say(f"trying {title(row.recipe)}, {tried.index(number) + 1} of {len(tried)}")
            try:
                for key in _tried(session, world, row, meters, judging):
                    built_on.setdefault(key, set()).add(number)
            except Exception as error:
                reasons[row.unit] = f"cannot be tried: {error}"
    return Preview(tuple(_units(session, plan, meters, judging, reasons, built_on)), memory, free)


def _tried(
    session: Session, world: World, row: Row, meters: dict[str, Meter], judging: dict[tuple[str, str], float]
) -> Iterator[str]:
    """Rehearse a row; yields the units it consists of."""
    mine: dict[str, Meter] = {}
    context = replace(session.context(row.seed), folder=None, rehearsal=mine, progress=False)
    cases = sum(len(test.cohort.cases) for test in world.tests(row.fold))
    for stage in context.run(row.recipe, scenario_of(world, row), session.start(world, row.seed)):
        if (stage.unit, stage.name) not in judging:
            judging[stage.unit, stage.name] = cases * _judging(stage, session, world, row)
    meters |= mine
    yield from mine


def _judging(stage: Stage, session: Session, world: World, row: Row) -> float:
    """Seconds for one test case."""
    tests = world.tests(row.fold)
    if stage.predictor is None or not tests:
        return 0.0
    cohort = replace(tests[0].cohort, sites=stage.sites)
    began = time.perf_counter()
    case_prediction(stage.predictor, cohort.whole(0), session.study.made_task, session.fabric.device)
    return time.perf_counter() - began


def _units(
    session: Session,
    plan: Plan,
    meters: Mapping[str, Meter],
    judging: Mapping[tuple[str, str], float],
    reasons: Mapping[str, str],
    built_on: Mapping[str, set[int]],
) -> Iterator[UnitPreview]:
    first: dict[tuple[str, str], str] = {}
    for row in plan.rows:
        for node in row.nodes:
            first.setdefault((title(node.recipe), row.target), node.key)
    for unit, (node, asked) in plan.nodes.items():
        rows = [row for row in plan.rows if row.unit == unit]
        like = first[title(node.recipe), asked.target]  # the same recipe's first seed
        store = Store(session.units / unit)
        state = (
            "done"
            if store.carry_file.exists()
            else "running"
            if held_elsewhere(store.lock_file)
            else reasons.get(like, "to do")
        )
        meter = meters.get(like) if state == "to do" else None
        shared = len(built_on.get(like, rows))
        seconds = (
            meter.planned_seconds + sum(each for (key, _), each in judging.items() if key == like) if meter else None
        )
        yield UnitPreview(unit, title(node.recipe), shared, state, meter.planned_steps if meter else None, seconds)


# ---------------------------------------------------------------------- memory
def step_memory(session: Session, world: World) -> tuple[int, int]:
    """``forecast`` of a training step of the study's network."""
    image = Sample("none", session.study.patch)(world.cohorts[0].case(0), Seeds(0).rng("try")).image
    return forecast(session.start(world, 0), image.shape)


def check_memory(session: Session, world: World) -> tuple[int, int]:
    """Bytes that a training step of the study's network is forecast to take, and that are free."""
    batch, free = session.study.budget.batch_size, free_memory(session.fabric.device)
    fixed, each = step_memory(session, world)
    needed = fixed + batch * each
    if needed > free:
        fits = max(0, int((free - fixed) // max(each, 1)))
        mend = (
            f"set budget.batch_size to at most {fits}"
            if fits
            else "set a smaller patch or preprocessing.size, or a smaller network"
        )
        raise SpecError(
            f"budget.batch_size: a step of {batch} would take about {_gib(needed)}, {_gib(free)} are free; {mend}"
        )
    return needed, free


def forecast(network: AnyNetwork, shape: Sequence[int]) -> tuple[int, int]:
    """Bytes of a training step, without computing it: those that do not grow with the batch, and
    those of one image more.

    Parameters, gradients and two moments; and all that is saved for backward, once more for what
    backward makes of it. Measured on tensors without content, so nothing is allocated.

    Args:
        shape: of a batch (B, C, *spatial); B does not count.
    """
    empty = copied(network).to("meta").train()
    moving = sum(p.numel() * p.element_size() for p in empty.parameters() if p.requires_grad)
    own = {id(p) for p in empty.parameters()}
    saved: dict[int, torch.Tensor] = {}  # holds the tensors, so that no identity is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in own:
            saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = empty(torch.empty((2, *shape[1:]), device="meta"))
        sum(value.float().sum() for value in output.values())
    activations = sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) // 2
    return 4 * moving, 2 * activations


def free_memory(device: torch.device) -> int:
    """Bytes free on the device; of the machine for a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024
    except (OSError, StopIteration):  # no Linux
        import os

        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"


# ---------------------------------------------------------------------- as text
def preview_table(made: Preview) -> Table:
    """One line a unit, and the sums below."""
    todo = [unit for unit in made.units if unit.state == "to do"]
    table = Table(
        title=f"{len(made.units)} units, {len(todo)} to do",
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
    )
    for name in ("unit", "recipe"):
        table.add_column(name)
    for name in ("rows built on it", "state", "steps", "time"):
        table.add_column(name, justify="right")
    for unit in made.units:
        steps = "" if unit.steps is None else f"{unit.steps}"
        table.add_row(
            unit.unit[:8],
            unit.title,
            f"{unit.rows}",
            unit.state,
            steps,
            "" if unit.seconds is None else duration(unit.seconds),
        )
    table.caption = (
        f"about {duration(made.seconds)} to go in one process, estimated from three steps of each recipe\n"
        f"a training step takes about {_gib(made.memory)} of the {_gib(made.free)} that are free"
    )
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(42), duration(200), duration(7300)
    ('42 s', '3 min 20 s', '2 h 1 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
