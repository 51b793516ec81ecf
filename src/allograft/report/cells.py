"""The cells of a table on a page: what is read in each, and what it is sorted by."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from statistics import fmean, mean, stdev

from allograft.results.comparison import NOTHING, Comparison, difference, paired_scores
from allograft.results.costs import TrainingCost
from allograft.results.select import NOT_YET, Line
from allograft.results.table import p_value
from allograft.study.plan import Plan

DIGITS = {"hd95": 2, "asd": 2, "hd95_diagonal": 2, "asd_diagonal": 2}
FORMS = ("{:,.1f}", "{:,.0f}", "{:,.0f}")
"""Of the costs: seconds to predict, megabytes, parameters."""
ORDER = ("iou", "hd95", "asd", "hd95_diagonal", "asd_diagonal")
"""These metrics come first; records sort theirs by name."""
FREE = "label-free/"
INTERVAL = "over subjects, for the mean over seeds: t on the logit of the mean; DeLong's for an area under the curve"
CLAIM = "probability that the row is no better than no adaptation, shrunk over the rows that compete"
CLAIM_OF_TWO = "probability that the one ahead is no better, under a flat prior"
BADGES = {
    "change": "change to this",
    "keep": "keep",
    "tied": "tied",
    "loses": "loses here",
    "forgets": "forgets at home",
}
"""What the verdict says of a row, below its name."""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: what is read first.
        small: below it.
        value: what the column is sorted by; None goes last.
        kind: "quiet" for words in the place of a number, "number", "name".
        mark: a footnote's sign.
    """

    text: str
    small: str = ""
    value: float | None = None
    kind: str = "number"
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """A heading.

    Args:
        small: a second line under it.
        hint: what it means, in a sentence.
        group: the heading over it and its neighbours of the same group; "" for none.
        detail: whether it shows on demand alone.
    """

    name: str
    small: str = ""
    hint: str = ""
    group: str = ""
    detail: bool = False


@dataclass(frozen=True)
class Table:
    """Columns and, for each line, whether the verdict names it and its cells; ``note`` is about
    every p."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[bool, tuple[Cell, ...]], ...]
    note: str = ""

    @property
    def groups(self) -> list[tuple[str, int, bool]]:
        """(heading, how many columns it stands over, whether these are details), in order; [] where
        no column has one."""
        runs = groupby(self.columns, lambda column: (column.group, column.detail))
        headed = [(name, len(list(columns)), detail) for (name, detail), columns in runs]
        return headed if any(name for name, _, _ in headed) else []

    @property
    def details(self) -> list[str]:
        """What the columns are called that show on demand alone."""
        shown = {column.name for column in self.columns if not column.detail}
        return [
            f"{column.name} {column.small}" if column.name in shown or column.small == "site" else column.name
            for column in self.columns
            if column.detail
        ]


def digits_of(metric: str) -> int:
    """After the point.

    >>> digits_of("hd95/vessel"), digits_of("dice")
    (2, 3)
    """
    return DIGITS.get(metric.split("/")[0], 3)


def gain(plan: Plan, line: Line, base: Line | None, site: str) -> float | None:
    """Difference to another row over the subjects and seeds that both have."""
    compared = None if base is None or line is base else difference(plan, line, base, site)
    return None if compared is None else compared[0]


def label_free(here: Sequence[Line], site: str) -> list[str]:
    """The scores that need no labels, at a site where no case has any."""
    records = [record for line in here for run in line.runs for record in run.tests.get(site, ())]
    if any(record.measured for record in records):
        return []
    keys = {key for record in records for key in record.metrics if key.startswith(FREE)}
    return sorted(key.removeprefix(FREE) for key in keys)


def free_cell(line: Line, site: str, name: str) -> Cell:
    """Mean ± sd over seeds, each the mean over its folds."""
    folds = [[r.metrics.get(FREE + name) for r in run.tests[site]] for run in line.runs if run.tests.get(site)]
    # the mean of the other folds would be of other images
    values = [
        mean(known) for fold in folds if len(known := [value for value in fold if value is not None]) == len(fold)
    ]
    if not values:
        return Cell(_absent(line), kind="quiet")
    return Cell(f"{mean(values):.3f}", f"± {stdev(values):.3f}" if len(values) > 1 else "", mean(values))


def metrics_of(here: Sequence[Line], target: str) -> list[str]:
    """Every metric that was measured at a target, undefined ones too."""
    metrics: dict[str, None] = {}
    for line in here:
        for run in line.runs:
            for record in run.tests.get(target, ()):
                metrics |= dict.fromkeys(record.metrics)
        metrics |= dict.fromkeys(line.metrics.get(target, ()))
    names = [name for name in metrics if not name.startswith(("undefined/", FREE))]
    return sorted(names, key=lambda name: ORDER.index(kind) if (kind := name.split("/")[0]) in ORDER else len(ORDER))


def score_cell(line: Line, site: str, metric: str, *, best: float | None = None) -> Cell:
    """Mean ± sd over seeds, or in words why there is none."""
    values = line.metrics.get(site, {}).get(metric, ())
    if not values:
        return Cell("undefined" if line.is_measured(site) else _absent(line), kind="quiet")
    digits = digits_of(metric)
    small = [f"± {stdev(values):.{digits}f}"] if len(values) > 1 else []
    undefined = line.metrics[site].get(f"undefined/{metric}", ())
    small += [f"{max(undefined):.0f} undefined"] if undefined else []
    small += [f"in {len(values)} of {line.done} seeds"] if undefined and len(values) < line.done else []
    value = mean(values)
    return Cell(f"{value:.{digits}f}", "\n".join(small), value, mark="†" if best is not None and value == best else "")


def _absent(line: Line) -> str:
    """Why there is no number."""
    if line.leaves_weights_only:
        return "weights only"
    if line.done or not line.runs:
        return "not measured"
    return NOT_YET if all(run.error == NOT_YET for run in line.runs) else "failed"


def interval_cell(interval: tuple[float, float] | None) -> Cell:
    """Sorted by its lower end."""
    return (
        Cell("–", kind="quiet")
        if interval is None
        else Cell("{:.3f} to {:.3f}".format(*interval).replace("-", "−"), value=interval[0])
    )


def gain_cell(compared: Comparison | None, role: str = "", other: str = "nothing") -> Cell:
    """Difference to the reference with its interval; of the reference itself its ``role``.

    Args:
        other: what the reference is called.
    """
    if compared is None:
        return Cell("–", role, kind="quiet")
    interval = "" if compared.low is None else f"{compared.low:+.3f} to {compared.high:+.3f}"
    small = [interval, *([_left_out(compared.cases, compared.undefined, other)] if any(compared.undefined) else [])]
    return Cell(
        f"{compared.difference:+.3f}".replace("-", "−"),
        "\n".join(filter(None, small)).replace("-", "−"),
        compared.difference,
    )


def home_cell(plan: Plan, line: Line, base: Line | None, site: str) -> Cell:
    """The score at a source site, and below it the difference to the reference."""
    cell = score_cell(line, site, plan.headline)
    gap = gain(plan, line, base, site)
    return cell if gap is None else replace(cell, small=f"{gap:+.{digits_of(plan.headline)}f}".replace("-", "−"))


def training_cell(cost: TrainingCost | None, own: float | None) -> Cell:
    """Seconds of training given the source model, and below those with its training; of a row that
    is built on what nothing is known of, its own."""
    if cost is None:
        return cost_cell(own, "{:,.1f}")
    return Cell(f"{cost.given:,.1f}", f"{cost.alone:,.1f} in all" if cost.is_shared else "", cost.given)


def _left_out(cases: int, undefined: tuple[int, int], other: str) -> str:
    return f"over {cases} case{'' if cases == 1 else 's'}; undefined: {undefined[0]} here, {undefined[1]} with {other}"


def cell_beside(plan: Plan, line: Line, base: Line | None, site: str, metric: str) -> Cell:
    """Another metric than the headline; where some case of either row is undefined, with the
    difference to the reference over the cases that are defined in both."""
    cell = score_cell(line, site, metric)
    if base is None or line is base:
        return cell
    both = paired_scores(plan, line, base, site, metric)
    if not any(both.undefined):
        return cell
    other = "no adaptation" if base.title in NOTHING else base.title
    words = _left_out(both.cases, both.undefined, other)
    if both.cases:
        gap = f"{fmean(both.ours - both.theirs):+.{digits_of(metric)}f}".replace("-", "−")
        words = f"{gap} vs. {other} {words}"
    return replace(cell, small="\n".join(filter(None, (cell.small, _narrow(words)))))


def p_cell(compared: Comparison | None, common: str) -> Cell:
    """The adjusted p with the plain one and a note below it, or in its place why there is none;
    what most rows share stands elsewhere."""
    note = "" if compared is None or compared.note == common else compared.note
    if compared is None or compared.adjusted is None or compared.p is None:
        return Cell("–", _narrow(note), kind="quiet")
    small = "\n".join(filter(None, (f"raw {p_value(compared.p)}", _narrow(note))))
    return Cell(p_value(compared.adjusted), small, compared.adjusted)


def claim_cell(compared: Comparison | None) -> Cell:
    """The probability of a false claim."""
    if compared is None or compared.false_claim is None:
        return Cell("–", kind="quiet")
    return Cell("<0.001" if compared.false_claim < 0.001 else f"{compared.false_claim:.3f}", value=compared.false_claim)


def badges_of(line: Line) -> str:
    """What the verdict says of a row, in words."""
    return " · ".join(BADGES[word] for word in line.verdict.split("; ") if word)


def _narrow(note: str) -> str:
    return textwrap.fill(note, 26)


def seeds_cell(line: Line) -> Cell:
    """How many seeds finished, and how many failed or are to come."""
    waiting = sum(run.error == NOT_YET for run in line.runs)
    failed = len(line.runs) - line.done - waiting
    small = [*([f"{failed} failed"] if failed else []), *([f"{waiting} to go"] if waiting else [])]
    return Cell(f"{line.done} of {len(line.runs)}", "\n".join(small), line.done, kind="warn" if failed else "number")


def worst_cell(line: Line) -> Cell:
    """The lowest score, and its site below it."""
    return (
        Cell(_absent(line), kind="quiet")
        if line.worst is None
        else Cell(f"{line.worst[1]:.3f}", line.worst[0], line.worst[1])
    )


def cost_cell(value: float | None, form: str) -> Cell:
    """A number in the form of its column, or a dash."""
    return Cell("–", kind="quiet") if value is None else Cell(form.format(value), value=value)
