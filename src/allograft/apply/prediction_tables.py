"""The ``results.csv`` that ``predict`` leaves, read back: class probabilities, or a row for each
mask beside it."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allograft.apply.judged import AS_STORED, Judged, judged_masks, matching
from allograft.apply.predictions import output_name
from allograft.cohort import Case, Coding, Cohort, Whole
from allograft.errors import ModelError
from allograft.tasks.classification import COLUMNS, Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.segmentation import Segmentation
from allograft.tasks.task import Answer, Value

SILENT = ("failed:", "abstained:")
"""How the warnings of a row begin that has no answer."""
Row = Mapping[str, str]
Absent = Callable[[Case], str]


@dataclass(frozen=True)
class PredictionTable:
    """A ``results.csv``.

    Args:
        path: of the file; masks are beside it.
        columns: of its header.
        rows: an image's name without ending -> its row.
    """

    path: Path
    columns: tuple[str, ...]
    rows: Mapping[str, Row]

    @property
    def classes(self) -> tuple[str, ...]:
        """The columns that are classes."""
        return tuple(name for name in self.columns if name not in COLUMNS)

    @property
    def task(self) -> Any:
        """What was predicted, as far as the columns say: masks have a unit, classes a label.

        Raises:
            ModelError: boxes, images, or two tasks at once, which a table does not hold in full.
        """
        has_masks, has_labels = "unit" in self.columns, "label" in self.columns
        if has_masks == has_labels or not self.classes:
            held = "masks and classes at once" if has_masks and has_labels else "neither masks nor class probabilities"
            raise ModelError(
                f"{self.path}: found the columns {', '.join(self.columns)}: {held}; expected the results.csv of a "
                "segmentation or classification; give the model's folder in its place"
            )
        if has_masks:
            return Segmentation(self.classes)
        answered = [row for row in self.rows.values() if not _silence(row)]
        several = any("|" in row["label"] or abs(sum(self.probabilities(row)) - 1) > 1e-3 for row in answered)
        return Multilabel(self.classes) if several or len(self.classes) < 2 else Classification(self.classes)

    def probabilities(self, row: Row) -> list[float]:
        """Of each class, in the order of the columns.

        Raises:
            ModelError: a cell that is no probability.
        """
        probabilities_ = []
        for name in self.classes:
            try:
                probabilities_.append(float(row[name]))
            except ValueError:
                probabilities_.append(math.nan)
            if not 0 <= probabilities_[-1] <= 1:
                raise ModelError(
                    f"{self.path}: image '{row['image']}', column '{name}': found '{row[name]}', expected a "
                    "probability from 0 to 1; predict the images again"
                )
        return probabilities_


def read_predictions(path: Path) -> PredictionTable:
    """Read a ``results.csv`` of ``predict``.

    Raises:
        ModelError: not such a file, or one that names an image twice.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file, strict=True)
            rows, columns = list(reader), tuple(reader.fieldnames or ())
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; expected the results.csv of predict") from None
    except (OSError, ValueError, csv.Error) as error:
        raise ModelError(f"{path}: cannot be read as CSV ({error}); expected the results.csv of predict") from error
    if "image" not in columns or "warnings" not in columns or any(None in row or None in row.values() for row in rows):
        raise ModelError(
            f"{path}: found the columns {', '.join(columns) or 'none'}; expected the results.csv of predict, with "
            "image, the classes and warnings, every row as long as the header"
        )
    named: dict[str, Row] = {}
    for row in rows:
        name = output_name(row["image"])
        if name in named:
            raise ModelError(f"{path}: image '{row['image']}' has two rows; remove one")
        named[name] = row
    return PredictionTable(path, columns, {name: row for name, row in named.items() if name})


def judged_table(table: PredictionTable, manifest: Path, task: Any) -> Judged:
    """What a table says of the cases of a manifest; masks are read from beside it.

    Args:
        task: of the same classes as the table.

    Raises:
        ModelError: when a case is asked for whose row cannot be told.
    """
    if isinstance(task, Segmentation):
        # predict writes class numbers, whatever values the truth has
        stored = Coding(mask={name: (number,) for number, name in enumerate(task.names, 1)})
        masks = judged_masks(table.path.parent, manifest, task, stored)
        return Judged(task, masks.cohort, _both(_absent(table, masks.labelled), masks), masks.measure, masks.find)
    cohort = Cohort.read(manifest, task.coding, preprocessing=AS_STORED)
    row_of = matching(table.rows, table.path, cohort.labelled(task.key).cases)

    def measure(whole: Whole) -> tuple[Mapping[str, Value], Sequence[str]]:
        row = row_of(whole.case)
        assert row is not None
        return {"label": task.truth(whole), "probabilities": table.probabilities(row)}, ()

    return Judged(task, cohort, _absent(table, cohort.labelled(task.key)), measure, lambda whole: Answer({}))


def _absent(table: PredictionTable, cohort: Cohort) -> Absent:
    row_of = matching(table.rows, table.path, cohort.cases)

    def absent(case: Case) -> str:
        row = row_of(case)
        return f"holds no row for '{case.name}'" if row is None else _silence(row)

    return absent


def _both(absent: Absent, masks: Judged) -> Absent:
    return lambda case: absent(case) or masks.absent(case)


def _silence(row: Row) -> str:
    """Why a row has no answer; "" where it has one."""
    return row["warnings"] if row["warnings"].startswith(SILENT) else ""
