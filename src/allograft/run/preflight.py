"""What is read and checked before anything of a study is trained: every row, and all that is wrong
at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from allograft import tree
from allograft.cohort.splits import write_splits
from allograft.errors import AllograftError, OutputError, SpecError
from allograft.networks.load import load_weights
from allograft.predictor import evaluation_mode
from allograft.predictor.card import read_card
from allograft.recipe import title
from allograft.recipe.needs import check_needs, check_recipe
from allograft.results.models import refuse_training_images
from allograft.results.protocol import check_protocol
from allograft.run.defaults import refused_sizes, with_defaults
from allograft.run.images import check_millimetres, network_shape, prepare_images
from allograft.run.start import anew_in, refuse_untrained
from allograft.schedule import make_schedule
from allograft.seeds import Seeds
from allograft.study.plan import Row, bare_rows, scenario_of
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tasks.named_loss import check_loss
from allograft.transforms.sample import Sample
from allograft.tree import plain

if TYPE_CHECKING:
    from allograft.run.session import Session


def completed(session: Session) -> Session:
    """The session of the same study with what it leaves open filled in, by its images; see
    ``with_defaults``."""
    _check_writable(session.out)
    own = session.network is not None or session.starts_from_folder
    cohorts = World.read(session.study, session.out).cohorts
    made = with_defaults(session.study, cohorts, session.say, multiple=partial(_multiple, session), own_network=own)
    return replace(session, study=made)


def _multiple(session: Session, study: Study, channels: int) -> int:
    return replace(session, study=study).start_of(channels, 0).multiple


def prepare(session: Session) -> World:
    """Read and check everything before anything is trained: every row, and all that is wrong
    at once."""
    _check_writable(session.out)
    world = World.read(session.study, session.out)
    check_protocol(session.out, session.study, world)
    prepare_images(world.cohorts, session.say)
    check_millimetres(world.cohorts, session.study.made_task)
    for line in (*world.untested().values(), *world.one_class().values()):
        session.say(f"warning: {line}")
    refused = _refused(bare_rows(world), lambda row: check_needs(row.recipe, scenario_of(world, row), row.target))
    if session.study.start != "scratch":
        network = session.start(world, 0)
        anew = session.anew()
        report = load_weights(network, session.study.start_path, anew_in(network, anew))
        session.say(f"start: {report}")
        refuse_untrained(
            anew, trained=bool(world.study.source or world.study.stream) or session.study.target_labels != "none"
        )
        tree.write_json(session.out / "start.json", plain(report))
    if session.starts_from_folder:
        tested = [case for fold in range(world.folds) for test in world.tests(fold) for case in test.cohort.cases]
        refuse_training_images(read_card(session.study.start_path), tested, session.study.start_path)
    _try(session, world)
    context, network = session.context(0), session.start(world, 0)
    rest = [row for row in bare_rows(world) if row.seed == 0 and title(row.recipe) not in refused]
    refused |= _refused(rest, lambda row: check_recipe(row.recipe, scenario_of(world, row), network, context))
    _raise_all(refused)
    # a wrong argument is refused before anything is kept
    optimizer = context.optimizer(network.parameters())
    make_schedule(session.study.settings.schedule, optimizer, 1)
    if session.fabric.is_global_zero:
        _keep(session, world)
    return world


def _keep(session: Session, world: World) -> None:
    """What ``report OUT`` and the next run need: the splits and the study."""
    write_splits(session.out / "splits.csv", world.assignments, world.listed)
    tree.write_json(session.out / "study.json", session.study.spelt_out())


def _try(session: Session, world: World) -> None:
    """One sample and an image of each size through the network, so that sizes that do not fit
    are refused before anything is trained."""
    network = session.start(world, 0)
    try:
        sample = Sample("none", session.study.patch)(world.cohorts[0].case(0), Seeds(0).rng("try"))
    except (RuntimeError, ValueError) as error:
        raise SpecError(
            f"patch: {session.study.patch} cannot be cut from an image ({error}); give one number for each axis"
        ) from error
    regions = any(case.region is not None for case in world.cases())
    check_loss(session.study.made_task, session.study.loss, dims=sample.image.ndim - 2, has_region=regions)
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
