"""A row that the study names as its reference: what the table compares with it, what the verdict
does not, and which rows are none."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.unit.results.test_verdict import FREE, FULL, TOP, a_study, planted

from allograft.errors import SpecError
from allograft.report.decision import decision_table
from allograft.results.comparison import TARGET_ALONE, compare, reference, verdict_reference
from allograft.results.csv_files import write_metrics, write_results
from allograft.results.evidence import verdicts_of
from allograft.results.select import Line
from allograft.results.table import reference_note, table_of
from allograft.study.plan import Plan
from allograft.study.spec import Study

SCORES = {
    "supervised": [0.1, 0.2, 0.3],
    FREE: [0.2, 0.4, 0.3],
    TOP: [0.4, 0.4, 0.4],
    FULL: [0.5, 0.4, 0.3],
}


def a_table(reference: Any = "fourier", failed: tuple[str, ...] = (), **changes: Any) -> tuple[Study, Plan, list[Line]]:
    study = a_study(reference=reference, **changes)
    scores = {row: values for row, values in SCORES.items() if row not in failed}
    plan, table = planted(study, scores, failed=failed)
    return study, replace(plan, reference=study.reference_title), table


def shown(study: Study, plan: Plan, table: list[Line]) -> str:
    file = io.StringIO()
    Console(width=400, file=file).print(table_of(study, plan, table, "b", 400))
    return " ".join(file.getvalue().split())


def read(path: Path) -> dict[str, dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return {row["recipe"]: row for row in csv.DictReader(file) if row["site"] == "b"}


def test_differences_and_intervals_are_to_the_row_that_is_named() -> None:
    _, plan, table = a_table()
    found = compare(table, plan, "b")
    assert set(found) == {"supervised", TOP, FULL}
    # -0.1, -0.2, 0; 0.2, 0, 0.1; 0.3, 0, 0
    assert [found[row].difference for row in ("supervised", TOP, FULL)] == pytest.approx([-0.1, 0.1, 0.1])
    # sd 0.1 over 3 subjects, t(0.975, 2) = 4.302653
    half = 4.302653 * 0.1 / 3**0.5
    assert (found[TOP].low, found[TOP].high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    assert found["supervised"].note == "cannot be significant with 3 subjects"


def test_the_terminal_the_files_and_the_report_compare_with_it_and_say_so(tmp_path: Path) -> None:
    study, plan, table = a_table()
    text = shown(study, plan, table)
    assert "vs. fourier: paired difference" in text
    assert "vs. supervised" not in text
    assert "The study names fourier as the reference" in text
    assert "The verdict and its marks compare with supervised." in text
    rows = read(write_results(tmp_path, plan, table))
    assert [rows[row]["compared_with"] for row in SCORES] == ["fourier", "", "fourier", "fourier"]
    assert float(rows["supervised"]["difference"]) == pytest.approx(-0.1)
    assert rows["fourier"]["difference"] == ""
    assert float(read(write_metrics(tmp_path, plan, table))[TOP]["difference"]) == pytest.approx(0.1)
    columns, rows_ = (made := decision_table(study, plan, table, "b")).columns, made.rows
    at = next(n for n, column in enumerate(columns) if column.name == "gain")
    assert columns[at].small == "vs. fourier"
    assert [(cells[0].text, cells[at].text) for _, cells in rows_][:2] == [("supervised", "−0.100"), ("fourier", "–")]
    assert "fourier" in next(column.hint for column in columns if column.name == "false")


def test_the_verdict_goes_on_asking_whether_to_change_the_model_as_it_is() -> None:
    named, plain = a_table(), a_table(None)
    assert verdicts_of(*named) == verdicts_of(*plain)
    verdict = verdicts_of(*named)["b"]
    assert (verdict.reference, verdict.looked_at) == ("supervised", TOP)
    assert verdict.gain == pytest.approx(0.2)
    assert reference_note(plain[1], plain[2], "b") == ""


def test_what_is_marked_is_worse_than_the_model_as_it_is_and_not_than_the_reference() -> None:
    study = a_study(reference={"finetune": {"scope": "top"}})
    plan, table = planted(study, SCORES, home={FREE: -0.05, FULL: -0.01})
    verdict = verdicts_of(study, replace(plan, reference=TOP), table)["b"]
    assert list(verdict.marks) == [FREE]  # fourier and finetune are 0.1 and 0 below the reference
    assert [mark.split()[0] for mark in verdict.marks[FREE]] == ["forgets"]


def test_where_no_row_does_nothing_the_verdict_compares_with_the_named_row_too() -> None:
    _, plan, table = a_table()
    others = [line for line in table if line.title != "supervised"]
    named, verdicts = reference(others, plan, "b"), verdict_reference(others, plan, "b")
    assert named is verdicts is not None
    assert named.title == "fourier"
    alone = [replace(line, title=TARGET_ALONE) if line.title == FULL else line for line in others]
    for asked, title in (("fourier", "fourier"), (None, TARGET_ALONE)):
        base = verdict_reference(alone, replace(plan, reference=asked), "b")
        assert base is not None
        assert base.title == title


def test_a_reference_that_failed_leaves_its_cells_empty_and_no_row_takes_its_place(tmp_path: Path) -> None:
    study, plan, table = a_table(failed=(FREE,))
    assert compare(table, plan, "b") == {}
    text = shown(study, plan, table)
    assert "vs. supervised" not in text
    assert "fourier failed at b, so no row is compared with it or with any other." in text
    rows = read(write_results(tmp_path, plan, table))
    assert {rows[row]["difference"] + rows[row]["p"] for row in SCORES} == {""}
    assert [rows[row]["note"] for row in SCORES] == ["fourier failed", "", "fourier failed", "fourier failed"]
    assert verdicts_of(study, plan, table)["b"].reference == "supervised"


def test_a_reference_that_failed_for_one_seed_is_compared_over_the_others() -> None:
    _, plan, table = a_table()
    half = [
        replace(line, runs=tuple(replace(run, tests={}) if n else run for n, run in enumerate(line.runs)))
        if line.title == FREE
        else line
        for line in table
    ]
    assert compare(half, plan, "b")[TOP].difference == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("adabn", "reference: expected a row of the table, written as in recipes; unknown row 'adabn'"),
        ({"finetune": {"scope": "decoder"}}, "did you mean 'finetune"),
        ({"target_supervised": {"labels": "all"}}, "reference: .* upper bound"),
        ("finetun", "did you mean 'finetune'"),
    ],
)
def test_a_wrong_reference_is_refused(reference: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        a_study(reference=reference)


def test_a_row_is_not_both_primary_and_reference() -> None:
    with pytest.raises(SpecError, match="'finetune' is the primary row too"):
        a_study(reference="finetune", primary="finetune")
    assert a_study(reference="fourier", primary="finetune").reference_title == "fourier"


def test_the_rows_that_every_study_has_can_be_named_and_no_unit_changes() -> None:
    plain, named = a_study(), a_study(reference={"supervised": {"augmentation": "strong"}})
    assert named.reference_title == "supervised augmentation=strong"
    assert (plain.settings, plain.rows) == (named.settings, named.rows)
