"""Scenario, Needs, Stage, Carry, Recipe: what a method may see, and what it gives back."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeGuard

from torch import nn

from allograft.cohort import Coding, Cohort
from allograft.errors import AllograftError
from allograft.networks import AnyNetwork, own_spec
from allograft.tree import Json, default

if TYPE_CHECKING:
    from allograft.context import Context
    from allograft.predictor import Predictor


@dataclass(frozen=True)
class Paper:
    """What a method cites: a BibTeX key, authors, title, venue, year and a DOI or address-free
    identifier."""

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
        every_target: what is given of the target, of all targets of the study together: one run
            then answers each of them.
        pool: images for pre-training, labels absent.
        pool_labels: their labels too.
        stream: phases in order.
        optimizer_state: the carry of ``first`` must hold its optimizer.
    """

    source_images: bool = False
    target_images: bool = False
    target_labels: bool = False
    all_target_labels: bool = False
    every_target: bool = False
    pool: bool = False
    pool_labels: bool = False
    stream: bool = False
    optimizer_state: bool = False

    @property
    def only_pool(self) -> bool:
        """Whether a recipe needs images for pre-training and nothing else of a study."""
        other = (f.name for f in fields(self) if f.name not in ("pool", "pool_labels", "optimizer_state"))
        return (self.pool or self.pool_labels) and not any(getattr(self, name) for name in other)

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
        """Only what is needed, sites renumbered, so that two recipes that need the same see, and
        are keyed by, the same. Boxes of further readers, which are there to judge by, are taken
        out of every cohort."""
        labels = needs.target_labels or needs.all_target_labels
        if labels:
            target = self.target if needs.target_images else tuple(c for c in self.target if c.has_labels)
        else:
            target = _images(self.target) if needs.target_images else ()
        source = self.source if needs.source_images else ()
        pool = self.pool if needs.pool_labels else tuple(map(_bare, _images(self.pool))) if needs.pool else ()
        stream = self.stream if needs.stream else ()
        present = {case.site for cohort in (*source, *target, *pool, *stream) for case in cohort.cases}
        sites = tuple(site for site in self.sites if site in present)

        def renumbered(cohorts: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
            return tuple(replace(cohort.one_reader(), sites=sites) for cohort in cohorts)

        return Scenario(renumbered(source), renumbered(target), renumbered(pool), renumbered(stream), sites)

    def fingerprint(self) -> list[Json]:
        """JSON values of all that can be seen."""
        return [
            [cohort.fingerprint() for cohort in part] for part in (self.source, self.target, self.pool, self.stream)
        ]


def _images(cohorts: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
    """Each site's cases as one cohort without labels, in an order that does not tell which of them
    are labelled."""
    by_site: dict[str, list[Cohort]] = {}
    for cohort in cohorts:
        for site in dict.fromkeys(case.site for case in cohort.cases):
            by_site.setdefault(site, []).append(cohort.site(site).unlabelled())
    return tuple(
        replace(
            parts[0],
            cases=tuple(sorted((case for part in parts for case in part.cases), key=lambda case: case.name)),
            chosen=None,
        )
        for parts in by_site.values()
    )


def _bare(cohort: Cohort) -> Cohort:
    """What labels would mean is left out too, so that another task does not change what a
    pre-training saw."""
    coding = Coding(attributes=cohort.prepared.coding.attributes)
    return replace(cohort, prepared=replace(cohort.prepared, coding=coding))


@dataclass(frozen=True)
class Saw:
    """What a run had seen when it yielded a stage: sites, and the subjects whose target or stream
    labels it was given."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    labelled_subjects: tuple[str, ...] = ()

    @staticmethod
    def from_scenario(scenario: Scenario, seen: tuple[str, ...] = ()) -> Saw:
        """What a narrowed scenario shows; of its stream, the sites in ``seen``, or all where
        ``seen`` names none of them."""
        met = [cohort for cohort in scenario.stream if set(_sites(cohort)) & set(seen)] or scenario.stream
        labelled = {subject for cohort in (*scenario.target, *met) if cohort.has_labels for subject in cohort.subjects}
        return Saw(_sites(*scenario.source), _sites(*scenario.target), _sites(*met), tuple(sorted(labelled)))


def _sites(*cohorts: Cohort) -> tuple[str, ...]:
    return tuple(sorted({case.site for cohort in cohorts for case in cohort.cases}))


@dataclass(frozen=True)
class Stage:
    """A moment worth judging, yielded by a recipe.

    Args:
        name: unique within a run.
        predictor: what to judge; None for weights only, which other recipes build on.
        seen: sites learned from so far, in order.
        facts: numbers that belong to this moment: models in a pool, the loss of a pretext.
        unit, recipe, sites, cost, saw: whose stage it is and what led to it; set by
            ``Context.run``.
    """

    name: str
    predictor: Predictor | None = None
    seen: tuple[str, ...] = ()
    facts: Mapping[str, float | int | str] = field(default_factory=dict)
    unit: str = ""
    recipe: Recipe | None = None
    sites: tuple[str, ...] = ()
    cost: Mapping[str, float | int] = field(default_factory=dict)
    saw: Saw = field(default_factory=Saw)


@dataclass(frozen=True)
class Carry:
    """What a recipe hands to the recipe built on it.

    Args:
        network: as it ended.
        optimizer: its state by parameter name.
        parts: other networks, a teacher say, and modules made by ``networks.rebuildable``, such as
            a critic. When they are loaded, they are in training mode, and all parameters require
            gradients.

    Raises:
        AllograftError: a part without a spec, which could not be loaded again.
    """

    network: AnyNetwork
    optimizer: Mapping[str, object] | None = None
    parts: Mapping[str, nn.Module] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, part in self.parts.items():
            if not own_spec(part):
                raise AllograftError(
                    f"Carry.parts: '{name}' is a {type(part).__name__} without a spec, so it could not be loaded "
                    "again; "
                    "make it by allograft.networks.rebuildable(FUNCTION, ...)"
                )


class Recipe(Protocol):
    """A frozen dataclass whose fields are the hyper-parameters, with the paper's values as
    defaults.

    It may have a ``check`` with the arguments of ``run``, which changes nothing and raises
    ``SpecError`` for a task, a network or settings that the recipe cannot be used with. A study
    calls it before anything is trained.

    Where its paper fixes the supervised loss, ``own_loss`` says which one, in words: it is then
    refused in a study that names another by ``loss``.
    """

    __dataclass_fields__: ClassVar[dict[str, Field[object]]]
    paper: ClassVar[Paper | None]

    @property
    def needs(self) -> Needs:
        """What it must be given; a class variable where its fields change nothing."""

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """The paper's algorithm."""


def is_recipe(thing: object) -> TypeGuard[Recipe]:
    """Whether this is a recipe object."""
    return is_dataclass(thing) and not isinstance(thing, type) and hasattr(thing, "run")


def every_recipe(recipe: Recipe) -> Iterator[Recipe]:
    """A recipe and those in its fields, however deep."""
    yield recipe
    for f in fields(recipe):
        if is_recipe(inner := getattr(recipe, f.name)):
            yield from every_recipe(inner)


def total_needs(recipe: Recipe) -> Needs:
    """A recipe's own needs and those of the recipes in its fields."""
    total = Needs()
    for inner in every_recipe(recipe):
        total = total | inner.needs
    return total


def shown(recipe: Recipe) -> dict[str, object]:
    """The fields that differ from their defaults, recipes as ``{name: {...}}``: what tables and
    cards print."""
    from allograft.table import name_of

    different: dict[str, object] = {}
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        if value != default(f):
            different[f.name] = {name_of("method", type(value)): shown(value)} if is_recipe(value) else value
    return different


def title(recipe: object, *, without: str = "") -> str:
    """One line: ``finetune scope=top``; ``without`` names a field to leave out."""
    from allograft.table import name_of

    if not is_recipe(recipe):  # a grid of recipes
        return str(recipe)

    words = [name_of("method", type(recipe))]
    for key, value in shown(recipe).items():
        if key == without:
            continue
        text = title(getattr(recipe, key)) if is_recipe(getattr(recipe, key)) else _as_written(value)
        words.append(f"{key}=({text})" if " " in text else f"{key}={text}")
    return " ".join(words)


def _as_written(value: object) -> str:
    """``{"adam": {"lr": 0.1}}`` as people write it: ``adam(lr=0.1)``, in whatever order a file
    names the arguments; ``a, b`` of several."""
    if isinstance(value, Mapping) and all(isinstance(inner, Mapping) or inner is None for inner in value.values()):
        written = {
            name: ", ".join(f"{key}={given}" for key, given in sorted((inner or {}).items()))
            for name, inner in value.items()
        }
        return " ".join(f"{name}({arguments})" for name, arguments in written.items())
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
