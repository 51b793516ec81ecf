"""A table of words, as a page shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev


@dataclass(frozen=True)
class Sheet:
    """A table of words and numbers as text; what it means stands in the notes.

    Args:
        title: a sentence fragment.
        columns: headings.
        rows: as wide as ``columns``; the first cell is the row's name.
        notes: sentences to stand below.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def number(value: float | None, form: str = ".3f") -> str:
    """``0.512``, or ``undefined``.

    >>> number(0.5), number(None), number(-0.25, "+.3f")
    ('0.500', 'undefined', '-0.250')
    """
    return "undefined" if value is None else format(value, form)


def spread(values: Sequence[float]) -> str:
    """``0.512 ± 0.020``: mean and standard deviation (n - 1); no deviation of a single value, ""
    for none.

    >>> spread([0.5, 0.7]), spread([0.5]), spread([])
    ('0.600 ± 0.141', '0.500', '')
    """
    if not values:
        return ""
    return f"{fmean(values):.3f}" + (f" ± {stdev(values):.3f}" if len(values) > 1 else "")
