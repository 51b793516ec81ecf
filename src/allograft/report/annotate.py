"""Whom to annotate at a target without labels, so that its recipes can be judged: test subjects in
a random order."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from allograft import tree
from allograft.cohort.splits import budget_order
from allograft.report.facts import ordinals
from allograft.results.select import Line
from allograft.results.table import subjects_at
from allograft.seeds import Seeds

FILE = "annotate.csv"
COLUMNS = ("order", "site", "ordinal", "subject", "image")


@dataclass(frozen=True)
class Wanted:
    """A test subject without labels, its number in the report, and its cases."""

    ordinal: str
    subject: str
    cases: tuple[str, ...]


def to_annotate(lines: Sequence[Line], site: str) -> list[Wanted]:
    """The test subjects of a target that no label judges yet, in an order that depends on their
    names alone; none where some are judged.

    Scores play no part in the order: a recipe judged on the first so many is judged on a random
    draw.
    """
    here = [line for line in lines if line.target == site]
    if any(subjects_at(line, site) for line in here):
        return []
    cases: dict[str, set[str]] = {}
    for record in (record for line in here for run in line.runs for record in run.tests.get(site, ())):
        for case in record.cases:
            cases.setdefault(str(case["subject"]), set()).add(str(case["case"]))
    known = ordinals(lines)
    order = budget_order(sorted(cases), Seeds(0, ("annotate", site)))
    return [Wanted(known[subject], subject, tuple(sorted(cases[subject]))) for subject in order]


def write_annotate(out: Path, lines: Sequence[Line]) -> Path | None:
    """Write ``OUT/annotate.csv``, which says who the report's ordinals are: one row an image, in
    the order to annotate; it stays here.

    An older one goes where no target is without labels: its ordinals would be of another report.

    Raises:
        OutputError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    any_wanted = False
    for site in dict.fromkeys(line.target for line in lines):
        for order, wanted in enumerate(to_annotate(lines, site), 1):
            any_wanted = True
            writer.writerows((order, site, wanted.ordinal, wanted.subject, case) for case in wanted.cases)
    path = out / FILE
    if not any_wanted:
        tree.remove(path)
        return None
    tree.write_bytes(path, text.getvalue().encode())
    return path
