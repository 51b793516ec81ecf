"""The table of a study as text."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from allograft.results.caption import caption_of, notes_of, reference_note, signs_of, undefined_note, versus
from allograft.results.comparison import ALPHA, Comparison, compare
from allograft.results.over_pairs import over_pairs
from allograft.results.scores import score_interval, subject_ids
from allograft.results.select import Line
from allograft.results.statistics import Interval
from allograft.results.statistics import smallest_p as smallest_p  # other modules find it here
from allograft.study.plan import Plan
from allograft.study.spec import Study

WIDTH = 160
"""Columns of text where no terminal says otherwise."""
EDGES, GAP = 4, 2
"""Letters around the whole table with the column of names, and between two columns."""
ONE_LINE = 33
"""Letters of a name that stay in one line where details must give way for it."""
DETAILS = 5
"""Rank from which columns are left out rather than names wrapped."""
LAYOUT: dict[str, Any] = {
    "title_justify": "left",
    "caption_justify": "left",
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1, 0, 0),
}


def subjects_at(line: Line, site: str) -> int:
    """Test subjects of a site, over all folds."""
    return len(subject_ids(line, site))


@dataclass(frozen=True)
class Heading:
    """A column of numbers.

    Args:
        name: its heading.
        cells: one per line.
        rank: columns with the highest rank are left out first where there is no room; those of
            rank 0 always stay.
        site: the further site whose scores it shows, or "".
    """

    name: str
    cells: Sequence[str]
    rank: int = 0
    site: str = ""

    @property
    def heading(self) -> str:
        """The name, in two lines where it is wider than its numbers."""
        widest = max(map(len, self.cells), default=0)
        first, _, rest = self.name.rpartition(" ")
        return f"{first}\n{rest}" if first and len(self.name) > widest else self.name

    @property
    def width(self) -> int:
        """Letters of its widest line."""
        return max(map(len, (*self.heading.split("\n"), *self.cells)))


def table_of(study: Study, plan: Plan, lines: Sequence[Line], target: str, width: int = WIDTH) -> Table:
    """One target's lines, in the order of the study.

    Names are wrapped and never cut. Where ``width`` leaves no room, columns are left out and named
    below: first MB, tuned and the worst site, then other sites' scores, the source's last, then
    what the report has in full.
    """
    others = [*study.source, *(site for site in study.target if site != target)]
    here = [line for line in lines if line.target == target]
    compared = compare(lines, plan, target)
    intervals = [score_interval(plan, line, target) for line in here]
    names = [signs_of(line) + line.title for line in here]
    columns = _columns(study, plan, here, compared, intervals, others)
    about = [undefined_note(plan, here, compared, target), reference_note(plan, lines, target)]
    ranks = sorted({column.rank for column in columns}, reverse=True)
    longest, words = max(map(len, names), default=0), max((3 + len(w) for n in names for w in n.split()), default=0)
    for limit in ranks:
        shown = [column for column in columns if column.rank <= limit]
        spare = width - EDGES - sum(column.width + GAP for column in shown)
        if not limit or spare >= max(16, min(longest, ONE_LINE) if limit >= DETAILS else words):
            break
    made = _bare(study, plan, here, target)
    made.add_column("recipe", width=max(16, min(longest, spare)), overflow="fold")
    for column in shown:
        made.add_column(column.heading, justify="right", no_wrap=limit > 0, overflow="fold")
    for name, *cells in zip(names, *(column.cells for column in shown), strict=True):
        made.add_row(_wrapped(name, max(16, spare)), *cells)
    hidden = [(column.name, column.site) for column in columns if column not in shown]
    made.caption = caption_of(study, plan, here, compared, hidden, about_rows=about, is_measured=any(intervals))
    return made


def _wrapped(name: str, width: int) -> str:
    """A name in lines of so many letters, those after the first below its words."""
    signs, words = name[:3], name[3:]
    return signs + "\n   ".join(textwrap.wrap(words, width - 3) or [""])


def pairs_table(study: Study, plan: Plan, tables: Sequence[Sequence[Line]]) -> Table | None:
    """Means over all pairs of source and target, of one table or several; None for fewer than two
    measured pairs."""
    rows = over_pairs(tables, plan)
    if not rows or rows[0].pairs < 2:
        return None
    made = Table(title=f"over {rows[0].pairs} pairs: {plan.headline}", **LAYOUT)
    made.add_column("recipe", min_width=16, overflow="fold")
    for name in ("mean over pairs ± sd over seeds", "seeds with every pair", "runs"):
        made.add_column(name, justify="right", overflow="fold")
    for row in rows:
        seeds = "" if row.leaves_weights_only else f"{row.seeds} of {study.seeds}"
        made.add_row(row.title, _spread(row.mean, row.sd) or row.absent, seeds, f"{row.done} of {row.runs}")
    return made


def _bare(study: Study, plan: Plan, here: Sequence[Line], target: str) -> Table:
    """Its title, without columns."""
    subjects = max((subjects_at(line, target) for line in here), default=0)
    p = smallest_p(subjects, study.statistics.alternative)
    note = f"{subjects} test subject{'' if subjects == 1 else 's'}, smallest p possible {p:.2g}"
    note += "" if p <= ALPHA else f": cannot be significant with {subjects} subject{'' if subjects == 1 else 's'}"
    return Table(
        title=f"{' + '.join(study.source) or 'source-free'} -> {target}: {plan.headline}, mean ± sd over seeds; "
        + (note if subjects else "no labelled test subject, nothing is ranked"),
        **LAYOUT,
    )


def _columns(
    study: Study,
    plan: Plan,
    here: Sequence[Line],
    compared: Mapping[str, Comparison],
    intervals: Sequence[Interval | None],
    others: Sequence[str],
) -> list[Heading]:
    """All columns of numbers, in their order."""
    target = here[0].target if here else ""
    rows, notes = [compared.get(line.title) for line in here], notes_of(compared)
    costs = {
        key: [_number(line.cost(key), form) for line in here]
        for key, form in (("train_seconds", ".1f"), ("peak_memory_mb", ".0f"))
    }
    return [
        Heading(f"at {target}", [_score(line, target) for line in here]),
        Heading("subjects' 95 %", [_interval(interval) for interval in intervals], 3),
        Heading(
            f"vs. {versus(plan, here, target)}", ["" if row is None else f"{row.difference:+.3f}" for row in rows], 0
        ),
        Heading("95 % of it", ["" if row is None else _interval(_limits(row), "+") for row in rows], 1),
        Heading(
            f"p, {study.statistics.adjustment.capitalize()}", ["" if row is None else _p(row, notes) for row in rows]
        ),
        *(
            Heading(f"at {site}", [_score(line, site) for line in here], DETAILS + number, site)
            for number, site in enumerate(others)
        ),
        Heading("worst site", [_worst(line) for line in here], 97),
        Heading("runs", [f"{line.done} of {len(line.runs)}" for line in here], 2),
        Heading("train s", costs["train_seconds"], 4),
        Heading("MB", costs["peak_memory_mb"], 99),
        Heading("tuned", [short_count(line.cost("trainable_parameters")) for line in here], 98),
    ]


def _worst(line: Line) -> str:
    return "" if line.worst is None else f"{line.worst[1]:.3f} {line.worst[0]}"


def _limits(row: Comparison) -> tuple[float, float] | None:
    return None if row.low is None or row.high is None else (row.low, row.high)


def _score(line: Line, site: str) -> str:
    absent = "failed" if not line.done else "undefined" if line.is_measured(site) else "not measured"
    absent = "weights only" if line.leaves_weights_only else absent
    return _spread(line.score(site), line.spread(site)) or absent


def _spread(mean: float | None, sd: float | None) -> str:
    return "" if mean is None else f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")


def _interval(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def _p(compared: Comparison, notes: Mapping[str, str]) -> str:
    """The adjusted p, and the sign of what must be known to read it."""
    p = "" if compared.adjusted is None else p_value(compared.adjusted)
    return " ".join(word for word in (p, notes.get(compared.note, "")) if word)


def p_value(p: float) -> str:
    """A p value with three digits after the point.

    >>> p_value(0.03125), p_value(2e-5)
    ('0.031', '<0.001')
    """
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def short_count(number: float | None) -> str:
    """A count in three digits.

    >>> short_count(950), short_count(119_700), short_count(31_040_000), short_count(None)
    ('950', '120k', '31.0M', '')
    """
    if number is None or number < 1000:
        return "" if number is None else f"{number:.0f}"
    unit, letter = next(
        (unit, letter) for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= 0.9995 * unit
    )
    value = number / unit
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}{letter}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def print_tables(study: Study, plan: Plan, lines: Sequence[Line], console: Console | None = None) -> None:
    """Print one table a target, one over all pairs where there are several, and why runs failed."""
    console = console or _console()
    for target in (question.name for question in study.questions):
        console.print(table_of(study, plan, lines, target, console.width))
    print_over(study, plan, [lines], console)
    for line in lines:
        for error in sorted({run.error for run in line.runs if run.error}):
            console.print(f"{line.title} -> {line.target}: {error}", markup=False)


def print_over(study: Study, plan: Plan, tables: Sequence[Sequence[Line]], console: Console | None = None) -> None:
    """Print the table over all pairs, where there are several."""
    over = pairs_table(study, plan, tables)
    if over is not None:
        (console or _console()).print(over)


def _console() -> Console:
    return Console(width=None if Console().is_terminal else WIDTH, highlight=False, markup=False)
