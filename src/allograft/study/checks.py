"""What the keys of a study ask of one another. Each check raises ``SpecError``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from allograft.errors import SpecError, nearest
from allograft.recipe import Grid, Recipe, candidates, every_recipe, title, total_needs
from allograft.study.where import Where, check_once
from allograft.table import find
from allograft.tasks.named_loss import check_loss

if TYPE_CHECKING:
    from allograft.study.spec import Study


def check_keys(study: Study) -> None:
    """Keys that are wrong by themselves, and the two ways to name cohorts."""
    for name in ("task", "network", "optimizer", "schedule"):
        value = getattr(study, name)
        if not isinstance(value, str) and len(value) != 1:
            raise SpecError(f"{name}: expected one {{name: {{...}}}}, found {', '.join(value) or 'nothing'}")
    if bool(study.cohort) == bool(study.cohorts):
        raise SpecError(
            f"cohort: found {'both' if study.cohort else 'neither'} of cohort and cohorts; expected exactly one of them"
        )
    if study.cohorts and study.slices is not None:
        raise SpecError(
            "slices: with cohorts each cohort says how its volumes are cut; write cohorts: {NAME: {manifest: "
            "FILE, slices: {axis: 2}}}"
        )
    if (wrong := next((name for name in study.cohorts if "/" in name or not name), None)) is not None:
        raise SpecError(f"cohorts: '{wrong}' cannot be a name, since sites are NAME/SITE; leave out the slash")
    if not 1 <= study.seeds <= 1000:
        raise SpecError(f"seeds: found {study.seeds}, expected 1 to 1000")
    if study.clip is not None and not study.clip > 0:
        raise SpecError(f"clip: found {study.clip}, expected the largest gradient norm, above 0")
    if study.patch is not None and (min(study.patch, default=0) < 1 or math.prod(study.patch) > 2**30):
        raise SpecError(
            f"patch: found {list(study.patch)}, expected the size of a training crop along each axis of the image"
        )
    find("optimizer", next(iter(study.optimizer)))
    check_loss(study.made_task, study.loss)


def check_stream(study: Study) -> None:
    """A stream stands in the place of both sides; its sites are what is judged."""
    phases = study.phases
    if len(phases) < 2:
        raise SpecError(f"stream: has {len(phases)} stage; expected at least two, for example stream: [[a], [b]]")
    sites = tuple(site for phase in phases for site in phase)
    double = next((site for number, site in enumerate(sites) if site in sites[:number]), None)
    if double is not None or not all(phases):
        found = f"site '{double}' is in two stages" if double is not None else "a stage names no site"
        raise SpecError(f"stream: {found}; name each site once")
    if study.source or study.target not in ((), sites):
        raise SpecError("stream: replaces source and target; leave both out")
    if study.pairs != "listed" or study.target_labels != "none" or study.test.folds > 1:
        raise SpecError("stream: goes with neither pairs, target_labels nor test.folds; leave them out")


def check_sides(study: Study) -> None:
    """Source and target, with what else depends on them."""
    if study.pairs != "listed":
        _check_pairs(study)
    if study.within and study.target_labels != "none":
        raise SpecError(
            f"target_labels: '{study.within[0]}' is source and target, all its training labels are the source's; "
            "leave them out"
        )
    all_rotate = bool(study.within) and study.test.folds > 1 and set(study.within) == set(study.source)
    if all_rotate and study.selection == "source-val":
        raise SpecError(
            f"selection: source-val needs validation subjects, and with test.folds all others of '{study.within[0]}' "
            "train; choose last"
        )
    needy = None if study.source or study.start != "scratch" else next(filter(_adapts, study.rows), None)
    if needy is not None:
        raise SpecError(
            f"source: is empty and start is scratch, so '{title(needy)}' has nothing to adapt; name a model: "
            "start: FOLDER, or a source"
        )
    if not study.source and study.selection == "source-val":
        raise SpecError("selection: source-val needs a source site; choose last")


def _check_pairs(study: Study) -> None:
    check_once(study.source, study.target)
    if not any(source != target for source in study.source for target in study.target):
        named = ", ".join(study.source) or "no source"
        raise SpecError(
            f"pairs: {study.pairs} finds no pair in {named}; name at least two sites, for example source: [a, b, c]"
        )
    if study.where != Where():
        raise SpecError(
            f"where: filters the two sides of one pair, and with pairs: {study.pairs} a site is on both; leave one out"
        )


def _adapts(row: Recipe | Grid) -> bool:
    """Whether a row goes on from a model that must be there already, and so from more than a pool
    or labels."""
    return any(title(inner) == "start" for recipe in candidates(row) for inner in every_recipe(recipe))


def check_rows(study: Study) -> None:
    """Grids, the primary row and the reference."""
    grid = next((row for row in study.recipes if isinstance(row, Grid)), None)
    if grid is not None and study.selection == "last":
        raise SpecError(
            f"selection: last picks none of the settings of '{grid}'; choose source-val, a label-free rule, or one "
            "setting"
        )
    if grid is not None and not study.source:
        raise SpecError(f"recipes: '{grid}' is a grid, and without a source nothing picks from it; name one setting")
    _check_primary(study)
    _check_reference(study)


def _check_primary(study: Study) -> None:
    name, rows = study.primary_title, [title(row) for row in study.rows]
    if name and name in rows[:1]:
        raise SpecError(f"primary: '{name}' is what every row is compared with; name a row that may be better")
    if name and name not in rows:
        raise SpecError(
            f"primary: found '{name}', expected a row of the table: {', '.join(rows)}; list it under recipes too"
        )
    if study.primary is not None and total_needs(candidates(study.primary)[0]).all_target_labels:
        raise SpecError(f"primary: '{name}' uses all target labels, as an upper bound; name a row within the budget")


def _check_reference(study: Study) -> None:
    name, rows = study.reference_title, [title(row) for row in study.rows]
    if study.reference is None:
        return
    if name not in rows:
        raise SpecError(f"reference: expected a row of the table, written as in recipes; {nearest(name, rows, 'row')}")
    if total_needs(candidates(study.reference)[0]).all_target_labels:
        raise SpecError(f"reference: '{name}' uses all target labels, as an upper bound; name a row within the budget")
    if name == study.primary_title:
        raise SpecError(
            f"reference: '{name}' is the primary row too, and is not compared with itself; name another in one of "
            "the two"
        )
