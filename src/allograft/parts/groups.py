"""The groups that an attribute parts the source's cases into, for methods that unlearn it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.manifest import is_missing
from allograft.errors import SpecError, nearest

KEY = "recipes: unlearning.attributes"
MOST_VALUES = 50
FEW_VALUES = 6
"""An attribute with more values than ``MOST_VALUES``, or with more than ``FEW_VALUES`` (those of
skin) and one of its own for nearly every case, is a measurement, not a group."""


@dataclass(frozen=True)
class Group:
    """An attribute's values in the source: their codes as batches hold them, and how many cases
    have each."""

    attribute: str
    codes: tuple[float, ...]
    counts: tuple[int, ...]

    def target(self, batch: Batch) -> Tensor:
        """(B,) int64: index into ``codes``; -100 where the value is missing, or is no value of the
        source."""
        values = batch.site if self.attribute == "site" else batch.attributes[self.attribute]
        same = values[:, None] == torch.tensor(self.codes, dtype=values.dtype, device=values.device)
        return torch.where(same.any(1), same.int().argmax(1), -100)


def groups_of(cohorts: Sequence[Cohort], attribute: str) -> Group:
    """The values of an attribute among cases, missing ones left out.

    Raises:
        SpecError: an unknown attribute, one with a single value, or a measurement: more than 50
            values, or more than 6 and than half as many as cases.
    """
    counts: dict[float, int] = {}
    for cohort in cohorts:
        coding = cohort.prepared.coding
        if attribute != "site" and attribute not in coding.attributes:
            raise SpecError(f"{KEY}: {nearest(attribute, ['site', *coding.attributes], 'attribute')}")
        for case in cohort.cases:
            text = case.site if attribute == "site" else case.attributes.get(attribute)
            if text is not None and (attribute == "site" or not is_missing(text)):
                code = cohort.sites.index(text) if attribute == "site" else coding.attribute(attribute, text)
                counts[code] = counts.get(code, 0) + 1
    measured = (
        attribute != "site" and len(counts) > FEW_VALUES and 2 * len(counts) > sum(counts.values())
    )  # nearly as many values as cases
    found = (
        f"'{attribute}' has {len(counts)} value(s) among {sum(counts.values())} training case(s) of the source that "
        "have one"
    )
    if measured or not 2 <= len(counts) <= MOST_VALUES:
        group = "a measurement is no group: write ranges, light or dark say, into a column"
        mend = group if len(counts) > 1 else "name an attribute that differs, or for 'site' several source sites"
        mend = mend if counts else f"it is unknown or empty in all of them: fill in the column '{attribute}'"
        raise SpecError(f"{KEY}: {found}, expected 2 to {MOST_VALUES}, each of several cases; {mend}")
    return Group(attribute, tuple(sorted(counts)), tuple(counts[code] for code in sorted(counts)))
