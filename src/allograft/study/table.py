"""The table of a study as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from allograft.study.plan import Plan
from allograft.study.select import RULES, Line
from allograft.study.spec import Study


def smallest_p(subjects: int) -> float:
    """The smallest two-sided p that an exact Wilcoxon signed-rank test on so many subjects can give: all differences of one sign.

    >>> smallest_p(4)
    0.125
    """
    return min(1.0, 2.0 ** (1 - subjects))


def subjects_at(line: Line, site: str) -> int:
    """Test subjects of a site, over all folds."""
    return max((len({case["subject"] for record in run.tests.get(site, ()) for case in record.cases}) for run in line.runs), default=0)


def table_of(study: Study, plan: Plan, lines: Sequence[Line], target: str) -> Table:
    """One target's lines, in the order of the study."""
    here = [line for line in lines if line.target == target]
    sites = (target, *study.source, *(site for site in study.target if site != target))
    subjects = max((subjects_at(line, target) for line in here), default=0)
    p = smallest_p(subjects)
    note = f"smallest p possible {p:.2g}" + ("" if p <= 0.05 else f": cannot be significant with {subjects} subjects")
    made = Table(
        title=f"{' + '.join(study.source) or 'source-free'} -> {target}: {plan.headline}, mean ± sd over seeds; "
        f"{subjects} test subjects, {note}",
        title_justify="left",
        caption=f"* recommended by selection '{study.selection}': {RULES[study.selection]}. Recipes at their papers' settings, untuned.",
        caption_justify="left",
    )
    made.add_column("recipe", no_wrap=True)
    for name in (f"at {target}", "- nothing", *(f"at {site}" for site in sites[1:]), "worst", "runs", "train s", "MB", "tuned"):
        made.add_column(name, justify="right", no_wrap=True)
    baseline = next((line.score(target) for line in here if line.title == "supervised"), None)
    for line in here:
        made.add_row(*_cells(line, target, sites, baseline))
    return made


def _cells(line: Line, target: str, sites: Sequence[str], baseline: float | None) -> list[str]:
    score = line.score(target)
    gain = "" if score is None or baseline is None or line.title == "supervised" else f"{score - baseline:+.3f}"
    cells = [("* " if line.recommended else "  ") + line.title, _score(line, target), gain]
    cells += [_score(line, site) for site in sites[1:]]
    cells.append("" if line.worst is None else f"{line.worst[1]:.3f} {line.worst[0]}")
    cells.append(f"{line.done} of {len(line.runs)}")
    costs = (("train_seconds", ".1f"), ("peak_memory_mb", ".0f"), ("trainable_parameters", ",.0f"))
    return cells + [_number(line.cost(key), form) for key, form in costs]


def _score(line: Line, site: str) -> str:
    score, spread = line.score(site), line.spread(site)
    if score is None:
        return "failed" if not line.done else "not measured"
    return f"{score:.3f}" + (f" ± {spread:.3f}" if spread is not None else "")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def print_tables(study: Study, plan: Plan, lines: Sequence[Line], console: Console | None = None) -> None:
    """Print one table a target, and why runs failed."""
    console = console or Console(width=None if Console().is_terminal else 200, highlight=False)
    for target in study.target:
        console.print(table_of(study, plan, lines, target))
    for line in lines:
        for error in sorted({run.error for run in line.runs if run.error}):
            console.print(f"{line.title} -> {line.target}: {error}", markup=False)
