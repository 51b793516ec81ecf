"""What a look over a cohort states: findings, and the facts of each site."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from allograft.cohort.survey import Look

Severity = Literal["stop", "warning", "note"]


@dataclass(frozen=True)
class Named:
    """A case in a finding: its row in the manifest, its name, its subject as an ordinal, and what
    was found there."""

    row: int
    name: str
    subject: str
    detail: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that stops a study, spoils it, or is worth knowing; ``text`` names no case,
    ``cases`` are examples."""

    severity: Severity
    topic: str
    text: str
    cases: tuple[Named, ...] = ()


@dataclass(frozen=True)
class Site:
    """The facts of one site; mappings are value -> number of cases, most frequent first, ``boxes``
    -> number of boxes.

    ``scale`` is the median over images of the 99th percentile of absolute intensities,
    ``scale_after`` the median after the preprocessing; ``smallest_p`` that of an exact Wilcoxon
    test on the labelled test subjects of the default test fraction, 1.0 where none is labelled.
    """

    name: str
    cases: int
    subjects: int
    test_subjects: int
    smallest_p: float
    sizes: Mapping[str, int] = field(default_factory=dict)
    prepared: Mapping[str, int] = field(default_factory=dict)
    channels: Mapping[str, int] = field(default_factory=dict)
    depths: Mapping[str, int] = field(default_factory=dict)
    orientations: Mapping[str, int] = field(default_factory=dict)
    spacings: Mapping[str, int] = field(default_factory=dict)
    codes: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    boxes: Mapping[str, int] = field(default_factory=dict)
    labelled: Mapping[str, int] = field(default_factory=dict)
    scale: float = 0.0
    scale_after: float = 0.0

    @property
    def classes(self) -> tuple[set[tuple[str, str]], ...]:
        """(column, class) pairs that live here; a mask of 0 and 255 holds class 1."""
        codes = {"1"} if set(self.codes) <= {"0", "255"} and "255" in self.codes else set(self.codes) - {"0"}
        columns = {"mask": codes, "label": set(self.labels), "boxes": set(self.boxes)}
        return tuple({(column, name) for name in names} for column, names in columns.items())


Name = Callable[[Look, str], Named]


def counted(number: int, word: str) -> str:
    """A number and its noun.

    >>> counted(1, "case"), counted(2, "case")
    ('1 case', '2 cases')
    """
    return f"{number} {word}{'' if number == 1 else 's'}"
