"""Run a study: plan its units, run what is missing, judge, select, and leave table, report and
models, part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from allograft import tree
from allograft.context import Store
from allograft.errors import MissingWeightsError, SpecError
from allograft.predictor import load_predictor, save_predictor
from allograft.recipe import Grid, candidates, title, total_needs
from allograft.results.deployment import Source, add_deployment
from allograft.results.earlier_runs import as_recorded
from allograft.results.looks import Looking
from allograft.results.models import facts
from allograft.results.protocol import check_parts, protocol_sentence
from allograft.results.record import read_all
from allograft.run.closing import Result
from allograft.run.executors import Executor, check_executor, execute
from allograft.run.fabric import local_fabric
from allograft.run.parted import MISSING, PartsResult, join, missing_parts, part_sessions
from allograft.run.session import NetworkSource, Session
from allograft.study.plan import Plan, Row, scenario_of
from allograft.study.reading import kept_study, make_study
from allograft.study.spec import Study
from allograft.study.world import World

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def run_study(
    study: Study | Mapping[str, object],
    out: Path | str,
    *,
    network: NetworkSource | None = None,
    fabric: Fabric | None = None,
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
    report: bool = True,
    shard: tuple[int, int] = (1, 1),
    executor: Executor | None = None,
) -> Result | PartsResult:
    """Run a study, or continue one; everything finished in ``out`` is kept.

    Args:
        study: as ``read_study`` gives it, or the same keys as a mapping.
        network: your own ``nn.Module`` (its weights are the start of every seed) or a function that
            makes one (drawn again for each seed).
        fabric: a lightning ``Fabric``; one process on the default device when None.
        say: called with progress lines.
        progress: whether a terminal shows a bar of each training.
        shard: (i, n) runs every n-th unit from the i-th, 1-based; several processes and machines
            may share ``out`` with or without it.
        executor: runs units on several processes or machines; this process when None.

    Returns:
        The table and where all lies, of each part where the study has several. Failed runs are in
        it, with their reasons: see ``Result.failed``.

    Raises:
        AllograftError: bad input, of any part, before anything is trained. A part whose published
            weights are missing is not run, and is listed as missing, where others can be.
    """
    study, out = make_study(study), Path(out)
    whole = Session(study, out, network, fabric or local_fabric(), workers, checkpoint_seconds, say, progress=progress)
    whole = replace(whole, look=Looking(out, "study", "records, table and report"))
    if executor is not None:
        check_executor(whole, shard)
    check_parts(out, [session.out for session in part_sessions(whole).values()])
    sessions, worlds, missing = _prepared(part_sessions(whole), say)
    if whole.fabric.is_global_zero and study.is_parted:
        tree.write_json(out / "study.json", study.spelt_out())
        tree.write_json(out / MISSING, missing)
    results: dict[str, Result] = {}
    continued = _continued(sessions, worlds)
    sessions = {name: replace(session, continued=continued) for name, session in sessions.items()}
    plans = {} if executor is None else _executed(executor, sessions, worlds, report=report)
    for number, (name, session) in enumerate(sessions.items(), 1):
        _announce(say, name, number, len(sessions))
        world = worlds[name]
        plan = plans.get(name) or session.plan(world)
        if executor is None:
            session.run_all(world, plan, shard, report=report)
        session.restore(world, plan)
        if not whole.fabric.is_global_zero:
            results[name] = Result(session.out, world.study, plan, (), {})
            continue
        results[name] = session.finish(world, plan, report=report, keeps_page=True)
        if study.is_parted:
            join(out, PartsResult(out, study, results, missing), len(sessions), report=report)
    _say_protocol(out, say)
    return PartsResult(out, study, results, missing) if study.is_parted else results[""]


def _executed(
    executor: Executor, sessions: Mapping[str, Session], worlds: Mapping[str, World], *, report: bool
) -> dict[str, Plan]:
    """Run the units of all parts; returns the plan of each."""
    plans = {name: session.plan(worlds[name]) for name, session in sessions.items()}
    execute(executor, {name: (session, worlds[name], plans[name]) for name, session in sessions.items()}, report=report)
    return plans


def _prepared(
    sessions: Mapping[str, Session], say: Callable[[str], None]
) -> tuple[dict[str, Session], dict[str, World], dict[str, str]]:
    """The parts that can be run, with their worlds, and those whose weights are missing."""
    completed, worlds, missing = dict[str, Session](), dict[str, World](), dict[str, str]()
    for number, (name, session) in enumerate(sessions.items(), 1):
        _announce(say, name, number, len(sessions))
        try:
            completed[name] = session.completed()
            worlds[name] = completed[name].prepare()
        except MissingWeightsError as error:
            if len(missing) + 1 == len(sessions):
                raise
            completed.pop(name, None)
            missing[name] = str(error)
            say(f"missing: {error}")
    return completed, worlds, missing


def rebuild(
    out: Path, *, report: bool = True, pictures: bool = True, say: Callable[[str], None] = lambda line: None
) -> Result | PartsResult:
    """Tables, CSV files, models and reports of a finished or unfinished study, from its records
    alone; nothing is trained.

    Units that an earlier version ran stand for those that this version would run.

    Args:
        report: whether the report is written too.
        pictures: whether it may show images.

    Raises:
        OutputError: a folder that no study wrote.
    """
    study = kept_study(out)
    missing, whole = missing_parts(out), Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, say)
    whole = replace(whole, look=Looking(out, "report", "table and report"))
    sessions = {name: session for name, session in part_sessions(whole).items() if name not in missing}
    results: dict[str, Result] = {}
    for number, (name, session) in enumerate(sessions.items(), 1):
        _announce(say, name, number, len(sessions))
        session = replace(session, study=kept_study(session.out))  # with the defaults it was run with
        world = World.read(session.study, session.out)
        plan = as_recorded(session.plan(world), read_all(session.out).values())
        results[name] = session.finish(world, plan, report=report, pictures=pictures)
    _say_protocol(out, say)
    if not study.is_parted:
        return results[""]
    result = PartsResult(out, study, results, missing)
    join(out, result, len(results), report=report)
    return result


def _say_protocol(out: Path, say: Callable[[str], None]) -> None:
    if sentence := protocol_sentence(out):
        say(sentence)


def _continued(sessions: Mapping[str, Session], worlds: Mapping[str, World]) -> frozenset[str]:
    """The units of all parts, where there are several, whose optimizer some recipe continues."""
    asking = [
        name
        for name, world in worlds.items()
        if len(worlds) > 1
        and any(total_needs(recipe).optimizer_state for row in world.study.rows for recipe in candidates(row))
    ]
    plans = [replace(sessions[name], say=lambda line: None).plan(worlds[name]) for name in asking]
    return frozenset().union(*(plan.continued for plan in plans))


def _announce(say: Callable[[str], None], name: str, number: int, total: int) -> None:
    if name:
        say(f"== {name} ({number} of {total})")


def train_model(
    study: Study,
    out: Path,
    *,
    fabric: Fabric | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: bool = True,
) -> Path:
    """Run the study's one recipe once, for its first target, and leave ``OUT/model``; nothing is
    judged.

    Of a recipe that leaves weights only, such as a pre-training, the folder is a ``start:`` for
    other studies.

    Raises:
        SpecError: more than one recipe.
    """
    if len(study.recipes) != 1 or isinstance(study.recipes[0], Grid):
        listed = ", ".join(map(title, study.recipes)) or "none"
        raise SpecError(
            f"train runs one recipe, the study lists {listed}; keep one, or use 'allograft study' to compare them"
        )
    session = Session(study, out, None, fabric or local_fabric(), 0, 60.0, say, progress=progress).completed()
    world = session.prepare()
    row = Row(study.recipes[0], world.study.questions[0], 0, 0)
    stages = list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    stage = next((moment for moment in reversed(stages) if moment.predictor is not None), stages[-1])
    kept = Store(out / "units" / stage.unit).stage_folder(stage.name)
    predictor, card = load_predictor(kept)
    save_predictor(
        predictor, out / "model", {**card, **facts(world, row, out), "unit": stage.unit, "stage": stage.name}
    )
    add_deployment(out / "model", Source(world, row, device=session.fabric.device))
    return out / "model"
