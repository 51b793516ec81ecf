"""Run a study: plan its units, run what is missing, judge, select, and leave table, report and models; one of many pairs part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allograft import tree
from allograft.context import Store
from allograft.errors import SpecError
from allograft.predictor import load_predictor, save_predictor
from allograft.recipe import Grid, title
from allograft.report.overview import Part, write_overview
from allograft.results.analysis.severity import severity_sheet
from allograft.results.csv_files import join_files
from allograft.results.models import facts
from allograft.results.record import read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import NetworkSource, Result, Session
from allograft.study.parts import part_folder, parts_of
from allograft.study.plan import Row, scenario_of
from allograft.study.spec import Study, kept_study, make_study
from allograft.study.world import World


@dataclass(frozen=True)
class PairsResult:
    """What a study of many pairs leaves.

    Args:
        out: the folder.
        study: what was asked.
        parts: ``from a`` or ``to b`` -> what that study left.
    """

    out: Path
    study: Study
    parts: Mapping[str, Result]

    @property
    def failed(self) -> int:
        """How many runs failed."""
        return sum(part.failed for part in self.parts.values())


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
    shard: tuple[int, int] = (1, 1),
) -> Result:
    """Run a study, or go on with one; everything finished in ``out`` is kept.

    Args:
        study: as ``read_study`` gives it, or the same keys as a mapping.
        network: your own ``nn.Module`` (its weights are the start of every seed) or a function that makes one (drawn anew by seed).
        fabric: a lightning ``Fabric``; one process on the default device when None.
        say: called with progress lines.
        shard: (i, n) runs every n-th unit from the i-th, 1-based; several processes and machines may share ``out`` with or without it.

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
    session.run_all(world, plan, shard, report=report)
    if not session.fabric.is_global_zero:
        return Result(out, study, plan, (), {})
    return session.finish(world, plan, report=report)


def rebuild(out: Path, *, pictures: bool = True, say: Callable[[str], None] = lambda line: None) -> Result:
    """Table, CSV files, models and report of a finished or unfinished study, from its records alone; nothing is trained.

    Args:
        pictures: whether the report may show images.

    Raises:
        OutputError: a folder that no study wrote.
    """
    study = kept_study(out)
    session = Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, say)
    world = World.read(study, out)
    return session.finish(world, session.plan(world), report=True, pictures=pictures)


def train_model(study: Study, out: Path, *, fabric: Any = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """Run the study's one recipe once, for its first target, and leave ``OUT/model``; nothing is judged.

    Of a recipe that leaves weights only, such as a pre-training, the folder is a ``start:`` for other studies.

    Raises:
        SpecError: more than one recipe.
    """
    if len(study.recipes) != 1 or isinstance(study.recipes[0], Grid):
        listed = ", ".join(map(title, study.recipes)) or "none"
        raise SpecError(f"train runs one recipe, the study lists {listed}; keep one, or use 'allograft study' to compare them")
    session = Session(study, out, None, fabric or local_fabric(), 0, 60.0, say)
    world = session.prepare()
    row = Row(study.recipes[0], study.target[0], 0, 0)
    stages = list(session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)))
    stage = next((moment for moment in reversed(stages) if moment.predictor is not None), stages[-1])
    kept = Store(out / "units" / stage.unit).stage_folder(stage.name)
    predictor, card = load_predictor(kept)
    save_predictor(predictor, out / "model", {**card, **facts(study, world, row, out), "stage": stage.name})
    return out / "model"


def run_pairs(
    study: Study | Mapping[str, Any],
    out: Path | str,
    *,
    network: NetworkSource | None = None,
    fabric: Any = None,
    workers: int = 0,
    checkpoint_seconds: float = 60.0,
    say: Callable[[str], None] = lambda line: None,
    report: bool = True,
    shard: tuple[int, int] = (1, 1),
) -> PairsResult:
    """Run a study with ``pairs: all`` or ``leave-one-site-out``, or go on with one; the arguments are those of ``run_study``.

    Raises:
        AllograftError: bad input for any of the pairs, before anything is trained.
    """
    study, out = make_study(study), Path(out)
    whole = Session(study, out, network, fabric or local_fabric(), workers, checkpoint_seconds, say)
    sessions = part_sessions(whole)
    worlds: dict[str, World] = {}
    for name, session in sessions.items():
        say(f"== {name} ({len(worlds) + 1} of {len(sessions)})")
        worlds[name] = session.prepare()
    if whole.fabric.is_global_zero:
        tree.write_json(out / "study.json", study.spelt_out())
    results: dict[str, Result] = {}
    for name, session in sessions.items():
        say(f"== {name} ({len(results) + 1} of {len(sessions)})")
        plan = session.plan(worlds[name])
        session.run_all(worlds[name], plan, shard, report=report)
        if whole.fabric.is_global_zero:
            results[name] = session.finish(worlds[name], plan, report=report)
            _finish(out, study, results, len(sessions), report=report)
    return PairsResult(out, study, results)


def rebuild_pairs(out: Path, *, pictures: bool = True, say: Callable[[str], None] = lambda line: None) -> PairsResult:
    """All tables, CSV files, models and reports of a study of many pairs, from its records alone; see ``rebuild``."""
    study = kept_study(out)
    results: dict[str, Result] = {}
    for name in parts_of(study):
        say(f"== {name}")
        results[name] = rebuild(part_folder(out, name), pictures=pictures, say=say)
    _finish(out, study, results, len(results), report=True)
    return PairsResult(out, study, results)


def part_sessions(whole: Session) -> dict[str, Session]:
    """A session for each part, in a folder of its own."""
    return {name: replace(whole, study=part, out=part_folder(whole.out, name)) for name, part in parts_of(whole.study).items()}


def _finish(out: Path, study: Study, results: Mapping[str, Result], parts: int, *, report: bool) -> None:
    """What is said over all pairs that are there."""
    for file in ("results.csv", "metrics.csv"):
        join_files(out / file, {"+".join(result.study.source): result.out / file for result in results.values()})
    if report:
        made = list(results.values())
        units = {unit for result in made for unit in result.plan.units}
        records = [record for result in made for record in read_all(result.out).values() if record.unit in units]
        links = [(result.out / "report.html").relative_to(out).as_posix() for result in made]
        shown = [Part(name, link, one.study, one.plan, one.lines) for (name, one), link in zip(results.items(), links, strict=True)]
        write_overview(out / "report.html", study, shown, parts, severity_sheet(records, made[0].plan.headline))
