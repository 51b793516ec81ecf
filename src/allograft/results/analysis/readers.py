"""Boxes judged by several readers (Elbatel, Bornberg et al. 2022, table 1): the metrics against
each one's boxes, a row per recipe."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from allograft.results.analysis.sheet import Sheet, spread
from allograft.results.select import Line

METRICS = ("ap50", "ap75", "ap", "ar")
START = "start_epoch"
"""A fact of stages that correct boxes: when the correction began."""


def reader_sheet(lines: Sequence[Line], target: str) -> Sheet | None:
    """AP50, AP75, AP and AR per reader at a target, mean ± sd over seeds, and the epoch at which a
    row that corrects boxes began to; None where one reader's boxes are all there are, or the task
    has none."""
    here = [line for line in lines if line.target == target]
    names = dict.fromkeys(name for line in here for name in line.metrics.get(target, ()))
    readers = {name.partition("/")[2]: None for name in names if name.partition("/")[0] in METRICS}
    if len(readers) < 2:
        return None
    starts = {line.title: _start(line, target) for line in here}
    with_start = any(starts.values())
    keys = [f"{metric}/{reader}".rstrip("/") for reader in readers for metric in METRICS]
    titles = [f"{metric}, {reader or 'reader 1'}" for reader in readers for metric in METRICS]
    rows = tuple(
        (
            line.title,
            *([starts[line.title]] if with_start else []),
            *(spread(line.metrics.get(target, {}).get(key, ())) for key in keys),
        )
        for line in here
    )
    notes = (
        "Mean ± sd over seeds. Reader 1 drew the boxes in the column boxes: only these are trained on, and give the "
        "headline.",
    )
    return Sheet("Against each reader", ("recipe", *(["start epoch"] if with_start else []), *titles), rows, notes)


def _start(line: Line, target: str) -> str:
    """The epochs at which the correction began: the mean over the seeds in which it did, and how
    many those are."""
    starts = [record.facts[START] for run in line.runs for record in run.tests.get(target, ()) if START in record.facts]
    began = [float(value) for value in starts if isinstance(value, (int, float))]
    if not starts:
        return ""
    mean = f"{fmean(began):g}" if began else "never"
    return mean if len(began) in (0, len(starts)) else f"{mean} in {len(began)} of {len(starts)} runs"
