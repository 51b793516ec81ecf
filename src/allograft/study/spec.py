"""The study file: YAML to frozen dataclasses, strict, closed, and kind about slips."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from allograft.cohort import Preprocessing, Slices
from allograft.context import Budget, Settings
from allograft.context.settings import Strength
from allograft.errors import SpecError
from allograft.recipe import AnyRow, Grid, Needs, candidates, is_recipe, parse_recipe, title, total_needs, validated
from allograft.study.statistics import Adjustment, Alternative
from allograft.study.where import Where
from allograft.table import find


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
    """

    cohort: str
    task: dict[str, Any]
    target: tuple[str, ...]
    recipes: tuple[AnyRow, ...]
    source: tuple[str, ...] = ()
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
        if not self.target:
            raise SpecError("target: names no site; expected at least one, for example target: [b]")
        if not 1 <= self.seeds <= 1000:
            raise SpecError(f"seeds: found {self.seeds}, expected 1 to 1000")
        if self.clip is not None and not self.clip > 0:
            raise SpecError(f"clip: found {self.clip}, expected the largest gradient norm, above 0")
        if self.patch is not None and (min(self.patch, default=0) < 1 or math.prod(self.patch) > 2**30):
            raise SpecError(f"patch: found {list(self.patch)}, expected the size of a training crop along each axis of the image")
        object.__setattr__(self, "target", self.where.parted(self.source, self.target))
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


def parse_yaml(text: str, name: str) -> Any:
    """Safe YAML: floats as written (``1e-3``), no octal numbers, no yes/no, a repeated key is an error, no tags."""
    try:
        return yaml.load(text, _Strict)  # a SafeLoader
    except yaml.YAMLError as error:
        raise SpecError(f"{name}: not plain YAML: {' '.join(str(error).split())}") from error
    except (ValueError, AttributeError) as error:  # a tag that its value does not fit: !!int abc
        raise SpecError(f"{name}: not plain YAML: {error}") from error
    except RecursionError as error:
        raise SpecError(f"{name}: nested too deeply to be a study") from error


class _Strict(yaml.SafeLoader):
    """A SafeLoader with YAML 1.2 numbers and booleans, which refuses aliases and repeated keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):  # a few lines of aliases can stand for gigabytes
            raise yaml.YAMLError(f"line {self.peek_event().start_mark.line + 1}: aliases (*name) are not read; write the value out")
        return super().compose_node(parent, index)


_OLD = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:timestamp")
_Strict.yaml_implicit_resolvers = {
    key: [row for row in rows if row[0] not in _OLD] for key, rows in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Strict.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tTfF"))
_Strict.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_FLOAT = re.compile(r"^[-+]?(?:\d+\.\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+)$")
_Strict.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


def _mapping(loader: Any, node: Any, deep: bool = False) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        line = key_node.start_mark.line + 1
        if not isinstance(key, (str, int, float, bool)):
            raise yaml.YAMLError(f"line {line}: a key must be a word")
        if str(key) in tree:
            raise yaml.YAMLError(f"line {line}: key '{key}' is written twice; remove one")
        tree[str(key)] = loader.construct_object(value_node, deep=True)
    return tree


_Strict.add_constructor("tag:yaml.org,2002:map", _mapping)


def overridden(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The tree with ``key=value`` or ``key.inner=value`` applied, values as YAML."""
    for override in overrides:
        _override(tree, override)
    return tree


def _override(tree: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SpecError(f"--set {text}: expected key=value, for example --set budget.steps=20")
    *outer, last = path.split(".")
    for key in outer:
        inner = tree.get(key)
        tree[key] = inner = dict(inner) if isinstance(inner, dict) else {}
        tree = inner
    tree[last] = parse_yaml(value, f"--set {text}")
