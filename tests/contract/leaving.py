"""What each method leaves in the contract world under its own arguments, and with something
changed; each is run once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from unittest.mock import patch

from tests.contract.directly import Left, left_by
from tests.contract.listening import listening
from tests.contract.world import contract, row_of, session_of

from allograft.cohort import Cohort
from allograft.cohort.alteration import Alteration
from allograft.networks.fetch import _timm
from allograft.recipe import parse_recipe
from allograft.seeds import Seeds
from allograft.study.plan import scenario_of
from allograft.table import find

SETTINGS: dict[str, Any] = {
    "augmentation": "none",
    "clip": 1e-4,
    "optimizer": {"sgd": {"lr": 1e-2, "momentum": 0.9}},
    "schedule": {"step": {"at": [0.5], "factor": 0.1}},
}
"""What a study says about training, and other values of it; the other schedule is one that listens
to the loss, and crops are in ``Contract.patch``."""
LOSSES = {
    "segmentation": {"monai.DiceFocalLoss": {}},
    "classification": {"torch.CrossEntropyLoss": {"label_smoothing": 0.2}},
}
"""Task -> another loss; the other tasks refuse one."""
SGD = {"sgd": {"lr": 1e-3, "momentum": 0.9}}
"""By which a gradient that is 0 but for rounding, as that of a bias before a normalisation, makes no
step of the whole learning rate."""
BUDGET = {"steps": 3, "adapt_steps": 2, "batch_size": 2}
"""An adaptation that takes the steps of a training leaves something else."""
OTHER_FIRST = {"supervised": {"augmentation": "none"}}
ALTERED = Alteration(0.3, 0.6, (1.1, 0.9, 1.0), (5.0, 0.0, 0.0), (1.0, 0.0, 0.0))
Leaves = Callable[..., Left]


def options_of(name: str) -> list[str]:
    """The fields of a recipe that say what is computed, and not only how."""
    return [field.name for field in fields(find("method", name)) if not field.metadata.get("how")]


def losses_of(name: str) -> Any:
    """Another loss for the task of a method's contract; None where no loss can be named."""
    task = contract(name).study.get("task", {"segmentation": {}})
    return LOSSES.get(next(iter(task)))


def study_of(name: str, under: str = "") -> dict[str, Any]:
    """What the study is of which a method is a row."""
    stated = contract(name)
    return {"optimizer": SGD, "budget": BUDGET, **stated.study, **stated.under.get(under, {}).get("study", {})}


def leaving(manifest: Path, folder: Callable[[str], Path]) -> Leaves:
    """What a method leaves with one argument or one setting of the study changed, or with the
    images of one side ``altered``, or with all that the study has; ``under`` names an option that
    ``Contract.under`` has, and ``word`` is a value of the argument instead of that in
    ``Contract.options``.

    Args:
        folder: name -> a new folder.
    """

    @cache
    def prepared(name: str, under: str) -> Any:
        stated = contract(name)
        given = stated.under.get(under, {})
        arguments = {**stated.arguments, **given.get("arguments", {})}
        session = session_of(manifest, folder(name), {name: arguments}, **study_of(name, under))
        world = session.prepare()
        return arguments, session, world, row_of(session, world)

    @cache
    def run(name: str, under: str, changed: str, setting: str, word: Any, altered: str, narrowed: bool) -> Left:
        arguments, session, world, row = prepared(name, under)
        other = contract(name).options.get(changed, OTHER_FIRST) if word is None else word
        value = {changed: other} if changed else {}
        recipe = parse_recipe({name: {**arguments, **value}})
        asked = {**SETTINGS, "patch": [*contract(name).patch], "loss": losses_of(name)}.get(setting)
        settings = replace(session.study, **{setting: asked}).settings if setting else None
        seen = scenario_of(world, replace(row, recipe=recipe))
        if altered:
            cohorts = getattr(seen, altered)
            kept = 0 if altered == "target" else len(cohorts) - 1  # a target's labelled cases come first
            seen = replace(seen, **{altered: (*cohorts[:kept], *map(_with_other_images, cohorts[kept:]))})
        assert narrowed or any(not cohort.has_labels for cohort in seen.target)
        if setting != "schedule":
            return left_by(recipe, seen, session, world, settings=settings, narrowed=narrowed)
        leaves(name, under)  # so that what comes before by ``first`` is found, not trained
        with listening() as heard:
            left = left_by(recipe, seen, session, world, settings=settings, narrowed=narrowed)
        return replace(left, numbers={**left.numbers, **heard.numbers()})

    def leaves(
        name: str,
        under: str = "",
        changed: str = "",
        setting: str = "",
        word: Any = None,
        *,
        altered: str = "",
        narrowed: bool = True,
    ) -> Left:
        return run(name, under, changed, setting, word, altered, narrowed)  # one call is one key of the cache

    return leaves


def _with_other_images(cohort: Cohort) -> Cohort:
    return replace(cohort, cases=tuple(replace(case, alteration=ALTERED) for case in cohort.cases))


@contextmanager
def published_weights(folder: Path) -> Iterator[None]:
    """A file for the one name of weights that a contract gives, where nothing is downloaded."""
    import timm
    from safetensors.torch import save_file

    name = "mobilenetv3_small_050"
    with Seeds(5).everything():
        save_file(timm.create_model(name).state_dict(), folder / _timm(name)[2])
    with patch.dict(os.environ, {"ALLOGRAFT_WEIGHTS": str(folder)}):
        yield


def variants(name: str) -> dict[str, tuple[Any, ...]]:
    """What is pinned of a method: its own arguments, under ``""``, each option's other value, each
    further word that an option may be, and another schedule and crop -> the arguments ``under``,
    ``changed``, ``setting`` and ``word`` of ``leaving``."""
    under, made = contract(name).under, {"": ("", "")}
    for option in options_of(name):
        given = option if option in under else ""
        made[option] = (given, option)
        for word in _further_words(name, option):
            key = f"{option}: {word}"
            made[key] = (key if key in under else given, option, "", word)
    if contract(name).trains:
        made |= {f"{setting} of the study": ("", "", setting) for setting in ("schedule", "patch")}
    return made


def _further_words(name: str, option: str) -> list[Any]:
    """The values of a literal type that a method's contract does not name; how strongly images are
    augmented is the study's matter."""
    if option in ("first", "augmentation"):
        return []
    row, stated = find("method", name), contract(name)
    kept = stated.under.get(option, {}).get("arguments", {})
    named = {**stated.arguments, **kept}.get(option, getattr(row(), option)), stated.options[option]
    return [word for word in _words(get_type_hints(row)[option]) if word not in named]


def _words(type_: Any) -> list[Any]:
    if get_origin(type_) is Literal:
        return list(get_args(type_))
    return [word for part in get_args(type_) for word in _words(part)]
