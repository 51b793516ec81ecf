"""Run a study: plan its units, run what is missing, judge, select, and leave table, report and models."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from allograft import tree
from allograft.cohort.splits import write_splits
from allograft.context import Context, Store
from allograft.context.context import check_needs
from allograft.errors import OutputError, SpecError
from allograft.networks import build
from allograft.networks.network import spec_of
from allograft.predictor import load_predictor, save_predictor
from allograft.predictor.folder import read_card
from allograft.recipe import Stage, title
from allograft.seeds import Seeds
from allograft.study.judge import Judge, failed_record
from allograft.study.models import export_models, facts
from allograft.study.plan import Plan, Row, World, bare_rows, scenario_of
from allograft.study.record import read_all, record_name
from allograft.study.select import Line, lines
from allograft.study.spec import Study, make_study

NetworkSource = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Result:
    """What a study leaves.

    Args:
        out: the folder.
        study, plan: what was asked.
        lines: the table.
        models: (recipe's title, target) -> model folder.
    """

    out: Path
    study: Study
    plan: Plan
    lines: tuple[Line, ...]
    models: Mapping[tuple[str, str], Path]

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return sum(bool(run.error) for line in self.lines for run in line.runs)


def run_study(
    study: Study | Mapping[str, Any],
    out: Path | str,
    *,
    network: NetworkSource | None = None,
    fabric: Any = None,
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
    report: bool = True,
) -> Result:
    """Run a study, or go on with one; everything finished in ``out`` is kept.

    Args:
        study: as ``read_study`` gives it, or the same keys as a mapping.
        network: your own ``nn.Module`` (its weights are the start of every seed) or a function that makes one (drawn anew by seed).
        fabric: a lightning ``Fabric``; one process on the default device when None.
        say: called with progress lines.

    Returns:
        The table and where all lies. Failed runs are in it, with their reasons: see ``Result.failed``.

    Raises:
        AllograftError: bad input, before anything is trained.
    """
    study = make_study(study)
    out = Path(out)
    session = Session(study, out, network, fabric or local_fabric(), workers, checkpoint_seconds, say)
    world = session.prepare()
    plan = session.plan(world)
    for number, row in enumerate(plan.rows, 1):
        session.run(world, row, f"{number} of {len(plan.rows)}")
        if report and session.fabric.is_global_zero and number < len(plan.rows):
            session.report(world, plan, done=number)
    if not session.fabric.is_global_zero:
        return Result(out, study, plan, (), {})
    table = lines(plan, read_all(out), study.selection)
    models = export_models(out, study, table, world)
    if report:
        session.report(world, plan, done=len(plan.rows))
    return Result(out, study, plan, tuple(table), models)


def train_model(study: Study, out: Path, *, fabric: Any = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """Run the study's one recipe once, for its first target, and leave ``OUT/model``; nothing is judged.

    Raises:
        SpecError: more than one recipe.
    """
    if len(study.recipes) != 1:
        raise SpecError(f"train runs one recipe, the study lists {len(study.recipes)}; keep one, or use 'allograft study' to compare them")
    session = Session(study, out, None, fabric or local_fabric(), 0, 60.0, say)
    world = session.prepare()
    row = Row(study.recipes[0], study.target[0], 0, 0)
    stage = None
    for moment in session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)):
        stage = moment if moment.predictor is not None else stage
    if stage is None:
        raise SpecError(f"recipe '{title(row.recipe)}' leaves no model that predicts; build another recipe on it by first:")
    kept = Store(out / "units" / stage.unit).stage_folder(stage.name)
    predictor, card = load_predictor(kept)
    save_predictor(predictor, out / "model", {**card, **facts(study, world, row), "stage": stage.name})
    return out / "model"


def local_fabric(devices: int = 1, precision: Any = "32-true", strategy: str = "auto", accelerator: str = "auto") -> Any:
    """A launched Fabric."""
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric


@dataclass(frozen=True)
class Session:
    """One process's part in a study."""

    study: Study
    out: Path
    network: NetworkSource | None
    fabric: Any
    workers: int
    checkpoint_seconds: float
    say: Callable[[str], None]

    def prepare(self) -> World:
        """Read and check everything before anything is trained."""
        _check_writable(self.out)
        world = World.read(self.study, self.out)
        cases = list(world.cases())
        self.say(f"preparing {len(cases)} images")
        shelf, empty = world.cohort.shelf, 0
        for case in cases:
            shelf.image(case)
            shelf.region(case)
            if "mask" in case.labels:
                empty += not shelf.mask(case).any()
        if empty:
            self.say(f"warning: {empty} of {len(cases)} images have no foreground; they count as empty, see 'undefined' in the records")
        for row in bare_rows(world):
            check_needs(row.recipe, scenario_of(world, row))
        self.context(0).optimizer(self.start(world, 0).parameters())  # their names and arguments, too, are refused before anything is kept
        if self.fabric.is_global_zero:
            write_splits(self.out / "splits.csv", world.places, world.cohort.cases)
        return world

    def plan(self, world: World) -> Plan:
        """Rows with their content keys."""
        keyed = []
        networks = {seed: self.start(world, seed) for seed in range(self.study.seeds)}
        for row in bare_rows(world):
            context = self.context(row.seed)
            keyed.append(replace(row, unit=context.unit(row.recipe, scenario_of(world, row), networks[row.seed])))
        plan = Plan(tuple(keyed), self.study.seeds, self.study.made_task)
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
            folder=self.out / "units",
            workers=self.workers,
            checkpoint_seconds=self.checkpoint_seconds,
            template=template,
        )

    def start(self, world: World, seed: int) -> Any:
        """The network that every recipe of a seed starts from."""
        task = self.study.made_task
        with Seeds(seed).everything("network"):
            if self.network is not None:
                module = self.network if isinstance(self.network, nn.Module) else self.network()
                place = f"{type(module).__module__}:{type(module).__qualname__}"
                return build({"build": {"custom": {"class": place, "key": task.key}}, "surgery": []}, module)
            channels = world.cohort.case(0).image.shape[1]
            network = build(spec_of(self.study.network, channels, task.outputs))
        if self.study.start != "scratch":
            _load_start(network, self.study)
        return network

    def run(self, world: World, row: Row, place: str) -> None:
        """Run and judge one row, unless all of it is there already; a failure becomes a record."""
        context, scenario = self.context(row.seed), scenario_of(world, row)
        judge = Judge(tuple(world.tests(row.fold)), self.study.made_task, self.out / "records", self.fabric)
        # before anything else: another target's row may have run this unit since
        tree.remove(self.out / "records" / f"{record_name(row.unit, 'failed', row.target, 'test', row.fold)}.json")
        finished = Store(self.out / "units" / row.unit, self.fabric.is_global_zero, context.template).load()
        if finished and judge.complete(row.unit, [stage.name for stage in finished[1] if stage.predictor is not None]):
            return
        self.say(f"[{place}] {title(row.recipe)} -> {row.target}, seed {row.seed}" + (f", fold {row.fold}" if world.folds > 1 else ""))
        ordinals: dict[str, int] = {}
        try:
            for stage in context.run(row.recipe, scenario, self.start(world, row.seed)):
                ordinal = ordinals[stage.unit] = ordinals.get(stage.unit, -1) + 1
                if self.fabric.is_global_zero:
                    judge(stage, ordinal, scenario, row.seed, self._cost(stage))
                self.fabric.barrier()
        except Exception as error:  # a unit that fails is shown; the rest goes on
            failed_record(row.unit, row.recipe, row.seed, row.target, row.fold, error, self.fabric).write(self.out / "records")
            self.say(f"[{place}] failed: {type(error).__name__}: {error}")
            _keep_traceback(self.out, row.unit, error)

    def _cost(self, stage: Stage) -> dict[str, Any]:
        return dict(read_card(Store(self.out / "units" / stage.unit).stage_folder(stage.name))["cost"])

    def report(self, world: World, plan: Plan, *, done: int) -> None:
        """Write ``report.html`` from the records that are there."""
        from allograft.study.pictures import pictures_of
        from allograft.study.report import write_report

        table = lines(plan, read_all(self.out), self.study.selection)
        pictures = pictures_of(self.out, world, table, self.context(0).template) if done == len(plan.rows) else {}
        units = len({row.unit for row in plan.rows[:done]})
        page = self.out / "report.html"
        write_report(page, study=self.study, plan=plan, lines=table, pictures=pictures, done=units, total=len(plan.units), world=world)


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".probe.{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{out}: cannot be written ({error.strerror}); choose another --out") from error


def _load_start(network: Any, study: Study) -> None:
    from allograft.networks.load import load_weights

    path = Path(study.start)
    if not path.is_absolute() and study.file is not None and not path.exists():
        path = study.file.parent / path
    load_weights(network, path)


def _keep_traceback(out: Path, unit: str, error: Exception) -> None:
    import traceback

    tree.write_bytes(out / "units" / unit / "error.txt", "".join(traceback.format_exception(error)).encode())
