"""Precision and recall of the boxes that a method corrected and of those that it was given, against
boxes of further readers, which it cannot see."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from allograft import tree
from allograft.batch import Boxes
from allograft.context import Store
from allograft.figure import Lines, Relabelled
from allograft.metrics.detection import pairs
from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.csv_files import word, write_rows
from allograft.results.select import Line
from allograft.results.statistics import Cases, Interval, bootstrap_pooled
from allograft.study.parts import shared_folder
from allograft.study.world import World

FILE = "correction.csv"
KEPT = "kept_epochs"
"""A fact of stages that correct boxes: epochs in which nothing was detected in any image, so that
the boxes stayed as they were."""
CAME, CORRECTED = "that came", "corrected"
"""The boxes of the manifest that a method was given, and those with which its training ended."""
RATES = ("precision", "recall")
COLUMNS = (
    *("recipe", "target", "reader", "boxes", "runs", "subjects", "images", "count", "reader_count", "paired"),
    *(f"{rate}{end}" for rate in RATES for end in ("", "_sd_over_runs", "_low", "_high")),
)
NOTES = (
    "Mean ± sd over seeds; in brackets 95 % over subjects, if all seeds have the same. Measured on the training images "
    "that a reader has seen. Precision is the share of the boxes that match a box of that reader; recall is the share "
    "of the reader's boxes that are matched. A match is one to one, has the same class, and overlaps by 0.5 or more. "
    "No method sees the boxes of these readers. Seeds whose correction never began are left out.",
)
WITHOUT = (
    "Precision and recall of the correction need true boxes of training images: list them as the boxes of a further "
    "reader, in a column such as boxes_reader2. No method sees them.",
)


@dataclass(frozen=True)
class Agreement:
    """How boxes of training images agree with those of a reader.

    Args:
        runs: of each run its images: ``boxes``, ``true`` and ``pairs`` are counts.
    """

    runs: tuple[Cases, ...]

    def values(self, rate: str) -> list[float]:
        """``precision`` or ``recall`` of each run in which it is defined."""
        every = (rates(cases)[rate] for cases in self.runs)
        return [value for value in every if value is not None]

    def intervals(self) -> dict[str, Interval]:
        """Rate -> 95 % interval over subjects, by bootstrap; {} where runs differ in their
        subjects, as with a label budget."""
        subjects = {frozenset(case["subject"] for case in cases) for cases in self.runs}
        return bootstrap_pooled(self.runs, None, rates) if len(subjects) == 1 else {}

    def mean(self, key: str) -> float:
        """The mean over the runs of a count over all images."""
        return fmean(sum(int(case[key]) for case in cases) for cases in self.runs)

    def distinct(self, key: str) -> int:
        """How many subjects or cases there are in all runs together."""
        return len({case[key] for cases in self.runs for case in cases})


@dataclass(frozen=True)
class Correction:
    """What a row made of the boxes of its target.

    Args:
        counts: ``CAME`` or ``CORRECTED`` -> how many boxes there are in each run.
        agreements: reader -> ``CAME`` or ``CORRECTED`` -> the agreement; {} where nobody else drew
            boxes of these images.
        by_epoch: precision and recall along the run that stands for the row.
        kept_epochs: of each run, how many epochs detected nothing in any image and kept the boxes.
    """

    title: str
    target: str
    counts: Mapping[str, Sequence[int]]
    agreements: Mapping[str, Mapping[str, Agreement]]
    by_epoch: Lines | None
    kept_epochs: Sequence[int] = ()


@dataclass(frozen=True)
class _Image:
    """A training image's boxes on the study's grid: those of the manifest, and of each further
    reader."""

    subject: str
    came: Boxes
    further: Mapping[str, Boxes]


def rates(cases: Cases) -> dict[str, float | None]:
    """Precision and recall of all images together; None where there is no box to be right, or none
    to be matched.

    >>> rates([{"boxes": 4, "true": 8, "pairs": 3}, {"boxes": 0, "true": 2, "pairs": 0}])
    {'precision': 0.75, 'recall': 0.3}
    """
    boxes, true, paired = (sum(int(case[key]) for case in cases) for key in ("boxes", "true", "pairs"))
    return {"precision": paired / boxes if boxes else None, "recall": paired / true if true else None}


def corrections(out: Path, world: World, lines: Sequence[Line]) -> list[Correction]:
    """What each row whose method corrects boxes made of them, in the order of the table."""
    units = shared_folder(out) / "units"
    made: list[tuple[Line, dict[str, Relabelled]]] = []
    for line in lines:
        stores = {run.row.unit: Store(units / run.row.unit) for run in line.runs if not run.error}
        kept = {unit: shown for unit, store in stores.items() if (shown := store.relabelled()) is not None}
        made += [(line, kept)] if kept else []
    images = _images(world, {name for _, kept in made for shown in kept.values() for name in shown.cases})
    return [_correction(line, kept, images) for line, kept in made]


def _images(world: World, names: Collection[str]) -> dict[str, _Image]:
    return {
        case.name: _Image(
            case.subject,
            cohort.prepared.boxes(case),
            {reader: cohort.prepared.boxes(case, column) for reader, column in case.further_readers.items()},
        )
        for cohort in world.cohorts
        for case in cohort.cases
        if case.name in names
    }


def _correction(line: Line, kept: Mapping[str, Relabelled], images: Mapping[str, _Image]) -> Correction:
    runs = list(kept.values())
    readers = dict.fromkeys(reader for shown in runs for name in shown.cases for reader in images[name].further)
    agreements = {
        reader: {
            CAME: Agreement(tuple(_cases(shown, images, reader) for shown in runs)),
            CORRECTED: Agreement(tuple(_cases(shown, images, reader, len(shown.epochs) - 1) for shown in runs)),
        }
        for reader in readers
    }
    counts = {
        CAME: [sum(len(images[name].came) for name in shown.cases) for shown in runs],
        CORRECTED: [sum(map(len, shown.label[-1])) for shown in runs],
    }
    shown = kept.get(line.best_run.row.unit) if line.best_run is not None else None
    by_epoch = None if shown is None or not readers else _by_epoch(line.title, shown, images, list(readers))
    records = (run.tests.get(line.target, ()) for run in line.runs)
    kept_epochs = [max(int(record.facts.get(KEPT, 0)) for record in tests) for tests in records if tests]
    return Correction(line.title, line.target, counts, agreements, by_epoch, kept_epochs)


def _cases(shown: Relabelled, images: Mapping[str, _Image], reader: str, at: int | None = None) -> list[dict[str, Any]]:
    """The images that a reader has seen, with the boxes that came, or those of the epoch ``at`` in
    the order of ``shown.epochs``."""
    cases = []
    for number, name in enumerate(shown.cases):
        image = images[name]
        if (true := image.further.get(reader)) is not None:
            boxes = image.came if at is None else _boxes(shown, at, number)
            paired = pairs(boxes.xyxy, boxes.label, true.xyxy, true.label)
            counts = {"boxes": len(boxes), "true": len(true), "pairs": paired}
            cases.append({"case": name, "subject": image.subject, **counts})
    return cases


def _boxes(shown: Relabelled, at: int, number: int) -> Boxes:
    xyxy = torch.tensor(shown.xyxy[at][number], dtype=torch.float32).reshape(-1, 4)
    return Boxes(xyxy, torch.tensor(shown.label[at][number], dtype=torch.int64))


def _by_epoch(title: str, shown: Relabelled, images: Mapping[str, _Image], readers: Sequence[str]) -> Lines:
    """Precision and recall by epoch; first those of the boxes that came, which the epochs before
    the correction trained on."""
    y: dict[str, tuple[float | None, ...]] = {}
    for reader in readers:
        every = [rates(_cases(shown, images, reader, at)) for at in (None, *range(len(shown.epochs)))]
        y |= {f"{rate}, {reader}": tuple(each[rate] for each in every) for rate in RATES}
    x = (float(shown.epochs[0]), *(float(epoch + 1) for epoch in shown.epochs))
    return Lines(f"{title}: the boxes trained on, against each reader", x, y, "epoch", "share")


def correction_sheet(made: Sequence[Correction]) -> Sheet | None:
    """How many boxes came and were corrected, with precision and recall against each further
    reader; None where no row corrects boxes."""
    if not made:
        return None
    readers = list(dict.fromkeys(reader for each in made for reader in each.agreements))
    columns = ("recipe", "boxes", "number", *(f"{rate}, {reader}" for reader in readers for rate in RATES))
    rows = tuple(
        (each.title, boxes, f"{fmean(each.counts[boxes]):.1f}".removesuffix(".0"), *_shares(each, boxes, readers))
        for each in made
        for boxes in (CAME, CORRECTED)
    )
    notes = (*(NOTES if readers else WITHOUT), *_stayed(made))
    return Sheet("Boxes of the target's training images", columns, rows, notes)


def _stayed(made: Sequence[Correction]) -> Iterator[str]:
    """A note on each row that kept its boxes in some epoch."""
    for each in made:
        if epochs := [count for count in each.kept_epochs if count]:
            yield (
                f"{each.title}: in {len(epochs)} of {len(each.kept_epochs)} runs nothing was detected in any image in "
                f"some epochs ({max(epochs)} at most); the boxes stayed as they were before."
            )


def _shares(correction: Correction, boxes: str, readers: Sequence[str]) -> Iterator[str]:
    for reader in readers:
        agreement = correction.agreements.get(reader, {}).get(boxes)
        limits = {} if agreement is None else agreement.intervals()
        for rate in RATES:
            text = "" if agreement is None else spread(agreement.values(rate)) or "undefined"
            yield text + (f" ({limits[rate][0]:.3f} to {limits[rate][1]:.3f})" if rate in limits else "")


def write_corrections(out: Path, made: Sequence[Correction]) -> None:
    """Write ``OUT/correction.csv``: one row per line of the table, further reader, and boxes that
    came or were corrected. ``count``, ``reader_count`` and ``paired`` are means over the runs;
    ``low`` and ``high`` are 95 % intervals over subjects, by bootstrap. Where nobody else drew
    boxes of training images there is no such file.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = [
        _row(correction, reader, boxes, agreement)
        for correction in made
        for reader, both in correction.agreements.items()
        for boxes, agreement in both.items()
    ]
    if rows:
        write_rows(out / FILE, COLUMNS, rows)
    else:
        tree.remove(out / FILE)


def _row(correction: Correction, reader: str, boxes: str, agreement: Agreement) -> dict[str, Any]:
    row: dict[str, Any] = {"recipe": word(correction.title), "target": word(correction.target)}
    row |= {"reader": reader, "boxes": boxes, "runs": len(agreement.runs)}
    row |= {"subjects": agreement.distinct("subject"), "images": agreement.distinct("case")}
    row |= {"count": agreement.mean("boxes"), "reader_count": agreement.mean("true"), "paired": agreement.mean("pairs")}
    limits = agreement.intervals()
    for rate in RATES:
        values, (low, high) = agreement.values(rate), limits.get(rate, ("", ""))
        row |= {rate: fmean(values) if values else "", f"{rate}_low": low, f"{rate}_high": high}
        row |= {f"{rate}_sd_over_runs": stdev(values) if len(values) > 1 else ""}
    return row
