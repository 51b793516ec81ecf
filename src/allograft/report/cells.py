"""The decision table of one target: what stands in each cell, and what it is sorted by."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, mean, stdev

from allograft.results.comparison import NOTHING, Comparison, compare, difference, paired_scores, reference
from allograft.results.scores import score_interval
from allograft.results.select import NOT_YET, Line
from allograft.results.table import p_value
from allograft.study.plan import Plan
from allograft.study.spec import Study

DIGITS = {"hd95": 2, "asd": 2, "hd95_diagonal": 2, "asd_diagonal": 2}
FORMS = ("{:,.1f}", "{:,.1f}", "{:,.0f}", "{:,.0f}")
"""Of the costs: seconds to train, seconds to predict, megabytes, parameters."""
ORDER = ("iou", "hd95", "asd", "hd95_diagonal", "asd_diagonal")
"""These metrics come first; records sort theirs by name."""
FREE = "label-free/"
INTERVAL = "over subjects, of the mean over seeds: t on the logit of the mean; of an area under the curve DeLong's"
CLAIM = "probability that the row is no better than doing nothing, shrunk over the rows that compete"
CLAIM_OF_TWO = "probability that the one that is ahead is no better, with a flat prior"
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
    """A heading, a second line under it, and what it means in a sentence."""

    name: str
    small: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Table:
    """Columns and, for each line, whether the verdict names it and its cells; ``note`` is about
    every p."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[bool, tuple[Cell, ...]], ...]
    note: str = ""


def digits_of(metric: str) -> int:
    """After the point.

    >>> digits_of("hd95/vessel"), digits_of("dice")
    (2, 3)
    """
    return DIGITS.get(metric.split("/")[0], 3)


def gain(plan: Plan, line: Line, base: Line | None, site: str) -> float | None:
    """Difference to do-nothing over the subjects and seeds that both have."""
    found = None if base is None or line is base else difference(plan, line, base, site)
    return None if found is None else found[0]


def decision_table(study: Study, plan: Plan, lines: Sequence[Line], target: str) -> Table:
    """The table of one target, in the order of the study."""
    here = [line for line in lines if line.target == target]
    others = [site for site in (*study.source, *study.target) if site != target]
    base = reference(here, plan, target)
    other = "" if base is None or base.title in NOTHING else base.title
    role = "reference" if other else "do-nothing"
    compared = compare(lines, plan, target)
    notes = {found.note for found in compared.values()}
    common = notes.pop() if len(notes) == 1 else ""
    scores = [score for line in here if (score := line.score(target)) is not None]
    best = max(scores) if len(scores) > 1 else None
    extra = [metric for metric in _metrics(here, target) if "/" not in metric and metric != plan.headline]
    columns = [
        Column("recipe", hint="as in the study; sorts back to its order"),
        Column(plan.headline, f"at {target}", "mean ± sd over seeds"),
    ]
    columns += [Column("95 % interval", "over subjects", INTERVAL)]
    columns += [
        Column(
            "gain",
            f"vs {other or 'nothing'}",
            f"difference to {other or 'do-nothing'}, over the subjects and seeds that both have; 95 % by Student's t",
        )
    ]
    told, exact = study.statistics, any(found.rank_biserial is not None for found in compared.values())
    test = f"{'exact ' * exact}{told.alternative} {'Wilcoxon signed-rank' if exact else 'DeLong'} test over subjects, "
    test += f"{told.adjustment.capitalize()} over the rows of this table"
    columns += [Column("p", "unadjusted" if told.adjustment == "none" else told.adjustment.capitalize(), test)]
    columns += [Column("false", "claim", CLAIM.replace("doing nothing", other or "doing nothing"))]
    columns += [Column("seeds", "done", "finished seeds")]
    columns += [
        Column(plan.headline, f"at {site}", "forgetting shows here" if site in study.source else "another target")
        for site in others
    ]
    columns += [Column("worst", "site", "the lowest of the scores at all sites")]
    columns += [Column(metric, f"at {target}", "mean ± sd over seeds") for metric in extra]
    free = label_free(here, target)
    columns += [Column(name, "label-free", "of test cases; lower is surer, which is not better") for name in free]
    columns += [Column("train", "seconds", "of the run itself; a training that rows share is counted in its own row")]
    columns += [
        Column(
            "predict",
            "s / 100 cases",
            "of test cases at the target, with reading them; what a batch of them would take is less",
        )
    ]
    columns += [Column("peak", "MB", "highest memory"), Column("trainable", "parameters")]
    rows = []
    for order, line in enumerate(here):
        cells = [
            Cell(line.title, _badges(line), order, kind="name"),
            score_cell(line, target, plan.headline, best=best),
        ]
        cells += [
            _interval(score_interval(plan, line, target)),
            gain_cell(compared.get(line.title), role if line is base else ""),
        ]
        cells += [_p(compared.get(line.title), common), _claim(compared.get(line.title)), _seeds(line)]
        cells += [*(score_cell(line, site, plan.headline) for site in others), _worst(line)]
        cells += [_beside(plan, line, base, target, metric) for metric in extra]
        cells += [_free(line, target, name) for name in free]
        costs = [
            line.cost("train_seconds"),
            line.predict_seconds(target),
            line.cost("peak_memory_mb"),
            line.cost("trainable_parameters"),
        ]
        cells += [_cost(value, form) for value, form in zip(costs, FORMS, strict=True)]
        rows.append((line.chosen, tuple(cells)))
    return Table(tuple(columns), tuple(rows), common)


def class_table(plan: Plan, lines: Sequence[Line], target: str) -> Table | None:
    """Every metric of every class at a target; None with fewer than two classes, and for boxes,
    whose metrics are parted by reader."""
    if plan.task.key == "boxes":
        return None
    here = [line for line in lines if line.target == target]
    names = [metric for metric in _metrics(here, target) if "/" in metric and not metric.startswith("undefined/")]
    if len({name.split("/", 1)[1] for name in names}) < 2:
        return None
    columns = (Column("recipe"), *(Column(*name.split("/", 1)) for name in names))
    rows = [
        (line.chosen, (Cell(line.title, value=n, kind="name"), *(score_cell(line, target, name) for name in names)))
        for n, line in enumerate(here)
    ]
    return Table(columns, tuple(rows))


def label_free(here: Sequence[Line], site: str) -> list[str]:
    """The scores that need no labels, at a site where no case has any."""
    records = [record for line in here for run in line.runs for record in run.tests.get(site, ())]
    if any(record.measured for record in records):
        return []
    found = {key for record in records for key in record.metrics if key.startswith(FREE)}
    return sorted(key.removeprefix(FREE) for key in found)


def _free(line: Line, site: str, name: str) -> Cell:
    """Mean ± sd over seeds, each the mean over its folds."""
    folds = [[r.metrics.get(FREE + name) for r in run.tests[site]] for run in line.runs if run.tests.get(site)]
    # the mean of the other folds would be of other images
    values = [mean(known) for one in folds if len(known := [value for value in one if value is not None]) == len(one)]
    if not values:
        return Cell(_absent(line), kind="quiet")
    return Cell(f"{mean(values):.3f}", f"± {stdev(values):.3f}" if len(values) > 1 else "", mean(values))


def _metrics(here: Sequence[Line], target: str) -> list[str]:
    """Every metric that was measured at a target, undefined ones too."""
    found: dict[str, None] = {}
    for line in here:
        for run in line.runs:
            for record in run.tests.get(target, ()):
                found |= dict.fromkeys(record.metrics)
        found |= dict.fromkeys(line.metrics.get(target, ()))
    names = [name for name in found if not name.startswith(("undefined/", FREE))]
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


def _interval(interval: tuple[float, float] | None) -> Cell:
    """Sorted by its lower end."""
    return (
        Cell("–", kind="quiet")
        if interval is None
        else Cell("{:.3f} to {:.3f}".format(*interval).replace("-", "−"), value=interval[0])
    )


def gain_cell(found: Comparison | None, role: str = "") -> Cell:
    """Difference to the reference with its interval; of the reference itself its ``role``."""
    if found is None:
        return Cell("–", role, kind="quiet")
    interval = "" if found.low is None else f"{found.low:+.3f} to {found.high:+.3f}"
    small = [interval, *([_left_out(found.cases, found.undefined)] if any(found.undefined) else [])]
    return Cell(
        f"{found.difference:+.3f}".replace("-", "−"), "\n".join(filter(None, small)).replace("-", "−"), found.difference
    )


def _left_out(cases: int, undefined: tuple[int, int]) -> str:
    return f"over {cases} case{'' if cases == 1 else 's'}; undefined: {undefined[0]} here, {undefined[1]} in nothing"


def _beside(plan: Plan, line: Line, base: Line | None, site: str, metric: str) -> Cell:
    """Another metric than the headline; where some case of either row is undefined, with the
    difference to do-nothing over the cases that are defined in both."""
    cell = score_cell(line, site, metric)
    if base is None or line is base:
        return cell
    both = paired_scores(plan, line, base, site, metric)
    if not any(both.undefined):
        return cell
    told = _left_out(both.cases, both.undefined)
    if both.cases:
        gap = f"{fmean(both.ours - both.theirs):+.{digits_of(metric)}f}".replace("-", "−")
        told = f"{gap} vs nothing {told}"
    return replace(cell, small="\n".join(filter(None, (cell.small, _narrow(told)))))


def _p(found: Comparison | None, common: str) -> Cell:
    """The adjusted p with the plain one and a note below it, or in its place why there is none;
    what all rows share stands elsewhere."""
    note = "" if found is None or found.note == common else found.note
    if found is None or found.adjusted is None or found.p is None:
        return Cell("–", _narrow(note), kind="quiet")
    small = "\n".join(filter(None, (f"raw {p_value(found.p)}", _narrow(note))))
    return Cell(p_value(found.adjusted), small, found.adjusted)


def _claim(found: Comparison | None) -> Cell:
    if found is None or found.false_claim is None:
        return Cell("–", kind="quiet")
    return Cell("<0.001" if found.false_claim < 0.001 else f"{found.false_claim:.3f}", value=found.false_claim)


def _badges(line: Line) -> str:
    return " · ".join(BADGES[word] for word in line.verdict.split("; ") if word)


def _narrow(note: str) -> str:
    return textwrap.fill(note, 26)


def _seeds(line: Line) -> Cell:
    waiting = sum(run.error == NOT_YET for run in line.runs)
    failed = len(line.runs) - line.done - waiting
    small = [*([f"{failed} failed"] if failed else []), *([f"{waiting} to go"] if waiting else [])]
    return Cell(f"{line.done} of {len(line.runs)}", "\n".join(small), line.done, kind="warn" if failed else "number")


def _worst(line: Line) -> Cell:
    return (
        Cell(_absent(line), kind="quiet")
        if line.worst is None
        else Cell(f"{line.worst[1]:.3f}", line.worst[0], line.worst[1])
    )


def _cost(value: float | None, form: str) -> Cell:
    return Cell("–", kind="quiet") if value is None else Cell(form.format(value), value=value)
