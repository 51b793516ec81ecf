"""Which stage, row and seed are chosen, and the table that shows it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from tests.unit.tiny import a_row

from allograft.context import Node
from allograft.recipe import parse_recipe, title
from allograft.results.analysis.selection import chosen_row
from allograft.results.earlier_runs import as_recorded
from allograft.results.record import Record
from allograft.results.select import lines
from allograft.results.table import print_tables, smallest_p
from allograft.study.plan import Plan, Row
from allograft.study.reading import make_study
from allograft.study.spec import Study

RECIPES = ("supervised", {"finetune": {"scope": "top"}}, {"finetune": {"scope": "full"}})
TITLES = ["supervised", "finetune scope=top", "finetune"]


def a_study(seeds: int = 2, **more: Any) -> Study:
    tree = {
        "cohort": "m.csv",
        "task": {"segmentation": {"classes": ["vessel"]}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 1},
        "recipes": RECIPES,
        "seeds": seeds,
    }
    return make_study({**tree, **more})


def a_plan(study: Study, folds: int = 1) -> Plan:
    recipes = [parse_recipe(recipe) for recipe in RECIPES]
    rows = [
        a_row(r, "b", s, f, f"{title(r)}.{s}.{f}") for s in range(study.seeds) for r in recipes for f in range(folds)
    ]
    return Plan(tuple(rows), study.seeds, study.made_task)


def a_record(
    row: Row, score: float | None, *, site: str = "b", part: str = "test", stage: str = "end", ordinal: int = 0
) -> Record:
    cases = tuple({"case": f"{n}", "subject": f"{site}{row.fold}{n}", "dice": score, "iou": score} for n in range(2))
    metrics = {"dice": score, "iou": score}
    cost = {"train_seconds": 2.0 + row.seed, "peak_memory_mb": 100.0, "trainable_parameters": 12345}
    return Record(
        row.unit,
        {},
        row.seed,
        stage,
        ordinal,
        site,
        part,
        target="b",
        fold=row.fold,
        metrics=metrics,
        cases=cases,
        cost=cost,  # type: ignore[arg-type]
    )


def kept(*records: Record) -> dict[str, Record]:
    return {record.name: record for record in records}


def world(plan: Plan, test: dict[str, float], val: dict[str, float]) -> dict[str, Record]:
    made = []
    for row in plan.rows:
        name = title(row.recipe)
        made += [a_record(row, test[name] + 0.01 * row.seed), a_record(row, 0.8, site="a")]
        made.append(a_record(row, val[name] + 0.01 * row.seed, site="a", part="val"))
    return kept(*made)


TEST = dict(zip(TITLES, (0.4, 0.7, 0.6), strict=True))
VAL = dict(zip(TITLES, (0.9, 0.5, 0.7), strict=True))


def chosen(plan: Plan, records: dict[str, Record], rule: str) -> list[str]:
    line = chosen_row(plan, records, rule, "b")
    return [] if line is None else [line.title]


def test_rows_ranked_highest_by_each_rule() -> None:
    plan = a_plan(a_study())
    records = world(plan, TEST, VAL)
    assert chosen(plan, records, "last") == []  # a place in a list says nothing
    assert chosen(plan, records, "source-val") == ["supervised"]
    assert chosen(plan, records, "oracle") == ["finetune scope=top"]


@pytest.mark.parametrize("rule", ["last", "source-val"])
def test_no_test_score_changes_the_choice(rule: str) -> None:
    plan = a_plan(a_study())
    records = world(plan, TEST, VAL)
    before = lines(plan, records, rule)
    for planted in TITLES:
        for score in (0.99, 0.0):
            # of the target, and of the source, where the two seeds differ too
            at_source = (
                a_record(r, abs(score - 0.1 * r.seed), site="a") for r in plan.rows if title(r.recipe) == planted
            )
            other = world(plan, {**TEST, planted: score}, VAL) | kept(*at_source)
            after = lines(plan, other, rule)
            assert chosen(plan, other, rule) == chosen(plan, records, rule)
            assert [line.best_run.row.seed for line in after] == [line.best_run.row.seed for line in before]  # type: ignore[union-attr]


def test_the_seed_that_is_handed_over() -> None:
    plan = a_plan(a_study(seeds=3))
    records = world(plan, TEST, VAL)
    assert {line.best_run.row.seed for line in lines(plan, records, "last")} == {0}  # type: ignore[union-attr]
    assert {line.best_run.row.seed for line in lines(plan, records, "source-val")} == {2}  # type: ignore[union-attr]


def test_stages() -> None:
    plan = a_plan(a_study(seeds=1))
    made = []
    for row in plan.rows:
        for ordinal, (stage, test, val) in enumerate((("one", 0.3, 0.8), ("two", 0.9, 0.6), ("three", 0.5, 0.7))):
            made.append(a_record(row, test, stage=stage, ordinal=ordinal))
            made.append(a_record(row, val, stage=stage, ordinal=ordinal, site="a", part="val"))
    chosen = {rule: lines(plan, kept(*made), rule)[1].runs[0].stage for rule in ("last", "source-val", "oracle")}
    assert chosen == {"last": "three", "source-val": "one", "oracle": "two"}
    assert lines(plan, kept(*made), "source-val")[1].scores["b"] == (0.3,)


def test_scores_spread_worst_and_cost() -> None:
    plan = a_plan(a_study())
    line = lines(plan, world(plan, TEST, VAL), "last")[0]
    assert line.scores["b"] == pytest.approx((0.4, 0.41))
    assert line.score("b") == pytest.approx(0.405)
    assert line.spread("b") == pytest.approx(0.01 / 2**0.5)
    assert line.worst == ("b", pytest.approx(0.405))
    assert line.cost("train_seconds") == 2.5
    assert line.score("nowhere") is None
    assert line.cost("nothing") is None
    assert lines(a_plan(a_study(1)), world(a_plan(a_study(1)), TEST, VAL), "last")[0].spread("b") is None


def test_folds_are_pooled_by_subject() -> None:
    plan = a_plan(a_study(seeds=1), folds=2)
    made = [a_record(row, 0.2 if row.fold == 0 else 0.8) for row in plan.rows]
    first = replace(made[0], cases=(*made[0].cases, {"case": "9", "subject": "b09", "dice": 0.2, "iou": 0.2}))
    line = lines(plan, kept(*made, first), "last")[0]
    assert len(line.runs[0].tests["b"]) == 2
    assert line.scores["b"] == (pytest.approx((3 * 0.2 + 2 * 0.8) / 5),)


def failing(plan: Plan, records: dict[str, Record], name: str, seeds: tuple[int, ...]) -> dict[str, Record]:
    gone = {row.unit for row in plan.rows if title(row.recipe) == name and row.seed in seeds}
    rows = [row for row in plan.rows if row.unit in gone]
    failed = [
        Record(row.unit, {}, row.seed, "failed", 0, "b", "test", target="b", status="failed", error="it broke")
        for row in rows
    ]
    return {key: record for key, record in records.items() if record.unit not in gone} | kept(*failed)


def test_a_failed_run_is_counted_and_never_averaged() -> None:
    plan = a_plan(a_study(seeds=5))
    records = failing(plan, world(plan, TEST, VAL), "finetune", (0, 3))
    line = next(line for line in lines(plan, records, "last") if line.title == "finetune")
    assert (line.done, len(line.runs), len(line.scores["b"])) == (3, 5, 3)
    assert line.score("b") == pytest.approx(0.6 + (0.01 + 0.02 + 0.04) / 3)
    assert line.best_run.row.seed == 1  # type: ignore[union-attr]
    assert [run.error for run in line.runs if run.error] == ["it broke", "it broke"]


def test_a_row_that_failed_throughout_is_not_chosen() -> None:
    plan = a_plan(a_study())
    records = failing(plan, world(plan, TEST, VAL), "finetune scope=top", (0, 1))
    assert chosen(plan, records, "oracle") == ["finetune"]
    assert lines(plan, records, "last")[1].best_run is None
    assert chosen(plan, {}, "oracle") == []
    assert {run.error for line in lines(plan, {}, "last") for run in line.runs} == {"not run yet"}


def shown(study: Study, plan: Plan, records: dict[str, Record]) -> str:
    text = io.StringIO()
    print_tables(study, plan, lines(plan, records, study.selection), Console(file=text, width=250))
    return text.getvalue()


def row_of(text: str, name: str) -> str:
    """The line of a recipe, whatever columns stand around it."""
    return next(line for line in text.splitlines() if re.match(rf"\W*{re.escape(name)}\s{{2,}}", line))


def test_the_table_shows_gain_failures_and_cost() -> None:
    study = a_study(seeds=5)
    plan = a_plan(study)
    records = failing(plan, world(plan, TEST, VAL), "finetune scope=top", (0, 1, 2, 3, 4))
    records = failing(plan, records, "finetune", (2, 3))
    text = shown(study, plan, records)
    top, full, nothing = (row_of(text, name) for name in ("finetune scope=top", "finetune", "supervised"))
    assert all(words in nothing for words in ("0.420 ± 0.016", "0.800 ± 0.000", "5 of 5", "4.0", "100"))
    assert "+" not in nothing
    assert "failed" in top
    assert "0 of 5" in top
    assert not re.search(r"0\.\d", top)
    assert all(words in full for words in ("finetune", "0.617 ± 0.021", "+0.200", "0.617 b", "3 of 5"))
    assert "*" not in top + nothing + full  # no verdict yet
    assert "finetune scope=top -> b: it broke" in text
    words = " ".join(text.split())
    assert "2 test subjects, smallest p possible 0.5: cannot be significant with 2 subjects" in words
    assert "chosen by selection 'last': the last stage of each run; the first seed" in words
    assert "recommended" not in words


def test_the_oracle_is_marked() -> None:
    study = a_study(selection="oracle")
    assert "optimistic, chosen after the fact" in " ".join(
        shown(study, a_plan(study), world(a_plan(study), TEST, VAL)).split()
    )


@pytest.mark.parametrize(("subjects", "p"), [(0, 1.0), (1, 1.0), (2, 0.5), (6, 0.03125)])
def test_smallest_p(subjects: int, p: float) -> None:
    assert smallest_p(subjects) == p


def test_units_of_an_earlier_version_stand_for_those_of_this_one() -> None:
    """Of the same recipe, seed, target and fold; the units that they were built on are not asked for."""
    plan = a_plan(a_study())
    inner = Node("inner", plan.rows[0].recipe, plan.rows[0].nodes[0].needs)
    now = replace(
        plan, rows=tuple(replace(row, nodes=(inner, replace(row.nodes[0], key=f"new {row.unit}"))) for row in plan.rows)
    )
    records = [
        replace(a_record(row, 0.5), recipe={"name": "x", "title": title(row.recipe)}, target="b") for row in plan.rows
    ]
    assert [row.unit for row in as_recorded(now, records).rows] == [row.unit for row in plan.rows]
    assert as_recorded(now, records).units == plan.units
    elsewhere = [replace(record, target="c", site="c") for record in records]
    assert as_recorded(now, elsewhere) == now
    assert as_recorded(plan, records) == plan
