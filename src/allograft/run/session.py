"""A session: one process's part in a study, from reading and checking to the last page."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from allograft import tree
from allograft.cohort.splits import write_splits
from allograft.context import Context, Node, Store
from allograft.context.context import copied
from allograft.context.lock import held_elsewhere
from allograft.errors import AllograftError, LeaseLost, OutputError, SpecError
from allograft.networks import AnyNetwork, build
from allograft.networks.load import load_weights
from allograft.networks.network import Spec, operate, spec_of
from allograft.predictor import evaluation_mode
from allograft.predictor.card import read_card
from allograft.recipe import title
from allograft.recipe.needs import check_needs, check_recipe
from allograft.results.analysis.correction import corrections, write_corrections
from allograft.results.costs import unit_seconds
from allograft.results.csv_files import result_frame, write_metrics, write_results
from allograft.results.evidence import write_verdicts
from allograft.results.looks import Looking
from allograft.results.models import export_models, refuse_training_images
from allograft.results.protocol import check_protocol, protocol_sentence
from allograft.results.record import read_all, record_name
from allograft.results.select import NOT_YET, Line
from allograft.results.standing import Standing, standing_of
from allograft.run.curves import curves_of
from allograft.run.defaults import refused_sizes, with_defaults
from allograft.run.images import check_millimetres, network_shape, prepare_images
from allograft.run.judge import Judge, failed_record
from allograft.run.pace import Pace, Page
from allograft.run.start import anew_in, network_of, refuse_untrained
from allograft.schedule import make_schedule
from allograft.seeds import Seeds
from allograft.study.parts import shared_folder
from allograft.study.plan import Plan, Row, bare_rows, nodes_of, scenario_of
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.transforms.sample import Sample
from allograft.tree import content_hash, plain

if TYPE_CHECKING:
    import pandas as pd
    from lightning_fabric import Fabric

_LOG = logging.getLogger(__name__)
NetworkSource = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Result:
    """What a study leaves.

    Args:
        out: the folder.
        study, plan: what was asked.
        lines: the table.
        models: (recipe's title, target) -> model folder.
        standing: how far the study is, with its verdicts.
    """

    out: Path
    study: Study
    plan: Plan
    lines: tuple[Line, ...]
    models: Mapping[tuple[str, str], Path]
    standing: Standing = field(default_factory=Standing)

    @property
    def table(self) -> pd.DataFrame:
        """The rows of ``results.csv``: one per recipe, target and evaluated site."""
        return result_frame(self.plan, self.lines)

    @property
    def failed(self) -> int:
        """How many runs failed; one that waits for another shard has not."""
        return sum(run.error not in ("", NOT_YET) for line in self.lines for run in line.runs)


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
        _check_writable(self.out)
        own, cohorts = self.network is not None or self._starts_from_folder(), World.read(self.study, self.out).cohorts
        made = with_defaults(self.study, cohorts, self.say, multiple=self._multiple, own_network=own)
        return replace(self, study=made)

    def _multiple(self, study: Study, channels: int) -> int:
        return replace(self, study=study).start_of(channels, 0).multiple

    def prepare(self) -> World:
        """Read and check everything before anything is trained: every row, and all that is wrong
        at once."""
        _check_writable(self.out)
        world = World.read(self.study, self.out)
        check_protocol(self.out, self.study, world)
        prepare_images(world.cohorts, self.say)
        check_millimetres(world.cohorts, self.study.made_task)
        for line in (*world.untested().values(), *world.one_class().values()):
            self.say(f"warning: {line}")
        refused = _refused(bare_rows(world), lambda row: check_needs(row.recipe, scenario_of(world, row), row.target))
        if self.study.start != "scratch":
            network = self.start(world, 0)
            anew = self._anew()
            report = load_weights(network, self.study.start_path, anew_in(network, anew))
            self.say(f"start: {report}")
            refuse_untrained(
                anew, trained=bool(world.study.source or world.study.stream) or self.study.target_labels != "none"
            )
            tree.write_json(self.out / "start.json", plain(report))
        if self._starts_from_folder():
            tested = [case for fold in range(world.folds) for test in world.tests(fold) for case in test.cohort.cases]
            refuse_training_images(read_card(self.study.start_path), tested, self.study.start_path)
        self._try(world)
        context, network = self.context(0), self.start(world, 0)
        rest = [row for row in bare_rows(world) if row.seed == 0 and title(row.recipe) not in refused]
        refused |= _refused(rest, lambda row: check_recipe(row.recipe, scenario_of(world, row), network, context))
        _raise_all(refused)
        # a wrong argument is refused before anything is kept
        optimizer = context.optimizer(network.parameters())
        make_schedule(self.study.settings.schedule, optimizer, 1)
        if self.fabric.is_global_zero:
            self._keep(world)
        return world

    def _keep(self, world: World) -> None:
        """What ``report OUT`` and the next run need: the splits and the study."""
        write_splits(self.out / "splits.csv", world.assignments, world.listed)
        tree.write_json(self.out / "study.json", self.study.spelt_out())

    def _try(self, world: World) -> None:
        """One sample and an image of each size through the network, so that sizes that do not fit
        are refused before anything is trained."""
        network = self.start(world, 0)
        try:
            sample = Sample("none", self.study.patch)(world.cohorts[0].case(0), Seeds(0).rng("try"))
        except (RuntimeError, ValueError) as error:
            raise SpecError(
                f"patch: {self.study.patch} cannot be cut from an image ({error}); give one number for each axis"
            ) from error
        try:
            with evaluation_mode(network):
                network(sample.image)
        except (RuntimeError, ValueError) as error:
            raise SpecError(
                f"network: cannot take a training sample of shape {tuple(sample.image.shape)} "
                f"({str(error).splitlines()[0]}); "
                f"set patch or preprocessing.size to multiples of {network.multiple}, and spatial_dims to the images'"
            ) from error
        tested = [test.cohort for fold in range(world.folds) for test in world.tests(fold)]
        shapes = {network_shape(cohort, case) for cohort in tested for case in cohort.cases}
        for shape, why in refused_sizes(network, shapes).items():
            raise SpecError(
                f"network: cannot predict an image of shape {shape} ({why}), and models are evaluated on complete "
                "images; set preprocessing.size to what it can take, or choose another network"
            )

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
                load_weights(network, self.study.start_path, anew_in(network, self._anew()))
        return operate(network, "channels_last") if self.study.channels_last else network

    def _spec(self, channels: int, outputs: Mapping[str, int]) -> Spec:
        """The study's network; a model folder as start brings its own, with the study's outputs."""
        if self._starts_from_folder():
            return network_of(self.study.start_path, self.study.made_task)[0]
        return spec_of(self.study.network, channels, outputs)

    def _anew(self) -> Mapping[str, str]:
        """Outputs whose heads start at random though the start has some, with the reason."""
        own = self.network is not None or not self._starts_from_folder()
        return {} if own else network_of(self.study.start_path, self.study.made_task)[1]

    def _starts_from_folder(self) -> bool:
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
                if not any(held_elsewhere(self._store(node.key).lock_file) for node in row.nodes)
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
                    f"[{counted}] another process took this unit over while this one stood still; its result "
                    "will be used"
                )
                todo.append(row)
                continue
            if has_run and report and todo and self.fabric.is_global_zero:
                waiting = [row.unit for row in todo]
                pace(partial(self.report, world, plan, pictures=False, waiting=waiting))

    def _store(self, unit: str) -> Store:
        return Store(self.units / unit, self.fabric.is_global_zero)

    def run(self, world: World, row: Row, counted: str) -> bool:
        """Run and judge one row, unless all of it is there already; a failure becomes a record.

        Returns:
            Whether there was anything to do.
        """
        context, judge = self.context(row.seed), self._judge(world, row)
        # before anything else: another target's row may have run this unit since
        tree.remove(self.out / "records" / f"{record_name(row.unit, 'failed', row.target, 'test', row.fold)}.json")
        for node in row.nodes:
            self._uncleaned(node.key, judge)
        store = replace(self._store(row.unit), template=context.template)
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
        stages = self._store(unit).stages()
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
        store = self._store(unit)
        names = self.fabric.broadcast(store.cleaned())
        if names:
            stages = [stage for stage in store.stages() or () if stage.name in names]
            if self.fabric.is_global_zero and not judge.complete(unit, stages):
                store.forget()
            self.fabric.barrier()

    def restore(self, world: World, plan: Plan) -> None:
        """Run again what ``clean`` removed and the table now needs, after another rule of selection
        say."""
        table = standing_of(world.study, plan, read_all(self.out), self.units).lines
        for run in (run for line in table if (run := line.best_run) is not None):
            if run.stage in self._store(run.row.unit).cleaned():
                self._store(run.row.unit).forget()
                replace(self, continued=self.continued | plan.continued).run(world, run.row, "cleaned before")

    def finish(
        self, world: World, plan: Plan, *, report: bool, pictures: bool = True, keeps_page: bool = False
    ) -> Result:
        """Table, verdicts, models, ``results.csv``, ``metrics.csv``, ``correction.csv`` where boxes
        were corrected, and report.

        Args:
            keeps_page: leave a page as it is that was made of the same records.
        """
        now = standing_of(world.study, plan, read_all(self.out), self.units)
        if any(run.tests for line in now.lines for run in line.runs):
            self.look()
        frozen = protocol_sentence(shared_folder(self.out))
        models = export_models(
            self.out, world, now, self.units, template=self.context(0).template, device=self.fabric.device
        )
        write_verdicts(self.out, now.verdicts)
        write_results(self.out, plan, now.lines)
        write_metrics(self.out, plan, now.lines)
        write_corrections(self.out, corrections(self.out, world, now.lines))
        asked = [world.study.spelt_out(), plan.units, now.done, now.total, pictures, *filter(None, [frozen])]
        page = Page(self.out, content_hash(*asked))
        if report and not (keeps_page and page.is_current()):
            self.report(world, plan, pictures=pictures, now=now)
            page.written()
        return Result(self.out, world.study, plan, now.lines, models, now)

    def report(
        self, world: World, plan: Plan, *, pictures: bool, waiting: Collection[str] = (), now: Standing | None = None
    ) -> None:
        """Write ``report.html`` from the records that are there.

        Args:
            pictures: whether it may show patients' images.
            waiting: of a study that runs, the units that wait, undone even if they failed before.
            now: of a run that has ended, how far the study is; the page has further sections then.
        """
        from allograft.report import Shows, write_annotate, write_report
        from allograft.report.sections import sections_of
        from allograft.run.pictures import pictures_of

        records = read_all(self.out, skip_damaged=not pictures)
        made = now or standing_of(world.study, plan, records, self.units, waiting)
        table = list(made.lines)
        template, device = self.context(0).template, self.fabric.device
        drawn = pictures_of(self.out, world, table, template) if pictures else {}
        figures = {
            (line.title, line.target): self._store(run.row.unit).figures(images=pictures)
            for line in table
            if (run := line.best_run)
        }
        extras = sections_of(self.out, world, plan, records, table, template, device=device) if now is not None else {}
        write_annotate(self.out, table)
        curves = curves_of(plan, self.units, records.values()) if made.done < made.total else []
        shows = Shows(
            drawn,
            figures,
            extras,
            world,
            seconds=unit_seconds(records.values()),
            curves=curves,
            frozen=protocol_sentence(shared_folder(self.out)),
        )
        page = self.out / "report.html"
        Page.forget(self.out)
        write_report(page, study=world.study, plan=plan, standing=made, shows=shows)


def _refused(rows: Sequence[Row], check: Callable[[Row], None]) -> dict[str, AllograftError]:
    """Recipe's title -> why it cannot be run, of each that a check refuses."""
    refused: dict[str, AllograftError] = {}
    for row in rows:
        try:
            check(row)
        except AllograftError as error:
            refused.setdefault(title(row.recipe), error)
    return refused


def _raise_all(refused: Mapping[str, AllograftError]) -> None:
    """One error as it is, several as a list."""
    reasons = {str(error): error for error in refused.values()}
    if len(reasons) == 1:
        raise next(iter(reasons.values()))
    if reasons:
        lines = "".join(f"\n  - {reason}" for reason in reasons)
        raise SpecError(f"{len(refused)} rows cannot be run, so nothing was trained:{lines}")


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def _keep_traceback(folder: Path, error: Exception) -> None:
    import traceback

    tree.write_bytes(folder / "error.txt", "".join(traceback.format_exception(error)).encode())
