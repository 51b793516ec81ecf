"""A session: one process's part in a study, from reading and checking to the last page."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from allograft import tree
from allograft.context import Context, Node, Store
from allograft.context.lock import gone, held_elsewhere
from allograft.errors import LeaseLost, OutputError
from allograft.networks import AnyNetwork, build, copied
from allograft.networks.load import load_weights
from allograft.networks.network import Spec, operate, spec_of
from allograft.recipe import title
from allograft.results.looks import Looking
from allograft.results.record import record_name
from allograft.run import closing, preflight
from allograft.run.closing import Result
from allograft.run.judge import Judge, failed_record
from allograft.run.pace import Pace
from allograft.run.start import anew_in, network_of
from allograft.seeds import Seeds
from allograft.study.parts import shared_folder
from allograft.study.plan import Plan, Row, bare_rows, nodes_of, scenario_of
from allograft.study.spec import Study
from allograft.study.world import World

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_LOG = logging.getLogger(__name__)
NetworkSource = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Session:
    """One process's part in a study.

    Args:
        continued: units whose optimizer a row of another part of the study continues.
        progress: whether a terminal shows a bar of each training.
        look: called before test scores are written or shown.
    """

    study: Study
    out: Path
    network: NetworkSource | None
    fabric: Fabric
    workers: int
    checkpoint_seconds: float
    say: Callable[[str], None]
    continued: frozenset[str] = frozenset()
    progress: bool = True
    look: Looking = field(default_factory=Looking)

    @property
    def units(self) -> Path:
        """The folder of the units, which all parts of a study share."""
        return shared_folder(self.out) / "units"

    def completed(self) -> Session:
        """The session of the same study with what it leaves open filled in, by its images; see
        ``with_defaults``."""
        return preflight.completed(self)

    def prepare(self) -> World:
        """Read and check everything before anything is trained: every row, and all that is wrong
        at once."""
        return preflight.prepare(self)

    def plan(self, world: World) -> Plan:
        """Rows with their content keys."""
        keyed = []
        networks = {seed: self.start(world, seed) for seed in range(self.study.seeds)}
        for row in bare_rows(world):
            context = self.context(row.seed)
            keyed.append(replace(row, nodes=tuple(nodes_of(world, row, networks[row.seed], context))))
        plan = Plan(
            tuple(keyed),
            self.study.seeds,
            self.study.made_task,
            self.study.statistics,
            self.study.primary_title,
            self.study.reference_title,
        )
        self.say(f"{len(plan.rows)} rows, {len(plan.units)} distinct units")
        return plan

    def context(self, seed: int) -> Context:
        """What the recipes of one seed run in."""
        with Seeds(seed).everything("network"):
            template = self.network if isinstance(self.network, nn.Module) else self.network() if self.network else None
        return Context(
            fabric=self.fabric,
            seeds=Seeds(seed),
            task=self.study.made_task,
            settings=self.study.settings,
            folder=self.units,
            workers=self.workers,
            checkpoint_seconds=self.checkpoint_seconds,
            template=template,
            continued=self.continued,
            continues=False,
            progress=self.progress,
        )

    def start(self, world: World, seed: int) -> AnyNetwork:
        """The network that every recipe of a seed starts from."""
        return self.start_of(world.cohorts[0].case(0).image.shape[1], seed)

    def start_of(self, channels: int, seed: int) -> AnyNetwork:
        """The same, for images of so many channels."""
        task = self.study.made_task
        with Seeds(seed).everything("network"):
            if self.network is not None:
                module = self.network if isinstance(self.network, nn.Module) else self.network()
                address = f"{type(module).__module__}:{type(module).__qualname__}"
                network = copied(
                    build({"build": {"custom": {"class": address, "key": task.key}}, "surgery": []}, module)
                )
            else:
                network = build(self._spec(channels, task.outputs))
            if self.study.start != "scratch":
                load_weights(network, self.study.start_path, anew_in(network, self.anew()))
        return operate(network, "channels_last") if self.study.channels_last else network

    def _spec(self, channels: int, outputs: Mapping[str, int]) -> Spec:
        """The study's network; a model folder as start brings its own, with the study's outputs."""
        if self.starts_from_folder:
            return network_of(self.study.start_path, self.study.made_task)[0]
        return spec_of(self.study.network, channels, outputs)

    def anew(self) -> Mapping[str, str]:
        """Outputs whose heads start at random though the start has some, with the reason."""
        own = self.network is not None or not self.starts_from_folder
        return {} if own else network_of(self.study.start_path, self.study.made_task)[1]

    @property
    def starts_from_folder(self) -> bool:
        """Whether the study starts from a model folder, which brings its network."""
        return self.study.start != "scratch" and os.path.isdir(self.study.start_path)

    def run_all(self, world: World, plan: Plan, shard: tuple[int, int], *, report: bool) -> None:
        """Run the rows of a shard; a unit that another process holds is come back to."""
        pace = Pace()
        own = tuple(dict.fromkeys(row.unit for row in plan.rows))
        wanted = set(own[shard[0] - 1 :: shard[1]])
        todo = [row for row in plan.rows if row.unit in wanted]
        total = len(todo)
        while todo:
            free = [
                n
                for n, row in enumerate(todo)
                if not any(held_elsewhere(self.store(node.key).lock_file) for node in row.nodes)
            ]
            turn = self.fabric.broadcast(free[0] if free else None)
            if turn is None:
                time.sleep(1.0)
                continue
            row, counted = todo.pop(turn), f"{total - len(todo)} of {total}"
            try:
                has_run = replace(self, continued=self.continued | plan.continued).run(world, row, counted)
            except LeaseLost:
                if self.fabric.world_size > 1:
                    raise  # the others of this group wait for this one's part of a step
                self.say(
                    f"[{counted}] another process took over this unit while this one was suspended; its result "
                    "will be used"
                )
                todo.append(row)
                continue
            if has_run and report and todo and self.fabric.is_global_zero:
                waiting = [row.unit for row in todo]
                pace(partial(closing.write_page, self, world, plan, pictures=False, waiting=waiting))

    def store(self, unit: str) -> Store:
        """What is kept of a unit."""
        return Store(self.units / unit, self.fabric.is_global_zero)

    def run(self, world: World, row: Row, counted: str) -> bool:
        """Run and judge one row, unless all of it is there already; a failure becomes a record.

        Returns:
            Whether there was anything to do.
        """
        self._check_folder()
        context, judge = self.context(row.seed), self._judge(world, row)
        # before anything else: another target's row may have run this unit since
        tree.remove(self.out / "records" / f"{record_name(row.unit, 'failed', row.target, 'test', row.fold)}.json")
        for node in row.nodes:
            self._uncleaned(node.key, judge)
        store = replace(self.store(row.unit), template=context.template)
        finished = store.stages()
        if finished and judge.complete(row.unit, finished):
            store.tidy()
            return False
        self.say(
            f"[{counted}] {title(row.recipe)} -> {row.target}, seed {row.seed}"
            + (f", fold {row.fold}" if world.folds > 1 else "")
        )
        ordinals: dict[str, int] = {}
        began = time.monotonic()
        try:
            for stage in context.run(row.recipe, scenario_of(world, row), self.start(world, row.seed)):
                ordinal = ordinals[stage.unit] = ordinals.get(stage.unit, -1) + 1
                if self.fabric.is_global_zero:
                    self.look()
                    judge(stage, ordinal, row.seed)
                    if _LOG.isEnabledFor(logging.DEBUG):
                        spent = time.monotonic() - began
                        _LOG.debug("[%s] %s after %.1f s: %s", counted, stage.name, spent, judge.scores(stage))
                self.fabric.barrier()
        # no fault of the recipe's; a full disk the next unit would meet too
        except (OutputError, LeaseLost):
            raise
        except Exception as error:  # a unit that fails is shown; the rest goes on
            self.keep_failure(row, error)
            self.say(f"[{counted}] failed: {type(error).__name__}: {error}")
        return True

    def run_node(self, world: World, row: Row, node: Node, counted: str) -> None:
        """Run one unit that a row is built on, and evaluate nothing. A failure is only said: it
        comes back in every row that is built on it, which keeps it."""
        self._check_folder()
        self.say(f"[{counted}] {title(node.recipe)}, seed {row.seed}, for rows that are built on it")
        try:
            for _ in self.context(row.seed).run(node.recipe, scenario_of(world, row), self.start(world, row.seed)):
                pass
        except (OutputError, LeaseLost):
            raise
        except Exception as error:
            self.say(f"[{counted}] failed: {type(error).__name__}: {error}")

    def is_done(self, world: World, rows: Sequence[Row], unit: str) -> bool:
        """Whether a unit is finished and every row that it answers is evaluated."""
        stages = self.store(unit).stages()
        if not stages:
            return bool(not rows and stages is not None)
        return all(self._judge(world, row).complete(unit, stages) for row in rows)

    def keep_failure(self, row: Row, error: Exception) -> None:
        """Write the record of a run that failed, and why."""
        failed_record(row.unit, row.recipe, row.seed, row.target, row.fold, error, self.fabric).write(
            self.out / "records"
        )
        _keep_traceback(self.units / row.unit, error)

    def _judge(self, world: World, row: Row) -> Judge:
        tests = (*world.tests(row.fold), *world.unlabelled_training(row.fold))
        return Judge(tests, self.study.made_task, self.out / "records", self.fabric)

    def _uncleaned(self, unit: str, judge: Judge) -> None:
        """Have a unit run again of which ``clean`` removed stages, when there is more to judge than
        there was."""
        store = self.store(unit)
        names = self.fabric.broadcast(store.cleaned())
        if names:
            stages = [stage for stage in store.stages() or () if stage.name in names]
            if self.fabric.is_global_zero and not judge.complete(unit, stages):
                store.forget()
            self.fabric.barrier()

    def restore(self, world: World, plan: Plan) -> None:
        """Run again what ``clean`` removed and the table now needs, after another rule of selection
        say."""
        closing.restore(self, world, plan)

    def finish(
        self, world: World, plan: Plan, *, report: bool, pictures: bool = True, keeps_page: bool = False
    ) -> Result:
        """Table, verdicts, models, ``results.csv``, ``metrics.csv`` and report.

        Args:
            keeps_page: leave a page as it is that was made of the same records.
        """
        self._check_folder()
        return closing.finish(self, world, plan, report=report, pictures=pictures, keeps_page=keeps_page)

    def _check_folder(self) -> None:
        """Whether what this run kept when it began is still there, before more is written."""
        if self.fabric.is_global_zero and not (self.out / "study.json").exists():
            raise gone(self.out)


def _keep_traceback(folder: Path, error: Exception) -> None:
    import traceback

    tree.write_bytes(folder / "error.txt", "".join(traceback.format_exception(error)).encode())
