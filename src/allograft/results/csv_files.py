"""``results.csv`` and ``metrics.csv``: the table of a study, and all that was measured, for
spreadsheets and scripts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from allograft.results.comparison import Comparison, compare, paired_scores, reference
from allograft.results.scores import case_names, intervals, score_interval, subject_ids, undefined_cases
from allograft.results.select import Line
from allograft.results.verdict import reach_of
from allograft.study.plan import Plan
from allograft.tree import write_bytes

if TYPE_CHECKING:
    import pandas as pd

COSTS = ("train_seconds", "peak_memory_mb", "trainable_parameters")
COLUMNS = (
    *(
        "recipe",
        "target",
        "site",
        "metric",
        "verdict",
        "seeds_done",
        "seeds",
        "subjects",
        "cases",
        "undefined_cases",
        "mean",
        "sd_over_seeds",
        "low",
        "high",
    ),
    *(
        "compared_with",
        "paired_subjects",
        "paired_cases",
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_adjusted",
        "cohen_dz",
        "rank_biserial",
    ),
    *("sd_of_differences", "false_claim", "subjects_needed", "smallest_difference", "note"),
    *COSTS,
    "predict_seconds_per_100",
)
WORDS = ("part", "source", "recipe", "target", "site", "metric", "verdict", "compared_with", "note")
"""Columns of words; all others hold numbers or nothing."""
METRIC_COLUMNS = (
    "recipe",
    "target",
    "site",
    "metric",
    "seeds_done",
    "subjects",
    "cases",
    "undefined_cases",
    "mean",
    "sd_over_seeds",
    "low",
    "high",
    "paired_cases",
    "difference",
)


def write_results(out: Path, plan: Plan, lines: Sequence[Line]) -> Path:
    """Write ``OUT/results.csv``, whole or not at all: one row a line of the table and site judged,
    numbers in full, empty = none.

    ``low`` and ``high`` are 95 % intervals over subjects; ``difference`` is to the row
    ``compared_with`` (no adaptation, or the study's ``reference``), paired by subject over
    ``paired_cases``, those of which neither row is undefined; where that row has no score the
    ``note`` says so. p values are of the
    exact signed-rank test, and that adjusted as the study says over the rows of one target and
    site. ``verdict`` is what the verdict says of a line at its target (keep, change, tied, loses,
    forgets); ``subjects_needed`` would show the study's margin with 80 % power, and
    ``smallest_difference`` is what these subjects show. A line that was judged nowhere has one row.

    Raises:
        OutputError: the file cannot be written.
    """
    return write_rows(out / "results.csv", COLUMNS, result_rows(plan, lines))


def result_frame(plan: Plan, lines: Sequence[Line]) -> pd.DataFrame:
    """``results.csv`` as a pandas frame; NaN or None where a number is missing."""
    import pandas as pd

    rows = [{key: None if value == "" else value for key, value in row.items()} for row in result_rows(plan, lines)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def result_rows(plan: Plan, lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The rows of ``results.csv``: column -> value, "" for none."""
    compared: dict[tuple[str, str], dict[str, Comparison]] = {}
    rows = []
    for line in lines:
        for site in _sites(line):
            if (line.target, site) not in compared:
                compared[line.target, site] = compare(lines, plan, line.target, site=site)
            base = reference(lines, plan, line.target)
            row = _row(plan, line, site, compared[line.target, site].get(line.title))
            rows.append(row if base is None or base is line else row | _base(line, base, site, row))
    return rows


def write_metrics(out: Path, plan: Plan, lines: Sequence[Line]) -> Path:
    """Write ``OUT/metrics.csv``: one row a line, site judged and metric, the headline's too;
    ``low`` and ``high`` as in ``results.csv``.

    ``undefined_cases`` have no value of the metric and are left out of ``mean``: a distance to a
    class that only the truth or only the prediction has. So that what one row leaves out does not
    count against another, ``difference`` to the reference of the table is over the ``paired_cases``
    that are defined in both. No p: a study tests its headline. A metric that is undefined as a
    whole (AUROC of one class) has no row, one that is undefined in every case has no mean.

    Raises:
        OutputError: the file cannot be written.
    """
    rows: list[dict[str, Any]] = []
    for line in lines:
        for site in _sites(line):
            bounds = intervals(plan, line, site)
            known = {
                "recipe": word(line.title),
                "target": word(line.target),
                "site": word(site),
                "seeds_done": line.done,
            }
            known |= {"subjects": len(subject_ids(line, site)), "cases": len(case_names(line, site))}
            base = reference(lines, plan, line.target)
            for metric in dict.fromkeys(key.removeprefix("undefined/") for key in line.metrics.get(site, {})):
                values = line.metrics[site].get(metric, ())
                if not values and not undefined_cases(line, site, metric):
                    continue
                low, high = bounds.get(metric, ("", ""))
                row = {**known, "metric": metric, "mean": fmean(values) if values else "", "low": low, "high": high}
                row |= {"sd_over_seeds": stdev(values) if len(values) > 1 else ""}
                rows.append(row | _counts(plan, line, base, site, metric))
    return write_rows(out / "metrics.csv", METRIC_COLUMNS, rows)


def _counts(plan: Plan, line: Line, base: Line | None, site: str, metric: str) -> dict[str, Any]:
    """Of a metric of single cases how many are undefined, and the difference over the rest."""
    counts: dict[str, Any] = {"undefined_cases": undefined_cases(line, site, metric)}
    if base is not None and line is not base:
        both = paired_scores(plan, line, base, site, metric)
        if both.subjects:
            counts |= {"paired_cases": both.cases, "difference": fmean(both.ours - both.theirs)}
    return counts


def join_files(path: Path, parts: Mapping[str, tuple[str, Path]]) -> Path:
    """Write the rows of several such files into one, behind the columns ``part`` and ``source``.

    Args:
        parts: a part's name -> its source sites, joined by a plus, and its file.
    """
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    for part, (source, each) in parts.items():
        with open(each, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows += [{"part": word(part), "source": word(source), **row} for row in reader]
            columns = ["part", "source", *(reader.fieldnames or ())]
    return write_rows(path, columns, rows)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write a CSV file with a header, whole or not at all; a column that a row lacks is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
    return path


def _sites(line: Line) -> list[str]:
    """The target, and wherever else the line was judged."""
    judged = {site for run in line.runs for site in run.tests}
    return [line.target, *sorted(judged - {line.target})]


def _base(line: Line, base: Line, site: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row that a line is compared with, and that it cannot be where that one has no score."""
    lacks = line.score(site) is not None and base.score(site) is None
    note = f"{base.title} {'has no score here' if base.done else 'failed'}" if lacks else row.get("note", "")
    return {"compared_with": word(base.title), "note": note}


def _row(plan: Plan, line: Line, site: str, compared: Comparison | None) -> dict[str, Any]:
    low, high = score_interval(plan, line, site) or (None, None)
    row: dict[str, Any] = {
        "recipe": word(line.title),
        "target": word(line.target),
        "site": word(site),
        "metric": plan.headline,
    }
    row |= {"verdict": line.verdict if site == line.target else "", "seeds_done": line.done, "seeds": len(line.runs)}
    row |= {"subjects": len(subject_ids(line, site)), "mean": line.score(site), "sd_over_seeds": line.spread(site)}
    row |= {"cases": len(case_names(line, site)), "undefined_cases": undefined_cases(line, site, plan.headline)}
    row |= {"low": low, "high": high}
    if compared is not None:
        row |= {"paired_subjects": compared.subjects, "difference": compared.difference, "difference_low": compared.low}
        row |= {
            "difference_high": compared.high,
            "p": compared.p,
            "p_adjusted": compared.adjusted,
            "cohen_dz": compared.effect,
        }
        row |= {"rank_biserial": compared.rank_biserial, "note": compared.note, "paired_cases": compared.cases or None}
        row |= {"sd_of_differences": compared.sd, "false_claim": compared.false_claim}
        if compared.sd is not None:
            reach = reach_of(
                compared.sd, compared.subjects, compared.rows, plan.statistics, exact=compared.rank_biserial is not None
            )
            row |= {"subjects_needed": reach.needed, "smallest_difference": reach.smallest}
    row |= {key: value if (value := line.cost(key)) is None or value % 1 else int(value) for key in COSTS}
    row["predict_seconds_per_100"] = line.predict_seconds(site)
    return {key: "" if value is None else value for key, value in row.items()}


def word(text: str) -> str:
    """A name that no spreadsheet takes for a formula.

    >>> word("=1+1"), word("chase")
    ("'=1+1", 'chase')
    """
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
