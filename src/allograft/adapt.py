"""A finished model at a new site: adapt it, without the study that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from allograft import tree
from allograft.cohort import read_manifest
from allograft.errors import ModelError
from allograft.predictor.card import read_card
from allograft.recipe import Grid, title
from allograft.run.closing import Result
from allograft.studies import run_study
from allograft.study.reading import make_study
from allograft.study.rows import source_free
from allograft.study.spec import Study
from allograft.table import find

BEFORE = "before"
"""Folder of the old model, beside those of the study."""


def adapt_model(
    model: Path,
    manifest: Path,
    recipe: Any,
    out: Path,
    *,
    compare: bool = False,
    overrides: Mapping[str, Any] | None = None,
    fabric: Any = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Result:
    """Adapt a model folder to every site of a manifest, source-free: ``recipe`` starts from the
    model, and its source is not needed.

    The study it runs is an ordinary one, see ``adaptation``: labelled sites are judged, models are
    left in ``OUT/models``. Where the new model loses at a site (see ``statistics.tolerance``) the
    old one is kept next to it, in ``OUT/models/before``, and this is reported.

    Args:
        recipe, compare, overrides: as of ``adaptation``.
        fabric: a lightning ``Fabric``; one process on the default device when None.
        progress: whether a terminal shows a bar of each training.

    Raises:
        NeedsError: the recipe needs source images, or labels that no site has.
    """
    asked = adaptation(model, manifest, recipe, compare=compare, overrides=overrides)
    result = run_study(asked, out, fabric=fabric, say=say, progress=progress)
    assert isinstance(result, Result)  # of one part
    _keep_old(result, model, say)
    return result


def adaptation(
    model: Path, manifest: Path, recipe: Any, *, compare: bool = False, overrides: Mapping[str, Any] | None = None
) -> Study:
    """The study of an adaptation, in which all labelled training cases may be used.

    Args:
        recipe: a name or ``{name: {...}}``.
        compare: with the rows that other studies have for comparison, as one trained on the new
            labels alone. The model unchanged is judged in any case: it costs no training.
        overrides: further keys of the study, ``{"budget": {...}}`` for example.
    """
    card = read_card(model)
    _prepared(card, model)
    cases = read_manifest(manifest)
    key = find("task", next(iter(card["task"]))).key
    keys: dict[str, Any] = {
        "cohort": str(manifest.resolve()),
        "task": card["task"],
        "preprocessing": card["preprocessing"],
        "slices": card.get("slices"),
        "start": str(model.resolve()),
        "source": [],
        "target": sorted({case.site for case in cases}),
        "target_labels": "all" if any(key in case.labels for case in cases) else "none",
        "recipes": [recipe],
        "baselines": compare,
        "seeds": 1,
        **(overrides or {}),
    }
    return make_study(keys)


def _keep_old(result: Result, model: Path, say: Callable[[str], None]) -> None:
    """Copy the old model beside a new one that is not "never worse"."""
    new = {title(source_free(row)) for row in result.study.recipes if not isinstance(row, Grid)}
    marked = [
        (name, why)
        for verdict in result.standing.verdicts.values()
        for name, why in verdict.marks.items()
        if name in new
    ]
    if marked:
        kept = result.out / "models" / BEFORE
        tree.remove(kept)
        tree.copy_folder(model, kept)
        worse = "; ".join(f"{name} {', '.join(why)}" for name, why in marked)
        say(f"the new model is worse somewhere: {worse}. The old one is kept next to it: {kept}")


def _prepared(card: Mapping[str, Any], folder: Path) -> None:
    for key in ("task", "preprocessing"):
        if key not in card:
            raise ModelError(f"{folder}: the card lacks '{key}'; use a folder below models/ or from 'allograft train'")
