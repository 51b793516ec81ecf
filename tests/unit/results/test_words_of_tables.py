"""The words around a table, and the costs and earlier runs that it counts."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.results.test_select import a_plan as selected_plan
from tests.unit.results.test_select import a_record
from tests.unit.results.test_select import a_study as selected
from tests.unit.results.test_verdict import FREE, FULL, TOP, a_study, planted, scored
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.results.caption import caption_of, notes_of, reference_note, signs_of, undefined_note
from allograft.results.comparison import Comparison, compare
from allograft.results.costs import training_cost, unit_seconds
from allograft.results.earlier_runs import as_recorded
from allograft.results.scores import intervals
from allograft.results.select import lines
from allograft.results.table import print_tables, table_of
from allograft.study.plan import Plan


def test_signs_and_notes_are_numbered_from_one_each_once() -> None:
    compared = {
        "a": Comparison(3, 0.1, note="few"),
        "b": Comparison(3, 0.1),
        "c": Comparison(3, 0.2, note="none"),
        "d": Comparison(3, 0.1, note="few"),
    }
    assert notes_of(compared) == {"few": "(1)", "none": "(2)"}
    line: Any = SimpleNamespace(chosen=True, verdict="change; forgets")
    assert signs_of(line) == "*! "
    assert signs_of(SimpleNamespace(chosen=False, verdict="loses")) == "!  "  # type: ignore[arg-type]


def test_the_caption_says_how_it_was_tested_and_what_was_left_out() -> None:
    study = a_study(statistics={"alternative": "greater", "adjustment": "bonferroni"})
    plan, table = planted(study, scored({TOP: 0.2}))
    compared = compare(table, plan, "b")
    hidden = [("at home", "home"), ("MB", ""), ("at away", "away")]
    text = caption_of(study, plan, table, compared, hidden, about_rows=["", "about"], is_measured=True)
    assert "p: exact Wilcoxon, greater, Bonferroni over rows." in text
    assert "also evaluated at home, away: see results.csv" in text
    assert "no room for MB: see results.csv" in text
    assert "\nabout\n" in text
    pooled = {row: replace(one, rank_biserial=None) for row, one in compared.items()}
    assert "p: DeLong, greater" in caption_of(study, plan, table, pooled, [], about_rows=[], is_measured=True)
    bare = caption_of(study, plan, table, {}, [], about_rows=[], is_measured=False)
    assert "The unit is the subject" not in bare


def test_what_a_row_leaves_out_is_said_of_the_most_cases_that_a_row_has() -> None:
    study = a_study()
    plan, table = planted(study, scored({TOP: 0.2, FULL: 0.1}))

    def changed(line: Any, cases: Any) -> Any:
        runs = tuple(
            replace(run, tests={"b": tuple(replace(r, cases=tuple(cases(r.cases))) for r in run.tests["b"])})
            for run in line.runs
        )
        return replace(line, runs=runs)

    lacking = changed(
        table[1], lambda cases: [{**case, "dice": None if n < 2 else case["dice"]} for n, case in enumerate(cases)]
    )
    fewer = changed(table[0], lambda cases: cases[:7])
    here = [fewer, lacking, table[2]]
    text = undefined_note(plan, here, compare(here, plan, "b"), "b")
    assert text.startswith("Cases of 12 where dice is undefined")
    assert f"supervised 0, {TOP} 2 (5 cases compared), {FULL} 0 (7 cases compared)" in text
    assert undefined_note(plan, table, {}, "b") == ""


def test_a_reference_without_a_score_is_said_to_have_none_or_to_have_failed() -> None:
    study = a_study(reference="fourier")
    plan, table = planted(study, scored({TOP: 0.2}), failed=(FREE,))
    named = replace(plan, reference=FREE)
    assert "fourier failed at b" in reference_note(named, table, "b")
    line = next(one for one in table if one.title == FREE)
    unscored = replace(line, runs=tuple(replace(run, error="") for run in line.runs))
    assert "fourier has no score at b" in reference_note(
        named, [unscored if one is line else one for one in table], "b"
    )


def test_the_table_shows_every_further_site_and_every_error(capsys: pytest.CaptureFixture[str]) -> None:
    study = a_study(target=["b", "c"], source=["home"])
    plan, table = planted(replace(study, target=("b",)), scored({TOP: 0.2}), failed=(FULL,))
    made = table_of(study, plan, table, "b", 400)
    heads = [str(column.header).replace("\n", " ") for column in made.columns]
    assert heads[1] == "at b"
    assert {"at home", "at c"} <= {*heads}
    cells = {head: [*column.cells] for head, column in zip(heads, made.columns, strict=True)}
    line = next(one for one in table if one.title == TOP)
    at = [*cells["recipe"]].index(next(cell for cell in cells["recipe"] if TOP in str(cell)))
    assert cells["at b"][at] == f"{line.score('b'):.3f} ± {line.spread('b'):.3f}"
    assert cells["train s"][at] == "30.0"
    assert cells["MB"][at] == "1"
    assert cells["95 % of it"][at].startswith("+")
    errors = [
        replace(run, error=f"broke {n}") for n, run in enumerate(next(one for one in table if one.title == FULL).runs)
    ]
    broken = [replace(one, runs=tuple(errors)) if one.title == FULL else one for one in table]
    print_tables(replace(study, target=("b",)), plan, broken)
    said = capsys.readouterr().out
    assert f"{FULL} -> b: broke 0" in said
    assert f"{FULL} -> b: broke 1" in said


# ---------------------------------------------------------- costs, and runs of earlier versions
def test_seconds_of_a_unit_are_those_of_its_last_stage_and_a_source_model_that_one_has_is_not_counted() -> None:
    plan = selected_plan(selected())
    row = plan.rows[0]
    records = [
        replace(a_record(row, 0.5, stage=f"s{n}", ordinal=n), cost={"train_seconds": float(10 * (n + 1))})
        for n in (1, 0, 2)
    ]
    assert unit_seconds([*records, replace(records[0], unit="bare", cost={})]) == {row.unit: 30.0}
    assert training_cost(SimpleNamespace(cost=lambda key: None), None, {}) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "taken"),
    [
        ({}, True),
        ({"fold": 1}, False),
        ({"seed": 1}, False),
        ({"site": "c"}, False),
        ({"target": "c"}, False),
        ({"target": "c+b"}, True),
        ({"target": None}, True),
        ({"target": "c", "status": "failed"}, True),
        ({"recipe": {"title": "another"}}, False),
        ({"part": "val"}, False),
    ],
)
def test_a_unit_of_an_earlier_version_stands_for_the_same_question_alone(changes: dict[str, Any], taken: bool) -> None:
    plan = selected_plan(selected(seeds=1))
    row = next(one for one in plan.rows if title(one.recipe) == "finetune")
    record = replace(a_record(row, 0.5), unit="old", recipe={"title": title(row.recipe)})
    found = as_recorded(plan, [replace(record, **changes)])
    assert [one.unit for one in found.rows if title(one.recipe) == "finetune"] == (["old"] if taken else [row.unit])
    both = as_recorded(plan, [record, a_record(row, 0.5)])
    assert both == plan


def test_a_grid_costs_the_trainings_of_all_its_settings_each_shared_one_once() -> None:
    def run(own: str, *inner: str) -> Any:
        nodes = tuple(SimpleNamespace(key=key) for key in (*inner, own))
        return SimpleNamespace(error="", row=SimpleNamespace(nodes=nodes, unit=own), passed_over=())

    seconds = {"source": 100.0, "shared": 10.0, "mine": 1.0, "other": 5.0}
    chosen = run("mine", "source", "shared", "below mine")
    chosen.passed_over = (run("other", "source", "shared", "below other"),)
    line: Any = SimpleNamespace(cost=lambda key: 6.0, runs=[chosen])
    source: Any = SimpleNamespace(cost=lambda key: 100.0, runs=[run("source")])
    known = {**seconds, "below mine": 2.0, "below other": 3.0}
    found = training_cost(line, source, known)
    assert found is not None
    # beside its own 6: the source model, what both settings share, and what each is built on
    assert (found.alone, found.given, found.is_shared) == (6 + 100 + 10 + 2 + 3, 6 + 10 + 2 + 3, True)
    assert training_cost(line, source, seconds) is None
    alone = training_cost(source, source, known)
    assert alone is not None
    assert (alone.alone, alone.given) == (100.0, 0.0)


@pytest.mark.parametrize(
    ("metric", "stays"),
    [
        ("dice", True),
        ("iou", True),
        ("ssim", True),
        ("surface_dice", True),
        ("surface_dice/vessel", True),
        ("hd95", False),
    ],
)
def test_the_interval_of_a_share_stays_between_0_and_1(metric: str, stays: bool) -> None:
    row = a_row(parse_recipe("finetune"), "b", 0, 0, "u")
    values = [0.999, 0.999, 0.999, 0.8]
    cases = tuple({"case": f"{n}", "subject": f"{n}", "dice": 0.5, metric: value} for n, value in enumerate(values))
    plan = Plan((row,), 1, selected().made_task)
    record = replace(a_record(row, 0.5), cases=cases)
    line = replace(lines(plan, {record.name: record}, "last")[0], metrics={"b": {metric: (0.95,)}})
    low, high = intervals(plan, line, "b")[metric]
    assert low < 0.95 < high
    assert (high <= 1) == stays
