"""A head-to-head as CSV files: a row per case, and a row per site and metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from allograft.results.csv_files import word, write_rows
from allograft.results.head_to_head import HeadToHead, metrics_of, ordinals_of, scores_of

SUMMARY = (
    *("site", "metric", "better", "subjects", "cases", "undefined_a", "undefined_b", "a", "b"),
    *("difference", "low", "high", "p", "p_adjusted", "false_claim", "cohen_dz", "rank_biserial", "note"),
)


def write_cases(path: Path, compared: HeadToHead) -> Path:
    """``cases.csv``: a row a case, every score of both and their difference; cases that are left
    out come last, with the reason. It names patients.

    Raises:
        OutputError: the file cannot be written.
    """
    a, b = compared.names
    metrics = metrics_of(compared.a, compared.headline)
    known, rows = ordinals_of(compared), list[dict[str, Any]]()
    for first, second in zip(compared.a, compared.b, strict=True):
        row = _named(first["case"], str(first["subject"]), first["site"], known)
        for metric, first_score, other in _both(metrics, first, second):
            row |= {f"{metric} {a}": _cell(first_score), f"{metric} {b}": _cell(other)}
            row[f"{metric} difference"] = "" if first_score is None or other is None else other - first_score
        rows.append(row)
    rows += [
        _named(first_score.case, first_score.subject, first_score.site, known)
        | {"note": word(f"left out: {first_score.name} {first_score.reason}")}
        for first_score in compared.unmatched
    ]
    columns = [f"{metric} {what}" for metric in metrics for what in (a, b, "difference")]
    return write_rows(path, ("case", "subject", "site", "ordinal", *columns, "note"), rows)


def _both(
    metrics: Sequence[str], first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, float | None, float | None]]:
    first_scores, other = scores_of(first), scores_of(second)
    return [(metric, first_scores.get(metric), other.get(metric)) for metric in metrics]


def _named(case: str, subject: str, site: str, known: Mapping[str, str]) -> dict[str, Any]:
    return {"case": word(case), "subject": word(subject), "site": word(site), "ordinal": known[subject]}


def _cell(value: Any) -> Any:
    return "" if value is None else value


def write_summary(path: Path, compared: HeadToHead) -> Path:
    """``summary.csv``: a row a site and metric, ``a`` and ``b`` the scores of the two and
    ``difference`` the second less the first.

    Raises:
        OutputError: the file cannot be written.
    """
    rows = []
    for difference in compared.differences:
        row: dict[str, Any] = {
            "site": word(difference.site),
            "metric": difference.metric,
            "a": difference.a,
            "b": difference.b,
        }
        row["better"] = "lower" if difference.is_lower_better else "higher"
        if (it := difference.found) is not None:
            row |= {"subjects": it.subjects, "cases": it.cases, "difference": it.difference, "low": it.low}
            row |= {"undefined_a": it.undefined[0], "undefined_b": it.undefined[1], "high": it.high, "p": it.p}
            row |= {"p_adjusted": it.adjusted, "false_claim": it.false_claim, "cohen_dz": it.effect}
            row |= {"rank_biserial": it.rank_biserial, "note": it.note}
        rows.append({key: _cell(value) for key, value in row.items()})
    return write_rows(path, SUMMARY, rows)
