"""A cohort: a table of cases with one label set. Its views (a site, a split, few labels, no labels)
are cohorts too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.cohort.coding import Coding, categories, coding_of
from allograft.cohort.manifest import Case, read_manifest
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.slices import Slices
from allograft.cohort.whole import Whole
from allograft.errors import SpecError
from allograft.seeds import Seeds
from allograft.tree import content_hash

MOST_SITES = 5
"""Sites that a cohort's ``repr`` names."""


@dataclass(frozen=True)
class Cohort:
    """Cases, the sites their indices refer to, and their prepared arrays.

    A view made by ``unlabelled()`` holds no labels and no path to one: what a method may not see is
    absent.

    Args:
        cases: the rows.
        sites: names; ``Batch.site`` is an index into them, -1 for a site that is not among them.
        prepared: prepares and keeps arrays.
        slices: volumes as slices, or None.
        chosen: (case name, slice) pairs to keep, for a budget counted in slices.
        given: case name -> boxes on the study's grid, in the place of those of the manifest.
    """

    cases: tuple[Case, ...]
    sites: tuple[str, ...]
    prepared: PreparedImages
    slices: Slices | None = None
    chosen: frozenset[tuple[str, int]] | None = None
    given: Mapping[str, Boxes] = field(default_factory=dict)

    @staticmethod
    def read(
        manifest: Path | str,
        coding: Coding | None = None,
        *,
        classes: Sequence[str] | Mapping[str, Sequence[int]] | None = None,
        preprocessing: Preprocessing | None = None,
        cache: Path | None = None,
        slices: Slices | None = None,
        root: Path | None = None,
    ) -> Cohort:
        """Read a manifest; see ``read_manifest`` for what is refused.

        Args:
            coding: what mask values and labels mean; by default masks hold one class named
                "foreground".
            classes: the same in short, as in the task of a study: names of the mask values 1, 2,
                ..., or name -> mask values; of a manifest without masks, the names of its labels.
            cache: a folder for prepared arrays; in memory when None.
        """
        cases = read_manifest(manifest, root)
        coding = coding or coding_of(classes, cases)
        coding = replace(coding, attributes=categories(cases))
        sites = tuple(sorted({case.site for case in cases}))
        return Cohort(cases, sites, PreparedImages(preprocessing or Preprocessing(), coding, cache), slices)

    # ------------------------------------------------------------------ views
    def where(self, keep: Callable[[Case], bool]) -> Cohort:
        """The cases for which ``keep`` says yes."""
        return replace(self, cases=tuple(case for case in self.cases if keep(case)))

    def site(self, name: str) -> Cohort:
        """One site's cases."""
        return self.where(lambda case: case.site == name)

    def of(self, subjects: Iterable[str]) -> Cohort:
        """The cases of these subjects."""
        wanted = set(subjects)
        return self.where(lambda case: case.subject in wanted)

    def labelled(self, key: str) -> Cohort:
        """The cases that have this label."""
        return self.where(lambda case: key in case.labels)

    def unlabelled(self) -> Cohort:
        """The same cases with every label absent."""
        return replace(self, cases=tuple(case.unlabelled() for case in self.cases), given={})

    def one_reader(self) -> Cohort:
        """The same cases without the boxes of further readers, which a method may not see."""
        return replace(self, cases=tuple(case.one_reader() for case in self.cases))

    def relabelled(self, boxes: Mapping[str, Boxes]) -> Cohort:
        """The cases named here with other boxes, on the study's grid: pseudo-labels, say. Part of
        the fingerprint.

        Raises:
            SpecError: a name that is no case of this cohort.
        """
        if unknown := sorted(boxes.keys() - {case.name for case in self.cases}):
            raise SpecError(f"boxes are given for '{unknown[0]}', which is no case of the cohort")
        return replace(self, given={**self.given, **boxes})

    def few(self, count: int, seeds: Seeds) -> Cohort:
        """``count`` items (slices, or cases without slicing); smaller counts are nested in larger
        ones."""
        order = [self.items[i] for i in torch.randperm(len(self.items), generator=seeds.rng("few")).tolist()]
        kept = order[:count]
        held = {case_index for case_index, _ in kept}
        return replace(
            self,
            cases=tuple(case for case_index, case in enumerate(self.cases) if case_index in held),
            chosen=frozenset((self.cases[case_index].name, slice_index) for case_index, slice_index in kept)
            if self.slices
            else None,
        )

    @property
    def subjects(self) -> tuple[str, ...]:
        """Every subject once, sorted."""
        return tuple(sorted({case.subject for case in self.cases}))

    @property
    def has_labels(self) -> bool:
        """Whether every case shows a label. Views are made so that it is all or none."""
        return bool(self.cases) and all(case.labels for case in self.cases)

    # ------------------------------------------------------------------ items
    @cached_property
    def items(self) -> tuple[tuple[int, int], ...]:
        """(case, slice) of each item; slice is 0 for whole images."""
        if self.slices is None:
            return tuple((case_index, 0) for case_index in range(len(self.cases)))
        every = []
        for case_index, case in enumerate(self.cases):
            depth = self._depth(case)
            every += [
                (case_index, slice_index)
                for slice_index in range(depth)
                if self.chosen is None or (case.name, slice_index) in self.chosen
            ]
        return tuple(every)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Batch]:
        """Every item as a Batch with B = 1, one after another."""
        return map(self.case, range(len(self)))

    def __repr__(self) -> str:
        kinds = sorted({key for case in self.cases for key in case.labels}) or ["no labels"]
        sites = sorted({case.site for case in self.cases})
        listed = ", ".join(sites[:MOST_SITES]) + (f", and {len(sites) - MOST_SITES} more" * (len(sites) > MOST_SITES))
        return f"Cohort({len(self.cases)} cases of {len(self.subjects)} subjects at {listed}; {', '.join(kinds)})"

    def case(self, index: int, *, narrow: bool = False) -> Batch:
        """One item as a Batch with B = 1, on the study's grid.

        Args:
            narrow: leave the mask in the int16 that it is kept in, for a crop that comes first.
        """
        case_index, slice_index = self.items[index]
        return self._batch(self.cases[case_index], (slice_index,), narrow=narrow)

    def wholes(self) -> Iterator[Whole]:
        """Every complete case, one after another."""
        return map(self.whole, range(len(self.cases)))

    def whole(self, number: int) -> Whole:
        """One complete case: its images (B = 1, or B = depth with ``slices``) and, where it shows
        labels, the truth."""
        case = self.cases[number]
        hidden = case.unlabelled()

        def batch(*, uncut: bool) -> Batch:
            places = tuple(range(self._depth(case, uncut=uncut)))
            made = self._batch(hidden, places, uncut=uncut)
            return replace(made, extent=self._extent(case, places, uncut=uncut))

        axis = None if self.slices is None else self.slices.axis
        return Whole(case, batch(uncut=False), self.prepared, partial(batch, uncut=True), axis)

    def _extent(self, case: Case, places: tuple[int, ...], *, uncut: bool) -> Tensor | None:
        """(B, D) of the true pixels within the grid; None where all are."""
        geometry_ = self.prepared.image(case, uncut=uncut)[1]
        true = [min(lengths) for lengths in zip(geometry_.resampled, geometry_.size, strict=True)]
        if tuple(true) == geometry_.size:
            return None
        if self.slices is None:
            return torch.tensor([true])
        before, depth = max(0, -geometry_.start[self.slices.axis]), true.pop(self.slices.axis)
        return torch.tensor([true if before <= at < before + depth else [0] * len(true) for at in places])

    def _depth(self, case: Case, *, uncut: bool = False) -> int:
        if self.slices is None:
            return 1
        return self.slices.depth(self.prepared.image(case, uncut=uncut)[0].shape[1:], case.name)

    def fingerprint(self) -> list[Any]:
        """JSON values that change when anything a recipe could see through this view changes."""
        coding = self.prepared.coding
        return [
            [self.prepared.fingerprint(case) for case in self.cases],
            list(self.sites),
            [
                list(coding.mask.items()),
                list(coding.label),
                coding.several,
                *([coding.paired, coding.paired_range] if coding.paired else []),
                *([later] if (later := coding.later) else []),
            ],
            sorted(
                {
                    (key, v, values.index(v))
                    for key, values in coding.attributes.items()
                    for v in values
                    if v in self._values(key)
                }
            ),
            None if self.slices is None else [self.slices.axis, self.slices.neighbours],
            None if self.chosen is None else sorted(map(list, self.chosen)),
            *([given] if (given := self._given_hashes()) else []),
        ]

    def _given_hashes(self) -> list[list[str]]:
        names = sorted(case.name for case in self.cases if case.name in self.given)
        return [[name, content_hash(self.given[name].xyxy.tolist(), self.given[name].label.tolist())] for name in names]

    def _values(self, key: str) -> set[str]:
        """What an attribute is at these cases: a value that only others have changes no
        fingerprint."""
        return {case.attributes[key] for case in self.cases if key in case.attributes}

    # ------------------------------------------------------------------ arrays
    def _batch(self, case: Case, places: tuple[int, ...], *, narrow: bool = False, uncut: bool = False) -> Batch:
        image, geometry = self.prepared.image(case, uncut=uncut)
        coding, size = self.prepared.coding, len(places)
        labels: dict[str, Any] = {}
        if "mask" in case.labels and coding.mask:
            mask = self._cut(self.prepared.mask(case, np.int16), places)
            labels["mask"] = mask if narrow else mask.long()
        if "label" in case.labels and coding.label:
            value = coding.label_to_index(str(case.labels["label"]), case.name)
            labels["label"] = torch.tensor([value] * size)
        if "paired" in case.labels and coding.paired:
            labels["paired"] = self._cut(self.prepared.paired(case), places)
        if case.name in self.given:
            labels["boxes"] = (self.given[case.name],)
        elif "boxes" in case.labels and coding.boxes:
            labels["boxes"] = (self.prepared.boxes(case),)
        region = self.prepared.region(case, uncut=uncut)
        attributes = {key: coding.attribute(key, case.attributes.get(key)) for key in coding.attributes}
        spacing = geometry.spacing if self.slices is None else self.slices.plane(geometry.spacing)
        return Batch(
            image=self._cut(image, places, self.slices.neighbours if self.slices else 0),
            site=torch.full((size,), self.sites.index(case.site) if case.site in self.sites else -1),
            cases=tuple(f"{case.name}#{slice_index}" for slice_index in places) if self.slices else (case.name,),
            labels=labels,
            attributes={key: torch.tensor([value] * size) for key, value in attributes.items()},
            region=None if region is None else self._cut(region, places),
            spacing=torch.tensor([spacing] * size, dtype=torch.float32),
            subjects=(case.subject,) * size,
        )

    def _cut(self, array: np.ndarray, places: tuple[int, ...], neighbours: int = 0) -> Tensor:
        """(C, *size) -> (B, C, *spatial): the array itself, or slices of it."""
        if self.slices is None:
            return torch.from_numpy(np.asarray(array))[None]
        return self.slices.cut(array, places, neighbours)
