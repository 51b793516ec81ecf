"""Rules that need no label: what they choose, what they may not see, and how far each is from the
oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.results.test_select import TEST, TITLES, VAL, a_plan, a_record, a_study, chosen, kept, world
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.results.analysis.label_free import RULES
from allograft.results.analysis.selection import distance_sheet, distance_to_oracle
from allograft.results.record import Record
from allograft.results.select import lines
from allograft.study.plan import Plan, Row
from allograft.study.reading import make_study


def a_pool(
    row: Row, sure: float, *, stage: str = "end", ordinal: int = 0, memorised: float | None = None, subjects: int = 6
) -> Record:
    """Training images of the target: ``sure`` from 0 to 1 is how sure predictions are, half of them
    of each class.

    ``memorised`` is how sure they are for subjects 0 and 1, whose labels the run saw.
    """
    cases = []
    for n in range(subjects):
        level = sure if memorised is None or n > 1 else memorised
        share = 0.5 + level / 2 if n % 2 else 0.5 - level / 2
        cases.append(
            {"case": f"t{n}", "subject": f"t{n}", "entropy": 1 - level, "prediction": [share, 1 - share], "snd": level}
        )
    seen = () if title(row.recipe) == "supervised" else ("t0", "t1")
    return Record(
        row.unit,
        {},
        row.seed,
        stage,
        ordinal,
        "b",
        "train-unlabelled",
        target="b",
        fold=row.fold,
        labelled_subjects=seen,
        cases=tuple(cases),
    )


SURE = dict(zip(TITLES, (0.2, 0.6, 0.4), strict=True))


def watched_world(plan: Plan, sure: dict[str, float], **more: Any) -> dict[str, Record]:
    """``finetune scope=top`` is surest, ``finetune`` is listed last, ``supervised`` is best on the
    source."""
    return world(plan, TEST, VAL) | kept(
        *(a_pool(row, sure[title(row.recipe)] + 0.01 * row.seed, **more) for row in plan.rows)
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_surest_row_and_seed_are_chosen(rule: str) -> None:
    plan = a_plan(a_study(seeds=3))
    made = lines(plan, watched_world(plan, SURE), rule)
    assert chosen(plan, watched_world(plan, SURE), rule) == ["finetune scope=top"]
    assert {line.best_run.row.seed for line in made} == {2}  # type: ignore[union-attr]
    assert chosen(plan, watched_world(plan, {**SURE, "supervised": 0.9}), rule) == ["supervised"]


@pytest.mark.parametrize("rule", RULES)
def test_no_score_changes_a_label_free_choice(rule: str) -> None:
    plan = a_plan(a_study())
    before = lines(plan, watched_world(plan, SURE), rule)
    pools = {name: record for name, record in watched_world(plan, SURE).items() if record.part == "train-unlabelled"}
    for planted in TITLES:
        for value in (0.99, 0.0):
            records = world(plan, {**TEST, planted: value}, {**VAL, planted: value}) | pools
            after = lines(plan, records, rule)
            assert chosen(plan, records, rule) == chosen(plan, watched_world(plan, SURE), rule)
            assert [line.best_run.row.seed for line in after] == [line.best_run.row.seed for line in before]  # type: ignore[union-attr]


@pytest.mark.parametrize("rule", ["last", "source-val", "oracle"])
def test_other_rules_see_nothing_of_the_pool(rule: str) -> None:
    plan = a_plan(a_study())
    bare, full = lines(plan, world(plan, TEST, VAL), rule), lines(plan, watched_world(plan, SURE), rule)
    assert [(line.scores, [run.val for run in line.runs]) for line in full] == [
        (line.scores, [run.val for run in line.runs]) for line in bare
    ]
    assert chosen(plan, watched_world(plan, SURE), rule) == chosen(plan, world(plan, TEST, VAL), rule)
    assert all({record.site for record in run.validation} == {"a"} for line in full for run in line.runs)


def test_source_val_stays_at_the_source() -> None:
    """Even if somebody scored the target's training images."""
    plan = a_plan(a_study())
    records = watched_world(plan, SURE)
    scored = {
        name: replace(r, metrics={"dice": 0.99}) if r.part == "train-unlabelled" else r for name, r in records.items()
    }
    runs = [[run for line in lines(plan, each, "source-val") for run in line.runs] for each in (records, scored)]
    assert [run.val for run in runs[0]] == [run.val for run in runs[1]] == [run.rank for run in runs[1]]


@pytest.mark.parametrize("rule", RULES)
def test_stages(rule: str) -> None:
    plan = a_plan(a_study(seeds=1))
    made = []
    for row in plan.rows:
        for ordinal, (stage, test, sure) in enumerate((("one", 0.3, 0.1), ("two", 0.9, 0.8), ("three", 0.5, 0.3))):
            made.append(a_record(row, test, stage=stage, ordinal=ordinal))
            made.append(a_pool(row, sure, stage=stage, ordinal=ordinal))
    run = lines(plan, kept(*made), rule)[1].runs[0]
    assert run.stage == "two"
    assert run.rank == pytest.approx({"entropy": -0.2, "infomax": 1 - 0.2, "snd": 0.8}[rule])


@pytest.mark.parametrize("rule", RULES)
def test_what_was_learned_by_heart_does_not_count(rule: str) -> None:
    """``finetune`` is sure of the two subjects whose labels it saw, and of nobody else."""
    plan = a_plan(a_study(seeds=1))
    records = watched_world(plan, SURE)
    boastful = [row for row in plan.rows if title(row.recipe) == "finetune"]
    records |= kept(*(a_pool(row, 0.1, memorised=1.0) for row in boastful))
    made = lines(plan, records, rule)
    assert chosen(plan, records, rule) == ["finetune scope=top"]
    assert made[-1].runs[0].rank == pytest.approx({"entropy": -0.9, "infomax": 0.1, "snd": 0.1}[rule])
    all_seen = records | kept(*(a_pool(row, SURE[title(row.recipe)], subjects=2) for row in plan.rows))
    # every image is labelled: they are all there is
    assert lines(plan, all_seen, rule)[1].runs[0].rank is not None


def test_an_upper_bound_is_never_chosen() -> None:
    study = a_study(seeds=1)
    bound = parse_recipe({"target_supervised": {"labels": "all"}})
    plan = Plan((*a_plan(study).rows, a_row(bound, "b", 0, 0, "bound")), 1, study.made_task)
    records = watched_world(a_plan(study), SURE) | kept(a_record(plan.rows[-1], 0.99), a_pool(plan.rows[-1], 0.99))
    records |= kept(a_record(plan.rows[-1], 0.99, site="a", part="val"))
    for rule in (*RULES, "last", "source-val", "oracle"):
        assert chosen(plan, records, rule) != [title(bound)], rule


@pytest.mark.parametrize("rule", RULES)
def test_what_an_upper_bound_saw_is_not_what_the_others_saw(rule: str) -> None:
    study = a_study(seeds=1)
    bound = a_row(parse_recipe({"target_supervised": {"labels": "all"}}), "b", 0, 0, "bound")
    plan = Plan((*a_plan(study).rows, bound), 1, study.made_task)
    records = watched_world(a_plan(study), SURE, memorised=1.0)
    every = tuple(f"t{n}" for n in range(6))
    bounded = records | kept(replace(a_pool(bound, 0.99), labelled_subjects=every))
    before = [line.runs[0].rank for line in lines(a_plan(study), records, rule)]
    assert [line.runs[0].rank for line in lines(plan, bounded, rule)][:3] == before


def test_a_target_without_labels_can_be_chosen_for() -> None:
    plan = a_plan(a_study())
    pools = kept(*(a_pool(row, SURE[title(row.recipe)]) for row in plan.rows))
    bare = kept(*(a_record(row, 0.8, site="a") for row in plan.rows))
    assert chosen(plan, bare | pools, "infomax") == ["finetune scope=top"]
    assert chosen(plan, bare | pools, "last") == []
    assert chosen(plan, bare, "infomax") == []  # nothing was seen
    assert distance_to_oracle(plan, bare | pools, "b") == {}


def test_folds_are_averaged() -> None:
    plan = a_plan(a_study(seeds=1), folds=2)
    records = kept(
        *(a_pool(row, 0.2 if row.fold else 0.6) for row in plan.rows), *(a_record(row, 0.5) for row in plan.rows)
    )
    assert lines(plan, records, "snd")[1].runs[0].rank == pytest.approx(0.4)


def test_the_distance_to_the_oracle() -> None:
    plan = a_plan(a_study(seeds=2))
    found = distance_to_oracle(plan, watched_world(plan, {**SURE, "supervised": 0.9}), "b")
    told = {
        rule: (one.title, one.stages, round(one.score, 6), round(one.behind, 6))
        for rule, one in found.items()
        if one is not None
    }
    assert told["oracle"] == ("finetune scope=top", ("end",), 0.705, 0.0)
    assert found["last"] is None  # a place in a list chooses no row
    assert told["source-val"] == told["snd"] == told["entropy"] == ("supervised", ("end",), 0.405, 0.3)
    assert distance_to_oracle(plan, world(plan, TEST, VAL), "b")["snd"] is None
    assert distance_to_oracle(plan, {}, "b") == {}


def test_the_sheet_of_distances() -> None:
    plan = a_plan(a_study())
    sheet = distance_sheet(plan, world(plan, TEST, VAL), "b")
    assert sheet is not None
    rows = {row[0]: row for row in sheet.rows}
    assert rows["source-val"][1:5] == ("supervised", "end", "0.405", "0.300")
    assert rows["snd"][1] == "no data to choose by"
    assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert distance_sheet(plan, {}, "b") is None


@pytest.mark.parametrize("rule", RULES)
def test_a_study_may_name_the_rule(rule: str) -> None:
    assert (
        make_study(
            {
                "cohort": "m.csv",
                "task": {"classification": {"classes": ["a", "b"]}},
                "source": ["a"],
                "target": ["b"],
                "recipes": ["supervised"],
                "selection": rule,
            }
        ).selection
        == rule
    )
