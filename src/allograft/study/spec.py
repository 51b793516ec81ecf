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
from allograft.recipe import AnyRow, Grid, Needs, Recipe, candidates, every_recipe, is_recipe, parse_recipe, title, total_needs
from allograft.strict import overridden, parse_yaml, validated
from allograft.study.where import Where, check_once
from allograft.table import find
from allograft.tasks import Task
from allograft.tree import plain

Alternative = Literal["two-sided", "greater", "less"]
Adjustment = Literal["holm", "bonferroni", "none"]


@dataclass(frozen=True)
class TargetLabels:
    """How many target labels a recipe may use, validation included. One of the four."""

    subjects: int | tuple[int, ...] | None = None
    cases: int | tuple[int, ...] | None = None
    slices: int | tuple[int, ...] | None = None
    fraction: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("subjects", "cases", "slices", "fraction") if getattr(self, name) is not None]
        if len(given) != 1 or not self.amounts or min(self.amounts) <= 0:
            raise SpecError("target_labels: expected none, all, or one of subjects, cases, slices, fraction with a positive number")
        if list(self.amounts) != sorted(set(self.amounts)):
            raise SpecError(f"target_labels.{given[0]}: found {list(self.amounts)}; expected a number, or several that rise")

    @property
    def unit(self) -> str:
        """subjects, cases, slices or fraction."""
        return next(name for name in ("subjects", "cases", "slices", "fraction") if getattr(self, name) is not None)

    @property
    def amounts(self) -> tuple[float, ...]:
        """The number, or the rising numbers, each of which is a part of the study."""
        given = getattr(self, self.unit)
        return given if isinstance(given, tuple) else (given,)


@dataclass(frozen=True)
class CohortSpec:
    """One of several cohorts of a study: its table, what its labels are called in it, and how its images are prepared.

    Args:
        manifest: as ``cohort`` names one.
        classes: class of the task -> the values of this cohort's masks, or its words for the label; by default those of the task.
        slices: how its volumes are cut, for a 2-D network.
        preprocessing: keys that differ from the study's.
    """

    manifest: str
    classes: dict[str, tuple[int | str, ...]] | None = None
    slices: Slices | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gradual:
    """A stream whose mix of sites moves in equal steps from the first of ``sites`` to the last; no subject comes twice.

    Each stage is a site of its own, ``SITE to SITE, K of N``, with test subjects of its own mix.
    """

    sites: tuple[str, ...]
    stages: int

    def __post_init__(self) -> None:
        if len(self.sites) < 2 or self.stages < 2:
            raise SpecError(f"stream.gradual: found {len(self.sites)} sites and {self.stages} stages; expected at least two of each")

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names.

        >>> Gradual(("a", "b"), 2).names
        ('a to b, 1 of 2', 'a to b, 2 of 2')
        """
        return tuple(f"{self.sites[0]} to {self.sites[-1]}, {stage} of {self.stages}" for stage in range(1, self.stages + 1))


@dataclass(frozen=True)
class GradualStream:
    """``{gradual: {sites: [a, b], stages: 5}}``."""

    gradual: Gradual


@dataclass(frozen=True)
class Question:
    """What a row is asked: its name in the table, and the sites whose test subjects answer it.

    A target is a question about itself; a stream is one question about all of its sites.
    """

    name: str
    sites: tuple[str, ...]


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
        adjustment: of the p values of the tables, for the number of rows; the verdict always uses Holm.
        margin: the gain that would matter, in units of the headline: how many subjects would show it is reported.
        tolerance: how much a row may lose at the target or forget at home before it is marked.
    """

    alternative: Alternative = "two-sided"
    adjustment: Adjustment = "holm"
    margin: float = 0.02
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise SpecError(f"statistics.margin: found {self.margin}, expected the gain that would matter, above 0, for example 0.02")
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise SpecError(f"statistics.tolerance: found {self.tolerance}, expected a loss that may be borne, 0 or more, for example 0.02")


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question: which recipe carries a model from ``source`` to each ``target`` best, judged over ``seeds``.

    Fields are the keys of the YAML file; see the README for an example and DESIGN for the contract. Of a site on both sides ``target``
    names the part, ``isic (tone 3, 4)``; see ``Where``.

    ``pairs: all`` asks it for every source site alone and every target, ``leave-one-site-out`` for every target from all other source
    sites; without ``target`` these are the source sites themselves. See ``run_pairs``.

    ``primary`` names one of the rows beforehand: it is tested alone, and no other row's luck counts against it; see ``results.verdict``.
    """

    cohort: str = ""
    cohorts: dict[str, CohortSpec] = field(default_factory=dict)
    task: dict[str, Any]
    recipes: tuple[AnyRow, ...]
    primary: AnyRow | None = None
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    stream: tuple[tuple[str, ...], ...] | GradualStream = ()
    each: dict[str, dict[str, Any]] = field(default_factory=dict)
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
        if bool(self.cohort) == bool(self.cohorts):
            raise SpecError(f"cohort: found {'both' if self.cohort else 'neither'} of cohort and cohorts; expected exactly one of them")
        if self.cohorts and self.slices is not None:
            raise SpecError("slices: with cohorts each cohort says how its volumes are cut; write cohorts: {NAME: {slices: {axis: 2}}}")
        if wrong := next((name for name in self.cohorts if "/" in name or not name), None):
            raise SpecError(f"cohorts: '{wrong}' cannot be a name, since sites are NAME/SITE; leave out the slash")
        if self.pairs != "listed":
            object.__setattr__(self, "target", self.target or self.source)
        if self.stream:
            self._check_stream()
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
        if self.within and self.target_labels != "none":
            raise SpecError(
                f"target_labels: '{self.within[0]}' is source and target, all its training labels are the source's; leave them out"
            )
        if self.within and self.test.folds > 1:
            raise SpecError(f"test.folds: rotate target subjects, and '{self.within[0]}' is a source too; leave folds out")
        if not self.source and self.start == "scratch" and (needy := next(filter(_adapts, self.rows), None)) is not None:
            raise SpecError(
                f"source: is empty and start is scratch, so '{title(needy)}' has nothing to adapt; name a model: start: FOLDER, or a source"
            )
        if not self.source and self.selection == "source-val":
            raise SpecError("selection: source-val needs a source site; choose last")
        grid = next((row for row in self.recipes if isinstance(row, Grid)), None)
        if grid is not None and self.selection == "last":
            raise SpecError(f"selection: last picks none of the settings of '{grid}'; choose source-val, a label-free rule, or one setting")
        if grid is not None and not self.source:
            raise SpecError(f"recipes: '{grid}' is a grid, and without a source nothing picks from it; name one setting")
        find("optimizer", next(iter(self.optimizer)))
        self._check_primary()

    def _check_primary(self) -> None:
        name, rows = self.primary_title, [title(row) for row in self.rows]
        if name and name in rows[:1]:
            raise SpecError(f"primary: '{name}' is what every row is compared with; name a row that may be better")
        if name and name not in rows:
            raise SpecError(f"primary: found '{name}', expected a row of the table: {', '.join(rows)}; list it under recipes too")
        if self.primary is not None and total_needs(candidates(self.primary)[0]).all_target_labels:
            raise SpecError(f"primary: '{name}' uses all target labels, as an upper bound; name a row within the budget")

    @property
    def primary_title(self) -> str:
        """The title of the row named beforehand; "" where none is."""
        if self.primary is None:
            return ""
        return title(self.primary if self.source or isinstance(self.primary, Grid) else source_free(self.primary))

    def _check_stream(self) -> None:
        """A stream stands in the place of both sides; its sites are what is judged."""
        phases = self.phases
        if len(phases) < 2:
            raise SpecError(f"stream: has {len(phases)} stage; expected at least two, for example stream: [[a], [b]]")
        sites = tuple(site for phase in phases for site in phase)
        double = next((site for number, site in enumerate(sites) if site in sites[:number]), None)
        if double is not None or not all(phases):
            found = f"site '{double}' is in two stages" if double is not None else "a stage names no site"
            raise SpecError(f"stream: {found}; name each site once")
        if self.source or self.target not in ((), sites):
            raise SpecError("stream: stands in the place of source and target; leave both out")
        if self.pairs != "listed" or self.target_labels != "none" or self.test.folds > 1:
            raise SpecError("stream: goes with neither pairs, target_labels nor test.folds; leave them out")
        object.__setattr__(self, "target", sites)

    @property
    def is_parted(self) -> bool:
        """Whether the study consists of several: pairs, named settings, or several numbers of target labels."""
        several = isinstance(self.target_labels, TargetLabels) and len(self.target_labels.amounts) > 1
        return self.pairs != "listed" or bool(self.each) or several

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The sites of each stage of the stream."""
        if isinstance(self.stream, GradualStream):
            return tuple((name,) for name in self.stream.gradual.names)
        return self.stream

    @property
    def within(self) -> tuple[str, ...]:
        """Sites that are source and target: trained on some subjects and tested on others."""
        return tuple(site for site in self.target if site in self.source) if self.pairs == "listed" else ()

    @property
    def questions(self) -> tuple[Question, ...]:
        """What every row is asked: about each target, or about the stream as a whole."""
        if self.stream:
            return (Question("stream", self.target),)
        return tuple(Question(target, (target,)) for target in self.target)

    def _check_pairs(self) -> None:
        check_once(self.source, self.target)
        if not any(source != target for source in self.source for target in self.target):
            named = ", ".join(self.source) or "no source"
            raise SpecError(f"pairs: {self.pairs} finds no pair in {named}; name at least two sites, for example source: [a, b, c]")
        if self.where != Where():
            raise SpecError(f"where: filters the two sides of one pair, and with pairs: {self.pairs} a site stands on both; leave one out")

    @property
    def made_task(self) -> Task:
        """The task object."""
        ((name, arguments),) = self.task.items()
        task: Task = validated(find("task", name), arguments, f"task.{name}")
        return task

    @property
    def settings(self) -> Settings:
        """What training is told."""
        optimizer = {name: arguments or {} for name, arguments in self.optimizer.items()}
        schedule = {self.schedule: {}} if isinstance(self.schedule, str) else {n: a or {} for n, a in self.schedule.items()}
        return Settings(self.budget, optimizer, self.augmentation, self.patch, self.clip, schedule)

    @property
    def manifest(self) -> Path:
        """The manifest of a study with one cohort."""
        return self.find_manifest(self.cohort)

    def find_manifest(self, named: str) -> Path:
        """A manifest: beside the study file, in the current folder, or below the folder that ``ALLOGRAFT_DATA`` names."""
        folders = [self.file.parent] if self.file is not None else []
        folders += [Path(), Path(os.environ.get("ALLOGRAFT_DATA", "data"))]
        found = next((folder / named for folder in folders if os.path.isfile(folder / named)), None)
        if found is None:
            looked = ", ".join(str(folder.resolve()) for folder in dict.fromkeys(folders))
            raise SpecError(f"cohort: no manifest '{named}' in {looked}; correct the path, or set ALLOGRAFT_DATA to the data's folder")
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
        cohorts = {name: replace(one, manifest=str(self.find_manifest(one.manifest).resolve())) for name, one in self.cohorts.items()}
        cohort = str(self.manifest.resolve()) if self.cohort else ""
        return {**plain(self), "cohort": cohort, "cohorts": {name: plain(one) for name, one in cohorts.items()}, "start": start}

    @property
    def rows(self) -> tuple[Recipe | Grid, ...]:
        """The recipes of the table: those every study has, then the listed ones, each once.

        Do-nothing and its strongly augmented twin (itself, where the study's augmentation is strong) are always there; target-only and
        source + target where target labels exist. Without a source, do-nothing is the start itself, and what other
        recipes would train on the source first is replaced by it.
        """
        labelled = self.target_labels != "none"
        always: list[str | dict[str, object]] = ["supervised"] if self.source else ["start"] if self.start != "scratch" else []
        always += [{"supervised": {"augmentation": "strong"}}] if self.source and self.augmentation != "strong" else []
        always += ["target_supervised"] if labelled else []
        always += ["joint"] if labelled and self.source else []
        rows: list[Recipe | Grid] = []
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


def source_free(recipe: Recipe) -> Recipe:
    """The recipe with ``supervised`` in its fields replaced by what that begins with, at first ``start``, the model given."""
    inner = {
        f.name: _beginning(value) if title(value).startswith("supervised") else source_free(value)
        for f in fields(recipe)
        if is_recipe(value := getattr(recipe, f.name))
    }
    return replace(recipe, **inner)


def _beginning(supervised: Any) -> Recipe:
    return parse_recipe("start") if supervised.first is None else source_free(supervised.first)


def _adapts(row: Recipe | Grid) -> bool:
    """Whether a row goes on from a model that must be there already, and so from more than a pool or labels."""
    return any(title(one) == "start" for recipe in candidates(row) for one in every_recipe(recipe))


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
