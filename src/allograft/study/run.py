"""Run a study: plan its units, run what is missing, judge, select, and leave table, report and models."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from allograft.context import Store
from allograft.errors import OutputError, SpecError
from allograft.predictor import load_predictor, save_predictor
from allograft.recipe import Grid, title
from allograft.study.models import facts
from allograft.study.plan import Row, World, scenario_of
from allograft.study.session import NetworkSource, Result, Session
from allograft.study.spec import Study, make_study


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


def kept_study(out: Path) -> Study:
    """The study of an output folder. ``OutputError`` for a folder that no study wrote."""
    kept = out / "study.json"
    try:
        return make_study(json.loads(kept.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise OutputError(f"{out}: holds no study.json; expected the output folder of 'allograft study'") from error
    except (ValueError, OSError) as error:
        raise OutputError(f"{kept}: cannot be read ({error}); run the study again into this folder") from error


def train_model(study: Study, out: Path, *, fabric: Any = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """Run the study's one recipe once, for its first target, and leave ``OUT/model``; nothing is judged.

    Raises:
        SpecError: more than one recipe.
    """
    if len(study.recipes) != 1 or isinstance(study.recipes[0], Grid):
        listed = ", ".join(map(title, study.recipes)) or "none"
        raise SpecError(f"train runs one recipe, the study lists {listed}; keep one, or use 'allograft study' to compare them")
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
    save_predictor(predictor, out / "model", {**card, **facts(study, world, row, out), "stage": stage.name})
    return out / "model"


def local_fabric(devices: int = 1, precision: Any = "32-true", strategy: str = "auto", accelerator: str = "auto") -> Any:
    """A launched Fabric, by itself on CUDA where there is any.

    Never by itself on an Apple GPU, which Fabric would take: it has no double precision, and scores are computed in that.
    """
    import torch
    from lightning_fabric import Fabric

    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "cpu"
    fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision, strategy=strategy)
    fabric.launch()
    return fabric
