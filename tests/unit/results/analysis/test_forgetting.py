"""The forgetting table: every label budget that a folder holds, the source's score beside the
target's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.unit.results.test_select import a_plan, a_study

from allograft.recipe import title
from allograft.results.analysis.forgetting import Forgetting, forgetting, forgetting_figure, forgetting_sheets
from allograft.results.record import Record

PLAN = a_plan(a_study(seeds=2))  # the study as asked last: two labelled subjects
HOME = {"supervised": 0.8, "finetune scope=top": 0.7, "finetune": 0.5}


def run_of(name: str, budget: int, seed: int, home: float, away: float, **more: Any) -> list[Record]:
    """One run's test records at the source and at the target; the budget of the plan is two, and 0
    for do-nothing."""
    planned = budget == (0 if name == "supervised" else 2)
    unit = (
        next(row.unit for row in PLAN.rows if title(row.recipe) == name and row.seed == seed)
        if planned
        else f"{name} with {budget}, {seed}"
    )
    one = Record(
        more.pop("unit", unit),
        {"name": name.split()[0], "title": name, "parameters": {}},
        seed,
        "end",
        1,
        "a",
        "test",
        source=("a",),
        target=None if name == "supervised" else "b",
        labelled_subjects=tuple(f"s{n}" for n in range(budget)),
        metrics={"dice": home},
    )
    one = replace(one, **more)
    return [one, replace(one, site="b", metrics={"dice": away})]


def a_folder() -> list[Record]:
    records = []
    for seed in range(2):
        records += run_of("supervised", 0, seed, 0.8 + 0.02 * seed, 0.3)
        for budget in (1, 2, 4):
            records += run_of("finetune", budget, seed, 0.5 - 0.05 * budget + 0.02 * seed, 0.6 + 0.05 * budget)
        records += run_of("finetune scope=top", 2, seed, 0.7, 0.5)
    return records


def found(records: list[Record]) -> Forgetting:
    made = forgetting(PLAN, records, ("a",), "b")
    assert made is not None
    return made


def test_a_target_whose_name_holds_a_plus_is_found() -> None:
    records = [
        replace(one, target=one.target and "b (er ER+)", site="b (er ER+)" if one.site == "b" else "a")
        for one in a_folder()
    ]
    made = forgetting(PLAN, records, ("a",), "b (er ER+)")
    assert made is not None
    assert (made.source, made.at_target) == (found(a_folder()).source, found(a_folder()).at_target)


def test_every_budget_of_the_folder() -> None:
    made = found(a_folder())
    assert made.budgets == (0, 1, 2, 4)
    assert made.source["finetune"] == {
        budget: {0: pytest.approx(0.5 - 0.05 * budget), 1: pytest.approx(0.52 - 0.05 * budget)} for budget in (1, 2, 4)
    }
    assert made.at_target["finetune"][4] == {0: pytest.approx(0.8), 1: pytest.approx(0.8)}
    assert made.nothing == {0: 0.8, 1: pytest.approx(0.82)}
    # in the order of the study
    assert list(made.source) == ["supervised", "finetune scope=top", "finetune"]
    assert made.unclear == ()


def test_the_sheets() -> None:
    home, away = forgetting_sheets(found(a_folder()))
    rows = {row[0]: row[1:] for row in home.rows}
    assert home.columns == ("recipe", "0 labelled", "1 labelled", "2 labelled", "4 labelled")
    assert rows["supervised"] == ("0.810 ± 0.014", "", "", "")
    assert rows["finetune"] == ("", "0.460 ± 0.014 (-0.350)", "0.410 ± 0.014 (-0.400)", "0.310 ± 0.014 (-0.500)")
    assert {row[0]: row[1:] for row in away.rows}["finetune"][3] == "0.800 ± 0.000"
    assert not any("For more label budgets" in note for note in home.notes)
    small = [record for record in a_folder() if len(record.labelled_subjects) in (0, 2)]
    assert any("--set target_labels.subjects=1" in note for note in forgetting_sheets(found(small))[0].notes)


def test_the_difference_is_paired_by_seed() -> None:
    records = [record for record in a_folder() if not (record.seed == 0 and record.recipe["title"] == "finetune")]
    rows = {row[0]: row[1:] for row in forgetting_sheets(found(records))[0].rows}
    assert rows["finetune"][1] == f"{0.47:.3f} ({0.47 - 0.82:+.3f})"


def test_the_figure() -> None:
    figure = forgetting_figure(found(a_folder()))
    assert figure.x == (0.0, 1.0, 2.0, 4.0)
    assert figure.y["supervised"] == pytest.approx((0.81,) * 4)
    assert figure.y["finetune"] == (None, *(pytest.approx(0.51 - 0.05 * budget) for budget in (1, 2, 4)))


def test_a_run_that_saw_several_targets_counts_at_each() -> None:
    both = [replace(record, target="b+c") for record in run_of("mmtl", 3, 0, 0.75, 0.65)]
    made = found([*a_folder(), *both])
    assert (made.source["mmtl"], made.at_target["mmtl"]) == ({3: {0: 0.75}}, {3: {0: 0.65}})


def test_what_does_not_count() -> None:
    """Validation records, failed runs, earlier stages, other targets, and units that saw a site
    which is no source here."""
    bad = {"metrics": {"dice": 0.0}}
    first = next(
        record for record in a_folder() if record.recipe["title"] == "finetune" and len(record.labelled_subjects) == 2
    )
    strange = [
        replace(first, part="val", **bad),
        replace(first, stage="early", ordinal=0, **bad),
        replace(first, status="failed", unit="failed"),
        replace(first, target="c", unit="elsewhere", **bad),
        replace(first, source=("z",), unit="from z", **bad),
    ]
    assert found([*a_folder(), *strange]) == found(a_folder())


def test_other_settings_in_the_folder() -> None:
    """The plan's own runs stand for their budget; of another budget two settings cannot be told
    apart."""
    longer = [record for seed in range(2) for record in run_of("finetune", 2, seed, 0.1, 0.1, unit=f"longer.{seed}")]
    assert found([*a_folder(), *longer]) == found(a_folder())
    longer = [record for seed in range(2) for record in run_of("finetune", 4, seed, 0.1, 0.1, unit=f"longer.{seed}")]
    made = found([*a_folder(), *longer])
    assert made.unclear == (("finetune", 4),)
    assert sorted(made.source["finetune"]) == [1, 2]
    assert "finetune (4 labelled)" in " ".join(forgetting_sheets(made)[0].notes)


def test_folds_and_sources_are_averaged() -> None:
    """Each fold is a unit of its own, judged on the same source subjects and on its own of the
    target."""
    records = []
    for fold in range(2):
        at_source, at_target = run_of("finetune", 1, 0, 0.4 + 0.2 * fold, 0.6 + 0.2 * fold, unit=f"f{fold}")
        records += [at_source, replace(at_source, site="a2", metrics={"dice": 0.9}), replace(at_target, fold=fold)]
    made = forgetting(PLAN, records, ("a", "a2"), "b")
    assert made is not None
    assert made.source["finetune"][1] == {0: pytest.approx((0.5 + 0.9) / 2)}
    assert made.at_target["finetune"][1] == {0: pytest.approx(0.7)}
    lacking = forgetting(PLAN, [record for record in records if record.site != "a2"], ("a", "a2"), "b")
    assert lacking is None  # a seed without one of the sources is left out


def test_nothing_to_show() -> None:
    assert forgetting(PLAN, [], ("a",), "b") is None
    assert forgetting(PLAN, a_folder(), (), "b") is None  # source-free
    undefined = [replace(record, metrics={"dice": None}) for record in a_folder()]
    assert forgetting(PLAN, undefined, ("a",), "b") is None
