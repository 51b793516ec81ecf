"""The study file: YAML to frozen dataclasses, strict, closed, and kind about slips."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from allograft.cohort import Preprocessing, Slices
from allograft.context import Budget, Settings
from allograft.context.settings import Strength
from allograft.errors import OutputError, SpecError
from allograft.recipe import AnyRow, Grid, Needs, candidates, is_recipe, parse_recipe, title, total_needs
from allograft.strict import overridden, parse_yaml, validated
from allograft.study.where import Where, check_once
from allograft.table import find
from allograft.tree import plain

Alternative = Literal["two-sided", "greater", "less"]
Adjustment = Literal["holm", "bonferroni", "none"]


@dataclass(frozen=True)
class TargetLabels:
    """How many target labels a recipe may use, validation included. One of the four."""

    subjects: int | None = None
    cases: int | None = None
    slices: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("subjects", "cases", "slices", "fraction") if getattr(self, name) is not None]
        if len(given) != 1 or getattr(self, given[0]) <= 0:
            raise SpecError("target_labels: expected none, all, or one of subjects, cases, slices, fraction with a positive number")


@dataclass(frozen=True)
class Test:
    """Which subjects are tested.

    Args:
        fraction: share of each site's subjects.
        val: share of the remaining subjects of a source site that validate.
        folds: rotate the target's subjects through the test set.
    """

    __test__ = False  # not for pytest

    fraction: float = 0.3
    val: float = 0.2
    folds: int = 1

    def __post_init__(self) -> None:
        if not (0 <= self.fraction < 1 and 0 <= self.val < 1 and self.folds >= 1):
            found = f"fraction {self.fraction}, val {self.val}, folds {self.folds}"
            raise SpecError(f"test: found {found}; expected shares from 0 to below 1, and at least 1 fold")


@dataclass(frozen=True)
class Statistics:
    """How rows are tested against do-nothing.

    Args:
        alternative: ``greater`` tests only whether a row is better, as some papers do.
        adjustment: for the number of rows.
    """

    alternative: Alternative = "two-sided"
    adjustment: Adjustment = "holm"


@dataclass(frozen=True)
class Study:
    """One question: which recipe carries a model from ``source`` to each ``target`` best, judged over ``seeds``.

    Fields are the keys of the YAML file; see the README for an example and DESIGN for the contract. Of a site on both sides ``target``
    names the part, ``isic (tone 3, 4)``; see ``Where``.

    ``pairs: all`` asks it for every source site alone and every target, ``leave-one-site-out`` for every target from all other source
    sites; without ``target`` these are the source sites themselves. See ``run_pairs``.
    """

    cohort: str
    task: dict[str, Any]
    recipes: tuple[AnyRow, ...]
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    pairs: Literal["listed", "all", "leave-one-site-out"] = "listed"
    network: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"unet": None})
    start: str = "scratch"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    slices: Slices | None = None
    augmentation: Strength = "light"
    patch: tuple[int, ...] | None = None
    where: Where = field(default_factory=Where)
    target_labels: Literal["none", "all"] | TargetLabels = "none"
    selection: Literal["last", "source-val", "entropy", "infomax", "snd", "oracle"] = "last"
    test: Test = field(default_factory=Test)
    statistics: Statistics = field(default_factory=Statistics)
    near_duplicates: Literal["group", "warn", "stop"] = "stop"
    allow_duplicates: tuple[tuple[str, str], ...] = ()
    seeds: int = 3
    budget: Budget = field(default_factory=Budget)
    optimizer: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"adam": {"lr": 1e-3}})
    schedule: str | dict[str, dict[str, Any] | None] = "constant"
    clip: float | None = None
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        for name in ("task", "network", "optimizer", "schedule"):
            if not isinstance(getattr(self, name), str) and len(getattr(self, name)) != 1:
                raise SpecError(f"{name}: expected one {{name: {{...}}}}, found {', '.join(getattr(self, name)) or 'nothing'}")
        if self.pairs != "listed":
            object.__setattr__(self, "target", self.target or self.source)
        if not self.target:
            raise SpecError("target: names no site; expected at least one, for example target: [b]")
        if not 1 <= self.seeds <= 1000:
            raise SpecError(f"seeds: found {self.seeds}, expected 1 to 1000")
        if self.clip is not None and not self.clip > 0:
            raise SpecError(f"clip: found {self.clip}, expected the largest gradient norm, above 0")
        if self.patch is not None and (min(self.patch, default=0) < 1 or math.prod(self.patch) > 2**30):
            raise SpecError(f"patch: found {list(self.patch)}, expected the size of a training crop along each axis of the image")
        if self.pairs == "listed":
            object.__setattr__(self, "target", self.where.parted(self.source, self.target))
        else:
            self._check_pairs()
        if not self.source and self.start == "scratch":
            raise SpecError("source: is empty and start is scratch, so there is nothing to adapt; name a model: start: FOLDER, or a source")
        if not self.source and self.selection == "source-val":
            raise SpecError("selection: source-val needs a source site; choose last")
        grid = next((row for row in self.recipes if isinstance(row, Grid)), None)
        if grid is not None and self.selection == "last":
            raise SpecError(f"selection: last picks none of the settings of '{grid}'; choose source-val, a label-free rule, or one setting")
        if grid is not None and not self.source:
            raise SpecError(f"recipes: '{grid}' is a grid, and without a source nothing picks from it; name one setting")
        find("optimizer", next(iter(self.optimizer)))

    def _check_pairs(self) -> None:
        check_once(self.source, self.target)
        if not any(source != target for source in self.source for target in self.target):
            named = ", ".join(self.source) or "no source"
            raise SpecError(f"pairs: {self.pairs} finds no pair in {named}; name at least two sites, for example source: [a, b, c]")
        if self.where != Where():
            raise SpecError(f"where: filters the two sides of one pair, and with pairs: {self.pairs} a site stands on both; leave one out")

    @property
    def made_task(self) -> Any:
        """The task object."""
        ((name, arguments),) = self.task.items()
        return validated(find("task", name), arguments, f"task.{name}")

    @property
    def settings(self) -> Settings:
        """What training is told."""
        optimizer = {name: arguments or {} for name, arguments in self.optimizer.items()}
        schedule = {self.schedule: {}} if isinstance(self.schedule, str) else {n: a or {} for n, a in self.schedule.items()}
        return Settings(self.budget, optimizer, self.augmentation, self.patch, self.clip, schedule)

    @property
    def manifest(self) -> Path:
        """The manifest: beside the study file, in the current folder, or below the folder that ``ALLOGRAFT_DATA`` names."""
        folders = [self.file.parent] if self.file is not None else []
        folders += [Path(), Path(os.environ.get("ALLOGRAFT_DATA", "data"))]
        found = next((folder / self.cohort for folder in folders if os.path.isfile(folder / self.cohort)), None)
        if found is None:
            looked = ", ".join(str(folder.resolve()) for folder in dict.fromkeys(folders))
            raise SpecError(f"cohort: no manifest '{self.cohort}' in {looked}; mend the path, or set ALLOGRAFT_DATA to the data's folder")
        return found

    @property
    def start_path(self) -> Path:
        """Where ``start`` lies: in the current folder, or beside the study file; a name as it is."""
        path = Path(self.start)
        if self.start.startswith(("timm:", "hf:")):
            return path
        beside = self.file.parent / path if self.file is not None else path
        return path if path.is_absolute() or os.path.exists(path) else beside  # a name too long is no error here

    def spelt_out(self) -> dict[str, Any]:
        """As ``study.json`` keeps it: JSON values, its paths whole."""
        path = self.start_path
        start = str(path.resolve()) if self.start != "scratch" and os.path.exists(path) else self.start
        return {**plain(self), "cohort": str(self.manifest.resolve()), "start": start}

    @property
    def rows(self) -> tuple[Any, ...]:
        """The recipes of the table: those every study has, then the listed ones, each once.

        Do-nothing and its strongly augmented twin (itself, where the study's augmentation is strong) are always there; target-only and
        source + target where target labels exist. Without a source, do-nothing is the start itself, and what other
        recipes would train on the source first is replaced by it.
        """
        labelled = self.target_labels != "none"
        always: list[Any] = ["supervised"] if self.source else ["start"]
        always += [{"supervised": {"augmentation": "strong"}}] if self.source and self.augmentation != "strong" else []
        always += ["target_supervised"] if labelled else []
        always += ["joint"] if labelled and self.source else []
        rows: list[Any] = []
        for recipe in (*map(parse_recipe, always), *self.recipes):
            rooted = recipe if self.source or isinstance(recipe, Grid) else source_free(recipe)
            if rooted not in rows:
                rows.append(rooted)
        return tuple(rows)

    def needs(self) -> Needs:
        """What all rows together need."""
        total = Needs()
        for recipe in (one for row in self.rows for one in candidates(row)):
            total = total | total_needs(recipe)
        return total


def source_free(recipe: Any) -> Any:
    """The recipe with ``supervised`` in its fields replaced by ``start``, the model that stands for the source."""
    inner = {
        f.name: parse_recipe("start") if title(value).startswith("supervised") else source_free(value)
        for f in fields(recipe)
        if is_recipe(value := getattr(recipe, f.name))
    }
    return replace(recipe, **inner)


def read_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read a study file.

    Args:
        overrides: ``key=value`` or ``key.inner=value``, values as YAML: ``budget.steps=20``.

    Raises:
        SpecError: with the line or key, what was found, and the nearest known name.
    """
    path = Path(path)
    if not path.is_file():
        raise SpecError(f"{path}: no such study file; expected YAML with the keys cohort, task, source, target, recipes")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise SpecError(f"{path}: expected keys and values, found {type(tree).__name__}")
    return replace(make_study(overridden(tree, overrides)), file=path)


def make_study(tree: Mapping[str, Any] | Study) -> Study:
    """A study from the same keys as the file, for Python."""
    if isinstance(tree, Study):
        return tree
    if "file" in tree:
        raise SpecError("study.file: unknown key 'file'")
    study: Study = validated(Study, tree, "study")
    _ = study.made_task
    return study


def kept_study(out: Path) -> Study:
    """The study of an output folder. ``OutputError`` for a folder that no study wrote."""
    kept = out / "study.json"
    try:
        return make_study(json.loads(kept.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise OutputError(f"{out}: holds no study.json; expected the output folder of 'allograft study'") from error
    except (ValueError, OSError) as error:
        raise OutputError(f"{kept}: cannot be read ({error}); run the study again into this folder") from error
