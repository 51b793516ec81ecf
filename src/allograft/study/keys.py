"""The keys of a study that have keys of their own, as frozen dataclasses: strict, closed, and kind
about slips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from allograft.cohort import Slices
from allograft.errors import SpecError

Alternative = Literal["two-sided", "greater", "less"]
Adjustment = Literal["holm", "bonferroni", "none"]


@dataclass(frozen=True)
class TargetLabels:
    """How many target labels a recipe may use, validation included. One of the four; a list of
    rising numbers is a part of the study for each.

    Args:
        subjects: labelled patients per target site.
        cases: labelled images.
        slices: labelled slices of volumes.
        fraction: share of the training subjects, up to 1.
    """

    subjects: int | tuple[int, ...] | None = None
    cases: int | tuple[int, ...] | None = None
    slices: int | tuple[int, ...] | None = None
    fraction: float | tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("subjects", "cases", "slices", "fraction") if getattr(self, name) is not None]
        if len(given) != 1 or not self.amounts or min(self.amounts) <= 0:
            raise SpecError(
                "target_labels: expected none, all, or one of subjects, cases, slices, fraction with a positive number"
            )
        if list(self.amounts) != sorted(set(self.amounts)):
            raise SpecError(
                f"target_labels.{given[0]}: found {list(self.amounts)}; expected a number, or several that rise"
            )

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
    """One of several cohorts of a study: its table, what its labels are called in it, and how its
    images are prepared.

    Args:
        manifest: its manifest, as in ``cohort``.
        classes: class of the task -> the values of this cohort's masks, or its words for the label;
            by default those of the task.
        slices: how its volumes are cut, for a 2-D network.
        preprocessing: keys that differ from those of the study.
    """

    manifest: str
    classes: dict[str, tuple[int | str, ...]] | None = None
    slices: Slices | None = None
    preprocessing: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Gradual:
    """A stream whose mix of sites moves in equal steps from the first of ``sites`` to the last; no
    subject comes twice.

    Each stage is a site of its own, ``SITE to SITE, K of N``, with test subjects of its own mix.

    Args:
        sites: from the first to the last.
        stages: how many.
    """

    sites: tuple[str, ...]
    stages: int

    def __post_init__(self) -> None:
        if len(self.sites) < 2 or self.stages < 2:
            raise SpecError(
                f"stream.gradual: found {len(self.sites)} sites and {self.stages} stages; expected at least two of each"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names.

        >>> Gradual(("a", "b"), 2).names
        ('a to b, 1 of 2', 'a to b, 2 of 2')
        """
        return tuple(
            f"{self.sites[0]} to {self.sites[-1]}, {stage} of {self.stages}" for stage in range(1, self.stages + 1)
        )


@dataclass(frozen=True)
class GradualStream:
    """``{gradual: {sites: [a, b], stages: 5}}``.

    Args:
        gradual: the sites, and in how many stages the mix moves from the first to the last.
    """

    gradual: Gradual


@dataclass(frozen=True)
class Transformed:
    """A stream of one population whose images are transformed more with each stage, the first not
    at all and the last fully (Gonzalez et al. 2022, section 3); no subject comes twice.

    Each stage is a site of its own, ``SITE transformed, K of N``, with test subjects of its own,
    transformed alike. How far a case is turned, moved and scaled is drawn by its name.

    Args:
        sites: whose subjects are divided among the stages.
        stages: how many.
        intensity: the range into which intensities are squeezed at the last stage, after the
            normalisation, which would undo it.
        scale: the smallest and the largest factor along an axis.
        degrees, mm: the largest turn about, and movement along, an axis.
    """

    sites: tuple[str, ...]
    stages: int = 5
    intensity: tuple[float, float] = (0.1, 0.9)
    scale: tuple[float, float] = (0.8, 1.2)
    degrees: float = 15.0
    mm: float = 5.0

    def __post_init__(self) -> None:
        if not self.sites or self.stages < 2:
            raise SpecError(
                f"stream.transformed: found {len(self.sites)} sites and {self.stages} stages; expected at least one "
                "site and two stages"
            )
        low, high = self.intensity
        if not (0 <= low < high <= 1 and 0 < self.scale[0] <= 1 <= self.scale[1] and min(self.degrees, self.mm) >= 0):
            raise SpecError(
                f"stream.transformed: found intensity {list(self.intensity)}, scale {list(self.scale)}, degrees "
                f"{self.degrees}, mm {self.mm}; expected shares from 0 to 1, factors about 1, and the rest from 0"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """The stages' names.

        >>> Transformed(("a", "b"), 2).names
        ('a + b transformed, 1 of 2', 'a + b transformed, 2 of 2')
        """
        named = " + ".join(self.sites)
        return tuple(f"{named} transformed, {stage} of {self.stages}" for stage in range(1, self.stages + 1))


@dataclass(frozen=True)
class TransformedStream:
    """``{transformed: {sites: [a], stages: 5}}``.

    Args:
        transformed: the sites, and how far their images are transformed at the last stage.
    """

    transformed: Transformed


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
        fraction: share of the subjects of each site that are tested.
        source_fraction: the same at sites that are source alone; null is ``fraction``. With 0 every
            source subject trains or validates, and nothing tells what a row forgets at home.
        val: share of the remaining subjects of a source site that are kept for validation.
        folds: rotate the target's subjects through the test set, in so many folds. At a site that
            is a source too, all others train and none is kept for validation; as many folds as
            subjects leave one out at a time.
    """

    __test__ = False  # not for pytest

    fraction: float = 0.3
    source_fraction: float | None = None
    val: float = 0.2
    folds: int = 1

    def __post_init__(self) -> None:
        at_source = self.fraction if self.source_fraction is None else self.source_fraction
        if not (0 <= self.fraction < 1 and 0 <= at_source < 1 and 0 <= self.val < 1 and self.folds >= 1):
            found = f"fraction {self.fraction}, source_fraction {at_source}, val {self.val}, folds {self.folds}"
            raise SpecError(f"test: found {found}; expected shares from 0 to below 1, and at least 1 fold")


@dataclass(frozen=True)
class Statistics:
    """How rows are compared with no adaptation, or with the ``reference``.

    Args:
        alternative: ``greater`` tests only whether a row is better, as some papers do; ``less``
            whether it is worse, in the tables alone.
        adjustment: correction of the p values in the tables for the number of rows; the verdict
            always uses Holm.
        margin: the gain that would matter, in units of the main metric. The report says how many
            subjects would show it.
        tolerance: how much a row may lose at the target, or forget at the source, before it is
            marked.
    """

    alternative: Alternative = "two-sided"
    adjustment: Adjustment = "holm"
    margin: float = 0.02
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if not (math.isfinite(self.margin) and self.margin > 0):
            raise SpecError(
                f"statistics.margin: found {self.margin}, expected the gain that would matter, above 0, for example "
                "0.02"
            )
        if not (math.isfinite(self.tolerance) and self.tolerance >= 0):
            raise SpecError(
                f"statistics.tolerance: found {self.tolerance}, expected a loss that may be borne, 0 or more, for "
                "example 0.02"
            )
