"""Scenario, Needs, Stage, Carry, Recipe: what a method may see, and what it gives back."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, get_args, get_type_hints

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from torch import nn

from allograft.cohort import Cohort
from allograft.errors import SpecError, nearest
from allograft.networks import Network, Wrapped
from allograft.table import find
from allograft.tree import default

if TYPE_CHECKING:
    from allograft.context import Context
    from allograft.predictor import Predictor


@dataclass(frozen=True)
class Paper:
    """What a method cites: a BibTeX key, authors, title, venue, year and a DOI or address-free identifier."""

    key: str
    authors: str
    title: str
    venue: str
    year: int
    doi: str = ""


@dataclass(frozen=True)
class Needs:
    """What a recipe must be given; everything else is taken out of its scenario.

    Args:
        source_images: source cases, with labels.
        target_images: the target's training images, labels absent.
        target_labels: the labelled target cases of the budget.
        all_target_labels: every labelled target training case, beyond the budget: for upper bounds.
        pool: unlabelled images for pre-training.
        stream: phases in order.
        optimizer_state: the carry of ``first`` must hold its optimizer.
    """

    source_images: bool = False
    target_images: bool = False
    target_labels: bool = False
    all_target_labels: bool = False
    pool: bool = False
    stream: bool = False
    optimizer_state: bool = False

    def __or__(self, other: Needs) -> Needs:
        return Needs(**{f.name: getattr(self, f.name) or getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True)
class Scenario:
    """What a recipe may see. Absent = (); test cases never enter it.

    Args:
        source: labelled cohorts, one a site (or one a label set).
        target: for each target site the labelled part and the unlabelled rest.
        pool: images for pre-training.
        stream: phases, each met once.
        sites: what ``Batch.site`` counts.
    """

    source: tuple[Cohort, ...] = ()
    target: tuple[Cohort, ...] = ()
    pool: tuple[Cohort, ...] = ()
    stream: tuple[Cohort, ...] = ()
    sites: tuple[str, ...] = ()

    def narrowed(self, needs: Needs) -> Scenario:
        """Only what is needed, sites renumbered, so that two recipes that need the same see, and are keyed by, the same."""
        labels = needs.target_labels or needs.all_target_labels
        if labels:
            target = self.target if needs.target_images else tuple(c for c in self.target if c.has_labels)
        else:
            target = tuple(c.unlabelled() for c in self.target) if needs.target_images else ()
        source = self.source if needs.source_images else ()
        pool = tuple(self.pool) if needs.pool else ()
        stream = self.stream if needs.stream else ()
        present = {case.site for cohort in (*source, *target, *pool, *stream) for case in cohort.cases}
        sites = tuple(site for site in self.sites if site in present)

        def renumbered(cohorts: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
            return tuple(replace(cohort, sites=sites) for cohort in cohorts)

        return Scenario(renumbered(source), renumbered(target), renumbered(pool), renumbered(stream), sites)

    def fingerprint(self) -> list[Any]:
        """JSON values of all that can be seen."""
        return [[cohort.fingerprint() for cohort in part] for part in (self.source, self.target, self.pool, self.stream)]


@dataclass(frozen=True)
class Stage:
    """A moment worth judging, yielded by a recipe.

    Args:
        name: unique within a run.
        predictor: what to judge; None for weights only.
        seen: sites learned from so far, in order.
        unit, recipe, sites: whose stage it is; set by ``Context.run``.
    """

    name: str
    predictor: Predictor | None = None
    seen: tuple[str, ...] = ()
    unit: str = ""
    recipe: Any = None
    sites: tuple[str, ...] = ()


@dataclass(frozen=True)
class Carry:
    """What a recipe hands to the recipe built on it: the network, perhaps its optimizer's state by parameter name, and other networks."""

    network: Network | Wrapped
    optimizer: Mapping[str, Any] | None = None
    parts: Mapping[str, nn.Module] = field(default_factory=dict)


class Recipe(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters, with the paper's values as defaults."""

    paper: ClassVar[Paper | None]
    needs: ClassVar[Needs]

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """The paper's algorithm."""


def is_recipe(thing: Any) -> bool:
    """Whether this is a recipe object."""
    return is_dataclass(thing) and not isinstance(thing, type) and hasattr(thing, "run")


def total_needs(recipe: Any) -> Needs:
    """A recipe's own needs and those of the recipes in its fields."""
    total: Needs = recipe.needs
    for f in fields(recipe):
        if is_recipe(getattr(recipe, f.name)):
            total = total | total_needs(getattr(recipe, f.name))
    return total


def shown(recipe: Any) -> dict[str, Any]:
    """The fields that differ from their defaults, recipes as ``{name: {...}}``: what tables and cards print."""
    from allograft.table import name_of

    different: dict[str, Any] = {}
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if value != default(f):
            different[f.name] = {name_of("method", type(value)): shown(value)} if is_recipe(value) else value
    return different


def title(recipe: Any) -> str:
    """One line: ``finetune scope=top``."""
    from allograft.table import name_of

    if isinstance(recipe, Grid):
        return str(recipe)

    words = [name_of("method", type(recipe))]
    for key, value in shown(recipe).items():
        text = title(getattr(recipe, key)) if is_recipe(getattr(recipe, key)) else str(value)
        words.append(f"{key}=({text})" if " " in text else f"{key}={text}")
    return " ".join(words)


def parse_recipe(tree: Any, where: str = "recipes") -> Any:
    """``"fourier"`` or ``{"finetune": {"scope": "top"}}`` -> a recipe; ``SpecError`` names the nearest key."""
    if is_recipe(tree):
        return tree
    if isinstance(tree, str):
        tree = {tree: {}}
    if not (isinstance(tree, Mapping) and len(tree) == 1):
        raise SpecError(f"{where}: a recipe is a name or one {{name: {{...}}}}, found {tree!r}; mind the indentation")
    ((name, arguments),) = tree.items()
    return validated(find("method", name), arguments, f"{where}.{name}")


@dataclass(frozen=True)
class Grid:
    """A row that tries several settings of a recipe; the study's selection picks one for each seed, and the cost of all counts.

    ``{finetune: {scope: top, grid: {augmentation: [none, strong]}}}`` in YAML.

    Args:
        name: of the recipe.
        fixed: fields that all candidates share.
        axes: field -> the values to try.
    """

    name: str
    fixed: Mapping[str, Any]
    axes: Mapping[str, tuple[Any, ...]]

    @property
    def candidates(self) -> tuple[Any, ...]:
        """Every combination, the last axis fastest."""
        trees = ({**self.fixed, **dict(zip(self.axes, values, strict=True))} for values in product(*self.axes.values()))
        return tuple(parse_recipe({self.name: tree}) for tree in trees)

    def tree(self) -> dict[str, Any]:
        """As it stands in YAML."""
        return {self.name: {**self.fixed, "grid": {key: list(values) for key, values in self.axes.items()}}}

    def __str__(self) -> str:
        axes = (f"{key}={'|'.join(map(str, values))}" for key, values in self.axes.items())
        fixed = (f"{key}={value}" for key, value in self.fixed.items())
        return " ".join([self.name, *fixed, *axes])


def parse_row(tree: Any, where: str = "recipes") -> Any:
    """A row of a table: a recipe, or a ``Grid`` of one."""
    if isinstance(tree, Grid) or not (isinstance(tree, Mapping) and len(tree) == 1):
        return tree if isinstance(tree, Grid) else parse_recipe(tree, where)
    ((name, arguments),) = tree.items()
    if not (isinstance(arguments, Mapping) and "grid" in arguments):
        return parse_recipe(tree, where)
    axes = arguments["grid"]
    if not (isinstance(axes, Mapping) and axes and all(isinstance(values, (list, tuple)) and values for values in axes.values())):
        raise SpecError(f"{where}.{name}.grid: expected field: [value, value, ...], found {axes!r}")
    fixed = {key: value for key, value in arguments.items() if key != "grid"}
    if both := sorted(set(fixed) & set(axes)):
        raise SpecError(f"{where}.{name}: '{both[0]}' is fixed and in the grid; name it once")
    grid = Grid(name, fixed, {key: tuple(values) for key, values in axes.items()})
    _ = grid.candidates  # refuses what no recipe takes
    return grid


def candidates(row: Any) -> tuple[Any, ...]:
    """The recipes of a row: of a grid all, else the one."""
    return row.candidates if isinstance(row, Grid) else (row,)


def validated(cls: type, tree: Any, where: str) -> Any:
    """A dataclass from JSON values, strictly: unknown keys, wrong types and bad values raise ``SpecError`` naming the key."""
    _close(cls)
    try:
        # JSON mode is strict, and yet lists become tuples
        return TypeAdapter(cls).validate_json(json.dumps({} if tree is None else tree))
    except (TypeError, ValueError) as error:
        if not isinstance(error, ValidationError):
            raise SpecError(f"{where}: {error}; expected plain YAML values") from None
        raise SpecError("\n".join(_explain(cls, each, where) for each in error.errors())) from None


def _close(cls: Any) -> None:
    """Without this, pydantic drops unknown keys of a plain dataclass, and of those in its fields, in silence."""
    if "__pydantic_config__" in cls.__dict__:
        return
    cls.__pydantic_config__ = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
    for kind in get_type_hints(cls).values():
        for one in (kind, *get_args(kind)):
            if isinstance(one, type) and is_dataclass(one):
                _close(one)


def _explain(cls: type, error: Any, where: str) -> str:
    place = [str(part) for part in error["loc"] if not str(part).startswith(("function-", "tuple[", "dict[", "constrained-"))]
    at = ".".join([where, *place])
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner = cls
        for part in place[:-1]:
            inner = next((f for f in fields(owner) if f.name == part), None) if is_dataclass(owner) else None
            kind = _hint(owner, part) if inner else None
            owner = kind if is_dataclass(kind) else owner  # type: ignore[assignment]
        return f"{at}: {nearest(place[-1], [f.name for f in fields(owner)], 'key')}"
    message = error["msg"].removeprefix("Value error, ")
    if message != error["msg"]:  # ours, of a nested recipe: it says what was found
        return f"{at}: {message}"
    return message if message.startswith(where) else f"{at}: {message}, found {json.dumps(error['input'], default=str)}"


def _hint(cls: Any, name: str) -> Any:
    kind = get_type_hints(cls)[name]
    return next((one for one in get_args(kind) if is_dataclass(one)), kind)


def _nested(tree: Any) -> Any:
    try:
        return parse_recipe(tree, "recipe")
    except SpecError as error:
        raise ValueError(str(error)) from None


def _row(tree: Any) -> Any:
    try:
        return parse_row(tree, "recipe")
    except SpecError as error:
        raise ValueError(str(error)) from None


AnyRow = Annotated[Any, BeforeValidator(_row)]
"""The type of a row of a study's table."""


AnyRecipe = Annotated[Any, BeforeValidator(_nested)]
"""The type of a field that holds another recipe: ``first: AnyRecipe = field(default_factory=Supervised)``."""
