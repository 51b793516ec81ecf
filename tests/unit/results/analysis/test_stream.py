"""The matrix of a stream and what is read from it."""

from __future__ import annotations

import random

import pytest
from tests.unit.tiny import VESSEL, a_row

from allograft.recipe import parse_recipe
from allograft.results.analysis.stream import (
    End,
    against_sheet,
    backward_transfer,
    ends,
    ends_figure,
    forward_transfer,
    matrix_figure,
    score_matrix,
    stream_results,
    stream_sheet,
    zero_shot,
)
from allograft.results.record import Record
from allograft.study.plan import Plan

PHASES = (("a",), ("b", "c"), ("d",))
SCORES = {
    0: {"a": 0.9, "b": 0.4, "c": 0.2, "d": 0.1},
    1: {"a": 0.7, "b": 0.8, "c": 0.6, "d": 0.3},
    2: {"a": 0.5, "b": 0.6, "c": 0.6, "d": 0.9},
}
SEEN = (("a",), ("a", "b", "c"), ("a", "b", "c", "d"))


def records(unit: str = "u", shift: float = 0.0) -> list[Record]:
    made = []
    for stage, scores in SCORES.items():
        for site, value in scores.items():
            cases = tuple({"case": f"{site}{n}", "subject": f"{site}{n}", "dice": value + shift} for n in range(2))
            facts = {"models": stage + 1, "note": "words"}
            made.append(
                Record(
                    unit, {"name": "toy"}, 0, f"s{stage}", stage, site, "test", SEEN[stage], cases=cases, facts=facts
                )
            )
    random.Random(0).shuffle(made)
    return made


def test_an_entry_is_pooled_over_the_subjects_of_a_stages_sites() -> None:
    matrix = score_matrix(VESSEL, records(), PHASES)
    assert matrix is not None
    expected = ((0.9, 0.3, 0.1), (0.7, 0.7, 0.3), (0.5, 0.6, 0.9))
    assert [pytest.approx(row) for row in expected] == list(matrix)
    assert backward_transfer(matrix) == pytest.approx(((0.5 - 0.9) + (0.6 - 0.7)) / 2)
    assert forward_transfer(matrix) == pytest.approx(((0.7 - 0.3) + (0.9 - 0.3)) / 2)
    assert zero_shot(matrix) == pytest.approx((0.3 + 0.3) / 2)


def test_a_run_that_was_not_judged_after_every_stage_has_no_matrix() -> None:
    some = [record for record in records() if (record.stage, record.site) != ("s1", "d")]
    assert score_matrix(VESSEL, some, PHASES) is None


def test_an_undefined_entry_is_no_mean_of_the_others() -> None:
    assert backward_transfer(((0.9, 0.1, 0.2), (0.5, None, 0.3), (0.4, 0.6, 0.7))) is None
    assert zero_shot(((0.9, None), (0.5, 0.6))) is None


def test_the_sheet_says_transfer_and_facts_over_seeds() -> None:
    recipe = parse_recipe("supervised")
    rows = tuple(a_row(recipe, "stream", seed, 0, f"u{seed}") for seed in range(2))
    plan = Plan(rows, 2, VESSEL)
    (found,) = stream_results(plan, [*records("u0"), *records("u1", 0.02)], PHASES)
    assert len(found.matrices) == 2
    sheet = stream_sheet(plan, [found])
    told = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert told["backward transfer"] == "-0.250 ± 0.000"
    assert told["dice at the end"] == "0.677 ± 0.014"
    assert told["models"] == "3.000 ± 0.000"
    assert "note" not in told
    assert sheet.notes[-1] == f"{found.title}: note: words."
    figure = matrix_figure(found, PHASES)
    assert figure.rows == ("a", "b + c", "d")
    assert figure.values[2][0] == pytest.approx(0.51)


def test_rows_that_saw_the_whole_stream_are_compared_where_it_ended() -> None:
    named, joint = parse_recipe("sequential"), parse_recipe("joint_stream")
    rows = (a_row(named, "stream", 0, 0, "u0"), a_row(joint, "stream", 0, 0, "u1"))
    once = [record for record in records("u1", 0.05) if record.stage == "s2"]  # judged after the last stage alone
    every = [*records("u0"), *once]
    plan = Plan(rows, 1, VESSEL, primary="joint_stream")
    assert [one.title for one in stream_results(plan, every, PHASES)] == ["sequential"]
    found = ends(plan, every, PHASES)
    assert [one.title for one in found] == ["sequential", "joint_stream"]
    assert found[0].phases == pytest.approx((0.5, 0.6, 0.9))
    assert found[1].phases == pytest.approx((0.55, 0.65, 0.95))
    assert len({case["subject"] for case in found[0].cases[0]}) == 8
    figure = ends_figure(found, PHASES, "dice")
    assert figure.y["sequential"] == found[0].phases
    assert figure.x == (1, 2, 3)
    sheet = against_sheet(plan, found)
    assert sheet is not None
    assert sheet.rows == (("sequential", "8", "+0.050", "0.004", "0.004"),)  # 2^-8, one-sided
    other_way = against_sheet(Plan(rows, 1, VESSEL, primary="sequential"), found)
    assert other_way is not None
    assert other_way.rows[0][2:] == ("-0.050", "1.000", "1.000")
    assert against_sheet(Plan(rows, 1, VESSEL), found) is None
    many = End(
        "joint_stream",
        found[1].phases,
        {0: [{"case": f"c{k}", "subject": f"s{k}", "dice": 0.8 + k / 100} for k in range(12)]},
    )
    few = End(
        "sequential", found[0].phases, {0: [{"case": f"c{k}", "subject": f"s{k}", "dice": 0.7} for k in range(12)]}
    )
    surely = against_sheet(plan, [many, few])
    assert surely is not None
    assert surely.rows[0][3:] == ("<0.001", "<0.001")  # 2^-12, never 0.000
    assert ends(plan, records("u0")[:0], PHASES) == []
