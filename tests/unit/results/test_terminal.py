"""The table in terminals of 80, 100 and 120 columns: names stay, details go."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.unit.report.test_report import a_study, a_table, standing

from allograft.results.select import Line
from allograft.results.table import _wrapped, print_tables, table_of
from allograft.study.plan import Plan
from allograft.study.spec import Study

LONG = "finetune scope=top first=(reconstruction steps=4000) learning_rate=0.0003"
SNAPSHOTS = {
    80: """
                                         vs.                       p,
 recipe                 at chase  supervised        95 % of it   Holm    runs
 ─────────────────────────────────────────────────────────────────────────────
    supervised     0.424 ± 0.006                                       3 of 3
    fourier        0.557 ± 0.009      +0.134  +0.120 to +0.147  0.008  3 of 3
    beta=0.02
 *! finetune       0.716 ± 0.007      +0.292  +0.275 to +0.309  0.008  3 of 3
    scope=top
""",
    100: """
                                                             vs.                       p,
 recipe                     at chase  subjects' 95 %  supervised        95 % of it   Holm    runs
 ─────────────────────────────────────────────────────────────────────────────────────────────────
    supervised         0.424 ± 0.006  0.327 to 0.527                                       3 of 3
    fourier beta=0.02  0.557 ± 0.009  0.456 to 0.654      +0.134  +0.120 to +0.147  0.008  3 of 3
 *! finetune           0.716 ± 0.007  0.594 to 0.812      +0.292  +0.275 to +0.309  0.008  3 of 3
    scope=top
""",
    120: """
                                                              vs.                       p,          train
 recipe                      at chase  subjects' 95 %  supervised        95 % of it   Holm    runs      s
 ─────────────────────────────────────────────────────────────────────────────────────────────────────────
    supervised          0.424 ± 0.006  0.327 to 0.527                                       3 of 3    9.1
    fourier beta=0.02   0.557 ± 0.009  0.456 to 0.654      +0.134  +0.120 to +0.147  0.008  3 of 3   19.5
 *! finetune scope=top  0.716 ± 0.007  0.594 to 0.812      +0.292  +0.275 to +0.309  0.008  3 of 3   40.5
""",
}


@pytest.fixture(scope="module")
def table() -> tuple[Study, Plan, tuple[Line, ...]]:
    study = a_study()
    plan, lines = a_table(study, subjects=9)
    return study, plan, standing(study, plan, lines).lines


def printed(study: Study, plan: Plan, lines: tuple[Line, ...], width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    print_tables(study, plan, lines, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in shown.splitlines()]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_snapshot(width: int, table: tuple[Study, Plan, tuple[Line, ...]]) -> None:
    shown = printed(*table, width)
    start, wanted = shown.index(""), SNAPSHOTS[width].splitlines()[1:]
    assert shown[start + 1 : start + 1 + len(wanted)] == wanted


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 240])
def test_no_name_and_no_number_is_cut(width: int, table: tuple[Study, Plan, tuple[Line, ...]]) -> None:
    study, plan, lines = table
    long = tuple(replace(line, title=LONG) if line.title.startswith("finetune") else line for line in lines)
    shown = printed(study, plan, long, width)
    assert max(map(len, shown)) <= width
    assert "…" not in "".join(shown)
    letters = "".join("".join(shown).split())  # a word wider than its column is folded
    assert all(word in letters for word in (*LONG.split(), "beta=0.02", "+0.292"))


@pytest.mark.parametrize("width", [26, 31, 40])
def test_a_name_is_wrapped_below_its_words(width: int) -> None:
    first, *rest = _wrapped("*  " + LONG, width).split("\n")
    assert first.startswith("*  ")
    assert rest
    assert all(line.startswith("   ") and line[3] != " " for line in rest)
    assert max(map(len, (first, *rest))) <= width
    assert " ".join(line[3:] for line in (first, *rest)) == LONG


def test_columns_go_in_turn_and_are_named(table: tuple[Study, Plan, tuple[Line, ...]]) -> None:
    gone: list[str] = []
    every = {str(column.header).replace("\n", " ") for column in table_of(*table, "chase", 260).columns}
    for width in range(180, 76, -4):
        made = table_of(*table, "chase", width)
        here = {str(column.header).replace("\n", " ") for column in made.columns}
        lost = sorted(every - here - set(gone))
        gone += lost
        for name in gone:
            said = "also evaluated at" if name in ("at drive", "at stare") else name
            assert said in str(made.caption), (width, name)
    assert gone == ["MB", "tuned", "worst site", "at stare", "at drive", "train s", "subjects' 95 %"]
    assert every - set(gone) == {"recipe", "at chase", "vs. supervised", "95 % of it", "p, Holm", "runs"}
