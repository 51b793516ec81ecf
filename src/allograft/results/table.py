"""The table of a study as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from allograft.results.comparison import ALPHA, Comparison, compare, over_pairs, reference, verdict_reference
from allograft.results.scores import case_names, score_interval, seed_cases, subject_ids, undefined_cases
from allograft.results.select import RULES, Line
from allograft.results.statistics import Interval
from allograft.results.statistics import smallest_p as smallest_p  # other modules find it here
from allograft.study.plan import Plan
from allograft.study.spec import Study

COVERAGE = "95 % of a score: t on the logit of the mean; with many exact zeros none covers below 20 subjects."
"""What a reader of intervals must know, in the terminal and on the page."""
WIDTH = 160
"""Columns of text where no terminal says otherwise."""
LAYOUT: dict[str, Any] = {
    "title_justify": "left",
    "caption_justify": "left",
    "box": box.SIMPLE_HEAD,
    "padding": (0, 1, 0, 0),
}


def subjects_at(line: Line, site: str) -> int:
    """Test subjects of a site, over all folds."""
    return len(subject_ids(line, site))


def table_of(study: Study, plan: Plan, lines: Sequence[Line], target: str, width: int = WIDTH) -> Table:
    """One target's lines, in the order of the study. Other sites' scores stand in it as far as
    ``width`` allows, the source's first."""
    others = [*study.source, *(site for site in study.target if site != target)]
    here = [line for line in lines if line.target == target]
    compared = compare(lines, plan, target)
    intervals = [score_interval(plan, line, target) for line in here]
    for shown in range(len(others), -1, -1):
        made = _bare(study, plan, here, target, others[:shown])
        undefined = _undefined(plan, here, compared, target)
        notes = [undefined, reference_note(plan, lines, target)]
        made.caption = _caption(study, plan, here, compared, others[shown:], notes, is_measured=any(intervals))
        for line, interval in zip(here, intervals, strict=True):
            made.add_row(*_cells(line, others[:shown], interval, compared.get(line.title), _notes(compared)))
        if not shown or Measurement.get(console := Console(width=1000), console.options, made).maximum <= width:
            break
    return made


def pairs_table(study: Study, plan: Plan, tables: Sequence[Sequence[Line]]) -> Table | None:
    """Means over all pairs of source and target, of one table or several; None for fewer than two
    measured pairs."""
    rows = over_pairs(tables, plan)
    if not rows or rows[0].pairs < 2:
        return None
    made = Table(title=f"over {rows[0].pairs} pairs: {plan.headline}", **LAYOUT)
    made.add_column("recipe", min_width=16)
    for name in ("mean over pairs ± sd over seeds", "seeds with every pair", "runs"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        seeds = "" if row.leaves_weights_only else f"{row.seeds} of {study.seeds}"
        made.add_row(row.title, _spread(row.mean, row.sd) or row.absent, seeds, f"{row.done} of {row.runs}")
    return made


def _bare(study: Study, plan: Plan, here: Sequence[Line], target: str, others: Sequence[str]) -> Table:
    """Title and columns."""
    subjects = max((subjects_at(line, target) for line in here), default=0)
    p = smallest_p(subjects, study.statistics.alternative)
    note = f"{subjects} test subject{'' if subjects == 1 else 's'}, smallest p possible {p:.2g}"
    note += "" if p <= ALPHA else f": cannot be significant with {subjects} subject{'' if subjects == 1 else 's'}"
    made = Table(
        title=f"{' + '.join(study.source) or 'source-free'} -> {target}: {plan.headline}, mean ± sd over seeds; "
        + (note if subjects else "no labelled test subject, nothing is ranked"),
        **LAYOUT,
    )
    made.add_column("recipe", min_width=16)
    names = (
        f"at {target}",
        "subjects' 95 %",
        f"vs. {_versus(plan, here, target)}",
        "subjects' 95 %",
        f"p, {study.statistics.adjustment.capitalize()}",
        *(f"at {site}" for site in others),
    )
    for name in (*names, "worst site", "runs", "train s", "MB", "tuned"):
        made.add_column(name, justify="right", no_wrap=True)
    return made


def _cells(
    line: Line, others: Sequence[str], interval: Interval | None, found: Comparison | None, notes: Mapping[str, str]
) -> list[str]:
    cells = [_signs(line) + line.title, _score(line, line.target), _interval(interval)]
    if found is None:
        cells += ["", "", ""]
    else:
        between = None if found.low is None or found.high is None else (found.low, found.high)
        cells += [f"{found.difference:+.3f}", _interval(between, "+"), _p(found, notes)]
    cells += [_score(line, site) for site in others]
    cells.append("" if line.worst is None else f"{line.worst[1]:.3f} {line.worst[0]}")
    cells.append(f"{line.done} of {len(line.runs)}")
    cells += [_number(line.cost(key), form) for key, form in (("train_seconds", ".1f"), ("peak_memory_mb", ".0f"))]
    return [*cells, short_count(line.cost("trainable_parameters"))]


def _versus(plan: Plan, here: Sequence[Line], target: str) -> str:
    """The row that the others are compared with."""
    base = reference(here, plan, target)
    return "none" if base is None else base.title


def reference_note(plan: Plan, lines: Sequence[Line], target: str) -> str:
    """What must be known of the row that the others are compared with: that the study names it
    while the verdict compares with another, or that it has no score; "" for neither."""
    base, other = reference(lines, plan, target), verdict_reference(lines, plan, target)
    if base is None:
        return ""
    told = []
    if base is not other and other is not None:
        told.append(
            f"{base.title} is the reference that the study names: differences and p are to it. The verdict and its "
            f"marks compare with {other.title}."
        )
    if base.score(target) is None and any(line.score(target) is not None for line in lines if line.target == target):
        why = "has no score" if base.done else "failed"
        told.append(f"{base.title} {why} at {target}, so no row is compared with it, nor with another in its place.")
    return " ".join(told)


def _signs(line: Line) -> str:
    """``*`` for the row of the verdict, ``!`` for one that is worse somewhere."""
    worse = any(word in line.verdict for word in ("loses", "forgets"))
    return f"{'*' if line.chosen else ''}{'!' if worse else ''}".ljust(2) + " "


def _notes(compared: Mapping[str, Comparison]) -> dict[str, str]:
    """Note -> its sign."""
    return {
        note: f"({number})"
        for number, note in enumerate(dict.fromkeys(one.note for one in compared.values() if one.note), 1)
    }


def _undefined(plan: Plan, here: Sequence[Line], compared: Mapping[str, Comparison], site: str) -> str:
    """How many cases each row leaves out because its headline has no value there, or that it has
    none in any row; "" for none."""
    if any(line.is_measured(site) for line in here) and all(line.score(site) is None for line in here):
        why = _one_class(plan, here, site)
        return f"{plan.headline} is undefined on the test cases of {site}{why}: nothing is ranked."
    counts = {line.title: undefined_cases(line, site, plan.headline) for line in here}
    if not any(counts.values()):
        return ""
    told = [
        f"{title} {count}" + (f" ({compared[title].cases} cases compared)" if title in compared else "")
        for title, count in counts.items()
    ]
    total = max(len(case_names(line, site)) for line in here)
    return (
        f"Cases of {total} where {plan.headline} is undefined, left out of a row's mean, and of both rows of a "
        f"difference: {', '.join(told)}."
    )


def _one_class(plan: Plan, here: Sequence[Line], site: str) -> str:
    """Which class all test cases have, where they are of one."""
    every = [case.get("label") for line in here for cases in seed_cases(line, site).values() for case in cases]
    found = {label for label in every if isinstance(label, int)}
    return f", which are all '{plan.task.coding.label[found.pop()]}'" if len(found) == 1 else ""


def _caption(
    study: Study,
    plan: Plan,
    here: Sequence[Line],
    compared: Mapping[str, Comparison],
    hidden: Sequence[str],
    more: Sequence[str],
    *,
    is_measured: bool,
) -> str:
    """What the signs that stand in the table and its columns mean."""
    signs = "".join(_signs(line) for line in here)
    told = ["* the row of the verdict, below."] if "*" in signs else []
    told += ["! loses here or forgets at home."] if "!" in signs else []
    lines = [" ".join([*told, "Recipes at their papers' settings, untuned."])]
    lines.append(f"Stages, settings and seeds are chosen by selection '{study.selection}': {RULES[study.selection]}.")
    if compared or is_measured:
        lines.append(
            f"The unit is the subject: means over its images and over seeds, folds together; ± over seeds. {COVERAGE}"
        )
    if compared:
        statistics = study.statistics
        exact = any(one.rank_biserial is not None for one in compared.values())
        lines.append(
            f"vs. {_versus(plan, here, here[0].target)}: paired difference, 95 % by Student's t. "
            f"p: {'exact Wilcoxon' if exact else 'DeLong'}, {statistics.alternative}, "
            f"{statistics.adjustment.capitalize()} over rows."
        )
    lines += [f"{sign} {note}" for note, sign in _notes(compared).items()]
    lines += filter(None, more)
    if hidden:
        lines.append(f"also judged at {', '.join(hidden)}: see results.csv and the report")
    return "\n".join(lines)


def _score(line: Line, site: str) -> str:
    absent = "failed" if not line.done else "undefined" if line.is_measured(site) else "not measured"
    absent = "weights only" if line.leaves_weights_only else absent
    return _spread(line.score(site), line.spread(site)) or absent


def _spread(mean: float | None, sd: float | None) -> str:
    return "" if mean is None else f"{mean:.3f}" + (f" ± {sd:.3f}" if sd is not None else "")


def _interval(interval: Interval | None, sign: str = "") -> str:
    return "" if interval is None else f"{interval[0]:{sign}.3f} to {interval[1]:{sign}.3f}"


def _p(found: Comparison, notes: Mapping[str, str]) -> str:
    """The adjusted p, and the sign of what must be known to read it."""
    p = "" if found.adjusted is None else p_value(found.adjusted)
    return " ".join(word for word in (p, notes.get(found.note, "")) if word)


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
