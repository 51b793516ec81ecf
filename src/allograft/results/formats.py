"""The table of a study for other programs: ``results.csv`` as CSV, JSON, Markdown or LaTeX."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

from allograft.errors import OutputError, SpecError
from allograft.results.csv_files import WORDS
from allograft.results.table import p_value

Format = Literal["csv", "json", "markdown", "latex"]
Row = Mapping[str, str]
_LATEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def formatted(file: Path, form: str) -> str:
    """A ``results.csv`` in another form, with a line break at its end.

    CSV and JSON hold every column and every site, numbers in full. Markdown and LaTeX hold what a
    paper prints: each row at its target, rounded.

    Raises:
        SpecError: no such form.
        OutputError: no such file.
    """
    check_form(form)
    if not file.exists():
        raise OutputError(f"{file}: not found; expected the table of a study there; run 'allograft study' first")
    text = file.read_text(encoding="utf-8")
    if form == "csv":
        return text
    rows = list(csv.DictReader(text.splitlines()))
    if form == "json":
        return json.dumps([_typed(row) for row in rows], indent=2, ensure_ascii=False) + "\n"
    heads, body = _printed(rows)
    return _markdown(heads, body) if form == "markdown" else _latex(heads, body)


def check_form(form: str) -> None:
    """``SpecError`` where there is no such form.

    >>> check_form("yaml")
    Traceback (most recent call last):
    allograft.errors.SpecError: --format yaml: expected csv, json, markdown or latex
    """
    if form not in get_args(Format):
        *others, last = get_args(Format)
        raise SpecError(f"--format {form}: expected {', '.join(others)} or {last}")


def _typed(row: Row) -> dict[str, str | int | float | None]:
    """Words as they are, numbers as numbers, empty cells as null."""
    return {key: value if key in WORDS else _number(value) for key, value in row.items()}


def _number(text: str) -> int | float | None:
    if not text:
        return None
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _printed(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of each row at its target."""
    at_target = [row for row in rows if row["site"] == row["target"]]
    first = [name for name in ("part", "target", "recipe") if at_target and name in at_target[0]]
    metric = at_target[0]["metric"] if at_target else "score"
    heads = [*first, metric, "sd over seeds", "95 %", "difference", "95 % of it", "p", "seeds", "train s"]
    body = [
        [
            *(row[name] for name in first),
            _rounded(row["mean"]),
            _rounded(row["sd_over_seeds"]),
            _between(row["low"], row["high"]),
            _rounded(row["difference"], "+"),
            _between(row["difference_low"], row["difference_high"], "+"),
            p_value(float(row["p_adjusted"])) if row["p_adjusted"] else "",
            f"{row['seeds_done']} of {row['seeds']}",
            f"{float(row['train_seconds']):.1f}" if row["train_seconds"] else "",
        ]
        for row in at_target
    ]
    return heads, body


def _rounded(text: str, sign: str = "") -> str:
    return f"{float(text):{sign}.3f}" if text else ""


def _between(low: str, high: str, sign: str = "") -> str:
    return f"{_rounded(low, sign)} to {_rounded(high, sign)}" if low and high else ""


def _markdown(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    words = sum(head in ("part", "target", "recipe") for head in heads)
    rule = [":--"] * words + ["--:"] * (len(heads) - words)
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in (heads, *body)]
    lines = [" | ".join(row) for row in (escaped[0], rule, *escaped[1:])]
    return "".join(f"| {line} |\n" for line in lines)


def _latex(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    words = sum(head in ("part", "target", "recipe") for head in heads)
    rows = [" & ".join(map(_escaped, row)) + r" \\" for row in (heads, *body)]
    lines = [
        r"% in the preamble: \usepackage{booktabs}",
        rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(heads) - words)}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Words in which LaTeX finds no command; a minus is one."""
    safe = "".join(_LATEX.get(letter, letter) for letter in text)
    number = text[:1] in "+-" and text[1:2].isdigit()
    return safe.replace("-", "$-$").replace("+", "$+$").replace("<", "$<$") if number or text[:1] == "<" else safe
