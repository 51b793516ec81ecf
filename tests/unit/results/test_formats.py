"""The table for other programs, read back and compared with ``results.csv``."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from tests.unit.report.test_report import a_study, a_table, standing

from allograft.errors import OutputError, SpecError
from allograft.results.csv_files import COLUMNS, WORDS, write_results
from allograft.results.formats import formatted

SITE = "st_a|r & 50 %"
"""A name that is hard on Markdown and LaTeX."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = a_study(target=["chase", SITE])
    plan, table = a_table(study, subjects=9)
    return write_results(tmp_path_factory.mktemp("out"), plan, standing(study, plan, table).lines)


@pytest.fixture(scope="module")
def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_csv_is_the_file_itself(file: Path) -> None:
    assert formatted(file, "csv").encode() == file.read_bytes()


def test_json_has_every_number_in_full(file: Path, rows: list[dict[str, str]]) -> None:
    found = json.loads(formatted(file, "json"))
    assert [list(one) for one in found] == [list(COLUMNS)] * len(rows)
    for made, row in zip(found, rows, strict=True):
        for key, value in made.items():
            assert value == row[key] if key in WORDS else (value is None) == (row[key] == "")
            if key not in WORDS and value is not None:
                assert value == float(row[key])


def check(heads: list[str], body: list[list[str]], rows: list[dict[str, str]]) -> None:
    """Cells that were read back against the file, rounded as they are printed."""
    kept = [row for row in rows if row["site"] == row["target"]]
    assert heads[:3] == ["target", "recipe", "dice"]
    assert len(body) == len(kept) == 6
    for cells, row in zip(body, kept, strict=True):
        assert len(cells) == len(heads)
        assert cells[:2] == [row["target"], row["recipe"]]
        assert cells[2] == f"{float(row['mean']):.3f}"
        assert cells[4] == f"{float(row['low']):.3f} to {float(row['high']):.3f}"
        assert cells[5] == (f"{float(row['difference']):+.3f}" if row["difference"] else "")
        assert cells[7] == (f"{float(row['p_adjusted']):.3f}" if row["p_adjusted"] else "")
        assert cells[8] == f"{row['seeds_done']} of {row['seeds']}"


def test_markdown_reads_back(file: Path, rows: list[dict[str, str]]) -> None:
    heads, rule, *body = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in formatted(file, "markdown").splitlines()
    ]
    assert rule == [":--"] * 2 + ["--:"] * 8
    check(heads, body, rows)


def test_latex_reads_back(file: Path, rows: list[dict[str, str]]) -> None:
    lines = formatted(file, "latex").splitlines()
    assert lines[0] == r"% in the preamble: \usepackage{booktabs}"
    assert lines[1] == r"\begin{tabular}{llrrrrrrrr}"
    assert lines[-1] == r"\end{tabular}"
    cells = [re.split(r"(?<!\\)&", line.removesuffix(r" \\")) for line in lines if line.endswith(r"\\")]
    plain = [[re.sub(r"\\([&%$#_{}])", r"\1", cell.replace("$", "")).strip() for cell in row] for row in cells]
    check(plain[0], plain[1:], rows)
    assert r"st\_a|r \& 50 \%" in "\n".join(lines)


def test_an_empty_table_has_headings(tmp_path: Path) -> None:
    empty = tmp_path / "results.csv"
    empty.write_text(",".join(COLUMNS) + "\n")
    assert json.loads(formatted(empty, "json")) == []
    assert formatted(empty, "markdown").count("\n") == 2
    assert list(csv.reader(io.StringIO(formatted(empty, "csv")))) == [list(COLUMNS)]


def test_what_is_asked_wrongly_is_named(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"--format html: expected csv, json, markdown or latex"):
        formatted(tmp_path / "results.csv", "html")
    with pytest.raises(OutputError, match=r"results\.csv: not found"):
        formatted(tmp_path / "results.csv", "json")
