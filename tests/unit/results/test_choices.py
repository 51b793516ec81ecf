"""What a line of the table is made of: all of its seeds, folds, stages and settings, and of each the
records that belong to it and no others."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
from tests.unit.results.analysis.test_selection import a_pool
from tests.unit.results.test_select import a_record, a_study, kept
from tests.unit.tiny import a_row

from allograft.methods.finetune import Finetune
from allograft.methods.supervised import Supervised
from allograft.methods.target_supervised import TargetSupervised
from allograft.results.record import Record
from allograft.results.scores import (
    _ANSWERED,
    case_names,
    drawn,
    labelled_subjects,
    seed_areas,
    seed_cases,
    seed_scores,
    subject_ids,
    subject_scores,
    undefined_cases,
)
from allograft.results.select import Chosen, Line, lines
from allograft.study.keys import Question
from allograft.study.plan import Plan, Row
from allograft.tasks.classification import Classification


def plan_of(*rows: Row, seeds: int = 1) -> Plan:
    return Plan(rows, seeds, a_study().made_task)


def a_line(plan: Plan, *records: Record, rule: str = "last") -> Line:
    return lines(plan, kept(*records), rule)[0]


def failed(row: Row, **changes: Any) -> Record:
    return replace(a_record(row, 0.0), stage="failed", status="failed", error="broke", **changes)


# ---------------------------------------------------------- costs
def test_a_cost_is_the_mean_over_the_finished_seeds_and_seconds_are_those_of_all_settings() -> None:
    rows = [a_row(Finetune(), "b", seed, 0, f"u{seed}") for seed in range(3)]
    made = [
        replace(a_record(row, 0.5), cost={"train_seconds": 10.0 + row.seed, "peak_memory_mb": 7.0 - row.seed})
        for row in rows
    ]
    line = a_line(plan_of(*rows, seeds=3), made[0], made[1], failed(rows[2]))
    assert (line.done, len(line.runs)) == (2, 3)
    assert (line.cost("train_seconds"), line.cost("peak_memory_mb"), line.cost("nothing")) == (10.5, 6.5, None)
    others = [
        Chosen(
            row, "end", {"b": (replace(record, cost={"train_seconds": 100.0 * (n + 1), "peak_memory_mb": 99.0}),)}, None
        )
        for n, (row, record) in enumerate(zip(rows, made, strict=True))
    ]
    runs = tuple(replace(run, passed_over=tuple(others[: 2 - n])) for n, run in enumerate(line.runs))
    grid = replace(line, runs=runs)
    # 100 and 200 of the first seed, 100 of the second
    assert grid.cost("train_seconds") == 10.5 + 400 / 2
    assert grid.cost("peak_memory_mb") == 6.5


def test_a_cost_is_of_any_site_that_has_one() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    first = replace(a_record(row, 0.5, site="a"), cost={"predict_seconds": 1.0})
    assert a_line(plan_of(row), first, a_record(row, 0.5)).cost("train_seconds") == 2.0


def test_seconds_to_predict_are_per_case_over_all_folds_of_a_site() -> None:
    rows = [a_row(Finetune(), "b", seed, fold, f"u{seed}{fold}") for seed in range(2) for fold in range(2)]
    made = []
    for number, row in enumerate(rows):
        record = a_record(row, 0.5)
        cases = record.cases[: 1 + row.fold]
        made.append(replace(record, cases=cases, cost={"predict_seconds": float(number + 1)}))
    at_home = replace(a_record(rows[0], 0.5, site="a"), cost={"predict_seconds": 50.0})
    line = a_line(plan_of(*rows, seeds=2), *made, at_home)
    assert line.predict_seconds("b") == fmean([100 * (1 + 2) / 3, 100 * (3 + 4) / 3])
    assert line.predict_seconds("a") == 100 * 50 / 2
    assert line.predict_seconds("elsewhere") is None
    untimed = [replace(made[0], cost={}), *made[1:]]
    assert a_line(plan_of(*rows, seeds=2), *untimed).predict_seconds("b") == 100 * 7 / 3


# ---------------------------------------------------------- scores
def test_scores_of_a_line_leave_out_failed_seeds_and_sites_without_a_value() -> None:
    rows = [a_row(Finetune(), "b", seed, 0, f"u{seed}") for seed in range(3)]
    made = [a_record(row, 0.2 + 0.2 * row.seed) for row in rows[:2]]
    home = [a_record(row, 0.9 - 0.2 * row.seed, site="a") for row in rows[:2]]
    line = a_line(plan_of(*rows, seeds=3), *made, *home, a_record(rows[0], None, site="c"), failed(rows[2]))
    assert line.score("b") == pytest.approx(0.3)
    assert line.spread("b") == pytest.approx(0.02**0.5)
    assert line.worst == ("b", pytest.approx(0.3))
    assert (line.score("c"), line.is_measured("c"), line.spread("c")) == (None, True, None)
    assert (line.score("x"), line.is_measured("x")) == (None, False)
    assert {seed: len(cases) for seed, cases in seed_cases(line, "b").items()} == {0: 2, 1: 2}
    broken = replace(line, runs=tuple(replace(run, error="broke") for run in line.runs[:1]) + line.runs[1:])
    assert list(seed_cases(broken, "b")) == [1]


def test_weights_only_are_no_failure_and_a_failure_is_no_weights() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    weights = replace(a_record(row, 0.5), site="", part="weights", cases=(), metrics={})
    assert a_line(plan_of(row), weights).leaves_weights_only
    assert not a_line(plan_of(row), failed(row)).leaves_weights_only
    assert not a_line(plan_of(row), weights, a_record(row, 0.5)).leaves_weights_only


def test_labelled_subjects_are_the_mean_over_seeds_of_those_of_all_folds() -> None:
    rows = [a_row(Finetune(), "b", seed, fold, f"u{seed}{fold}") for seed in range(2) for fold in range(2)]
    seen = [("x",), ("x", "y"), ("z",), ("u", "v", "w")]
    made = [replace(a_record(row, 0.5), labelled_subjects=own) for row, own in zip(rows, seen, strict=True)]
    line = a_line(plan_of(*rows, seeds=2), *made)
    assert labelled_subjects(line, "b") == fmean([2, 4])
    assert labelled_subjects(line, "elsewhere") == 0.0
    assert subject_ids(line, "b") == {f"b{fold}{n}" for fold in range(2) for n in range(2)}
    assert case_names(line, "b") == {"0", "1"}


def test_a_metric_that_is_asked_for_is_the_one_that_is_given() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    record = a_record(row, 0.5)
    cases = tuple({**case, "iou": 0.25, "hd95": None if n else 3.0} for n, case in enumerate(record.cases))
    plan = plan_of(row)
    line = a_line(plan, replace(record, cases=cases))
    assert (seed_scores(plan, line, "b"), seed_scores(plan, line, "b", "iou")) == ({0: 0.5}, {0: 0.25})
    assert set(subject_scores(plan, line, "b", "iou").values()) == {0.25}
    assert set(subject_scores(plan, line, "b").values()) == {0.5}
    assert (undefined_cases(line, "b", "hd95"), undefined_cases(line, "b", "dice")) == (1, 0)


def test_the_area_of_a_class_is_its_own() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    chances = ((0.8, 0.1, 0.1), (0.3, 0.6, 0.1), (0.5, 0.2, 0.3), (0.1, 0.7, 0.2), (0.2, 0.2, 0.6), (0.4, 0.1, 0.5))
    cases = tuple(
        {"case": str(n), "subject": str(n), "label": n // 2, "probabilities": list(each)}
        for n, each in enumerate(chances)
    )
    plan = Plan((row,), 1, Classification(("x", "y", "z")))
    line = a_line(plan, replace(a_record(row, None), cases=cases))
    pooled = plan.task.aggregate(cases)
    for metric in ("auroc", "auroc/x", "auroc/y", "auroc/z"):
        assert seed_areas(plan, line, "b", metric)[0].value == pytest.approx(pooled[metric]), metric
    assert len({seed_areas(plan, line, "b", f"auroc/{name}")[0].value for name in "xyz"}) > 1
    assert seed_areas(plan, line, "b", "accuracy") == {}


def test_a_bootstrap_is_kept_for_the_same_task_and_cases_of_both_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        "allograft.results.scores.bootstrap_pooled", lambda *words: asked.append(words) or {"x": (0.0, len(asked))}
    )
    monkeypatch.setattr("allograft.results.scores._ANSWERED", type(_ANSWERED)())
    plan = Plan((), 1, Classification(("x", "y")))
    other = replace(plan, task=Classification(("x", "z")))
    one, two = [[{"subject": "a"}]], [[{"subject": "b"}]]
    calls: list[tuple[Any, ...]] = [
        (plan, one, None),
        (plan, two, None),
        (plan, one, two),
        (plan, two, one),
        (other, one, None),
    ]
    assert [drawn(*call)["x"][1] for call in calls] == [1, 2, 3, 4, 5]
    assert [drawn(*call)["x"][1] for call in calls] == [1, 2, 3, 4, 5]


# ---------------------------------------------------------- stages and settings
def staged(row: Row, *scores: tuple[float, float]) -> list[Record]:
    """(test, validation) of each stage."""
    made = []
    for ordinal, (test, val) in enumerate(scores):
        made.append(a_record(row, test, stage=f"s{ordinal}", ordinal=ordinal))
        made.append(a_record(row, val, site="a", part="val", stage=f"s{ordinal}", ordinal=ordinal))
    return made


def test_a_run_keeps_the_validation_of_its_chosen_stage_alone() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    (run,) = a_line(plan_of(row), *staged(row, (0.1, 0.9), (0.2, 0.4)), rule="source-val").runs
    assert (run.stage, run.val, run.rank) == ("s0", 0.9, 0.9)
    assert [record.stage for record in run.validation] == ["s0"]
    assert {record.stage for records in run.tests.values() for record in records} == {"s0"}


def test_the_oracle_sees_the_target_alone() -> None:
    row = a_row(Finetune(), "b", 0, 0, "u")
    home = [a_record(row, score, site="a", stage=f"s{n}", ordinal=n) for n, score in enumerate((0.99, 0.1))]
    (run,) = a_line(plan_of(row), *staged(row, (0.3, 0.0), (0.4, 0.0)), *home, rule="oracle").runs
    assert (run.stage, run.rank) == ("s1", 0.4)


def grid_rows(seed: int = 0) -> list[Row]:
    """A grid of three settings."""
    recipes = [Finetune(scope) for scope in ("top", "decoder", "full")]
    return [a_row(recipe, "b", seed, 0, f"g{number}.{seed}", line="a grid") for number, recipe in enumerate(recipes)]


def test_of_a_grid_the_best_setting_stands_and_the_others_are_passed_over() -> None:
    rows = grid_rows()
    made = [record for row, val in zip(rows, (0.3, 0.8, 0.5), strict=True) for record in staged(row, (0.5, val))]
    (run,) = a_line(plan_of(*rows), *made, rule="source-val").runs
    assert run.row is rows[1]
    assert [other.row for other in run.passed_over] == [rows[0], rows[2]]
    line = a_line(plan_of(*rows), *made, rule="source-val")
    assert line.title == "a grid"
    assert line.cost("train_seconds") == 6.0


def test_of_a_grid_a_failed_setting_is_shown() -> None:
    rows = grid_rows()
    made = [record for row in rows[:2] for record in staged(row, (0.5, 0.5))]
    (run,) = a_line(plan_of(*rows), *made, failed(rows[2]), rule="source-val").runs
    assert run.error == "broke"


def test_folds_are_chosen_together_and_of_their_own_seed() -> None:
    """One unit may serve two seeds; the second fold decides."""
    rows = [a_row(Finetune(), "b", 0, fold, f"u{fold}") for fold in range(2)]
    made = [*staged(rows[0], (0.5, 0.6), (0.5, 0.5)), *staged(rows[1], (0.7, 0.1), (0.7, 0.9))]
    strangers = [
        replace(record, seed=1) for record in staged(a_row(Finetune(), "b", 1, 2, "u0"), (0.9, 0.99), (0.0, 0.0))
    ]
    line = a_line(plan_of(*rows), *made, *strangers, rule="source-val")
    assert line.runs[0].stage == "s1"
    assert [record.fold for record in line.runs[0].tests["b"]] == [0, 1]
    assert line.scores["b"] == (pytest.approx(0.6),)


def test_a_question_about_several_sites_is_answered_by_the_subjects_of_all() -> None:
    row = replace(a_row(Finetune(), "b", 0, 0, "u"), question=Question("b+c", ("b", "c")))
    made = [a_record(row, 0.2), a_record(row, 0.8, site="c")]
    line = a_line(plan_of(row), *made)
    assert line.scores["b+c"] == (0.5,)
    assert [record.site for record in line.runs[0].tests["b+c"]] == ["b", "c"]


# ---------------------------------------------------------- rules that see no label
def watched(seed: int = 0, target: str = "b", *, also: Any = ()) -> tuple[Plan, list[Record]]:
    """Two stages: the second is surer of subjects 0 and 1, the first of the others."""
    row = a_row(Supervised(), "b", 0, 0, "u")
    pools = [a_pool(row, 0.6, stage="s0", memorised=0.1), a_pool(row, 0.4, stage="s1", ordinal=1, memorised=0.99)]
    tests = [a_record(row, 0.5, stage=f"s{n}", ordinal=n) for n in range(2)]
    others = [a_row(recipe, target, seed, 0, f"other{n}") for n, recipe in enumerate(also)]
    shown = [replace(a_pool(other, 0.5), labelled_subjects=("t0", "t1")) for other in others]
    # of the other seed nothing has run
    rest = [replace(other, seed=1 - seed, nodes=()) for other in others]
    every = (row, replace(row, seed=1, nodes=()), *others, *rest)
    return plan_of(*every, seeds=2), [*pools, *tests, *shown]


@pytest.mark.parametrize(
    ("where", "stage"),
    [
        ({}, "s1"),
        ({"also": [Finetune()]}, "s0"),
        ({"also": [Finetune()], "seed": 1}, "s1"),
        ({"also": [Finetune()], "target": "c"}, "s1"),
        ({"also": [TargetSupervised("all")]}, "s1"),
    ],
)
def test_subjects_whose_label_a_row_of_this_target_and_seed_saw_do_not_rank_it(
    where: dict[str, Any], stage: str
) -> None:
    plan, records = watched(**where)
    (run, *_) = a_line(plan, *records, rule="entropy").runs
    assert run.stage == stage


def test_images_of_another_site_rank_nothing_here() -> None:
    plan, records = watched()
    elsewhere = [
        replace(record, site="c", cases=record.cases) for record in records if record.part == "train-unlabelled"
    ]
    turned = [
        replace(record, stage={"s0": "s1", "s1": "s0"}[record.stage], ordinal=1 - record.ordinal)
        for record in elsewhere
    ]
    (run, *_) = a_line(plan, *records, *turned, rule="entropy").runs
    assert run.stage == "s1"
    (alone, *_) = a_line(plan, *(record for record in records if record.part == "test"), *turned, rule="entropy").runs
    assert alone.rank is None
