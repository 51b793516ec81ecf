"""The tables of a target: every column from its own source, in a study whose every number is another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.report.cells import (
    Cell,
    Table,
    badges_of,
    claim_cell,
    free_cell,
    gain_cell,
    interval_cell,
    label_free,
    metrics_of,
    p_cell,
    score_cell,
    seeds_cell,
    training_cell,
)
from allograft.report.decision import class_table, decision_table
from allograft.results.comparison import Comparison
from allograft.results.costs import TrainingCost
from allograft.results.record import Record
from allograft.results.scores import score_interval
from allograft.results.select import Line, lines
from allograft.study.plan import Node, Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study

RECIPES = ("supervised", "adabn", "finetune", "fourier")
LEVEL = {"supervised": 0.5, "adabn": 0.6, "finetune": 0.7}
SITES = {"b": 0.0, "c": 0.05, "h1": 0.21, "h2": 0.22, "h3": 0.23}
FORGOTTEN = {"adabn": -0.01, "finetune": -0.04}
SUBJECTS = 6


def a_study(**changes: Any) -> Study:
    tree = {
        **{"cohort": "m.csv", "task": {"segmentation": {"classes": ["x", "y"]}}, "seeds": 2, "recipes": RECIPES},
        **{"source": ["h1", "h2", "h3"], "target": ["b", "c"], "target_labels": {"subjects": 4}},
    }
    return make_study({**tree, **changes})


def cases(row: str, site: str, seed: int) -> tuple[dict[str, Any], ...]:
    """Subjects 0.01 apart, the second seed 0.02 above; of the first subject, fine-tuning's distance
    is undefined."""
    made = []
    for n in range(SUBJECTS):
        home = site.startswith("h")
        level = 0.6 + FORGOTTEN.get(row, 0.0) if home else LEVEL[row] + 0.01 * n * (row != "supervised")
        dice = level + SITES[site] + 0.01 * (n - 2.5) + 0.02 * seed
        hd95 = None if row == "finetune" and n == 0 else 10 * (1 - dice) + n
        made.append(
            {"case": f"{site}-case{n}", "subject": f"{site}-{n}", "dice": dice, "dice/x": dice - 0.1,
             "dice/y": dice - 0.2, "accuracy": dice + 0.1, "hd95": hd95, "iou": dice / 2}
        )  # fmt: skip
    return tuple(made)


def a_table(study: Study, wait: bool = False) -> tuple[Plan, list[Line]]:
    """The third recipe's second seed and all of fourier have failed, or are still to come."""
    rows, records = [], []
    for seed in range(2):
        for recipe in map(parse_recipe, RECIPES):
            for target in study.target:
                name = title(recipe)
                row = a_row(recipe, target, seed, 0, f"{name}.{target}.{seed}")
                source = f"supervised.{target}.{seed}"
                if name != "supervised":
                    row = replace(row, nodes=(Node(source, recipe, row.nodes[0].needs), *row.nodes))
                rows.append(row)
                if name == "fourier" or (name == "finetune" and seed == 1):
                    if not wait:
                        broken = Record(row.unit, {}, seed, "x", 0, target, "test", status="failed", error="broke")
                        records.append(broken)
                    continue
                number = RECIPES.index(name) + 1
                cost = {"train_seconds": 100.0 * number + (target == "c"), "peak_memory_mb": 1000.0 + number,
                        "trainable_parameters": 50_000 * number}  # fmt: skip
                for order, site in enumerate(SITES):
                    timed: Any = {**cost, "predict_seconds": 0.06 * (number + 10 * order)}
                    records.append(
                        Record(row.unit, {}, seed, "end", 0, site, "test", target=target,
                               cases=cases(name, site, seed), cost=timed)
                    )  # fmt: skip
    plan = Plan(tuple(rows), 2, study.made_task, study.statistics)
    return plan, lines(plan, {record.name: record for record in records}, "last")


SECONDS = {f"supervised.{target}.{seed}": 100.0 for target in "bc" for seed in range(2)}


def columns_of(table: Table) -> dict[tuple[str, str], list[Cell]]:
    heads = [(column.name, column.small) for column in table.columns]
    assert len(set(heads)) == len(heads)
    return {head: [cells[at] for _, cells in table.rows] for at, head in enumerate(heads)}


def text(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return [(cell.text, cell.small) for cell in cells]


FAILED = ("failed", "")


@pytest.fixture(scope="module")
def made() -> tuple[Study, Plan, list[Line]]:
    study = a_study()
    return study, *a_table(study)


def test_every_column_of_the_decision_has_its_own_source(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    shown = decision_table(study, plan, table, "b", SECONDS)
    columns = columns_of(shown)
    assert {head: text(cells) for head, cells in columns.items()} == {
        ("recipe", ""): [(row, "") for row in RECIPES],
        ("dice", "at b"): [("0.510", "± 0.014"), ("0.635", "± 0.014"), ("0.725", ""), FAILED],
        ("95 % interval", "over subjects"): [
            ("0.490 to 0.530", ""), ("0.595 to 0.673", ""), ("0.684 to 0.762", ""), ("–", "")
        ],
        ("seeds", "done"): [("2 of 2", ""), ("2 of 2", ""), ("1 of 2", "1 failed"), ("0 of 2", "2 failed")],
        # .1 and .2, and .01 more for each subject
        ("gain", "vs. no adaptation"): [
            ("–", "no adaptation"), ("+0.125", "+0.105 to +0.145"), ("+0.225", "+0.205 to +0.245"), ("–", "")
        ],
        ("p", "Holm"): [("–", ""), ("0.062", "raw 0.031"), ("0.062", "raw 0.031"), ("–", "")],
        ("false", "claim"): [("–", ""), ("<0.001", ""), ("<0.001", ""), ("–", "")],
        # of fine-tuning the first seed alone, which is 0.01 below the mean
        ("dice", "at h1"): [("0.820", "± 0.014"), ("0.810", "−0.010"), ("0.770", "−0.040"), FAILED],
        ("dice", "at h2"): [("0.830", "± 0.014"), ("0.820", "−0.010"), ("0.780", "−0.040"), FAILED],
        ("dice", "at h3"): [("0.840", "± 0.014"), ("0.830", "−0.010"), ("0.790", "−0.040"), FAILED],
        ("train", "seconds"): [
            ("0.0", "100.0 in all"), ("200.0", "300.0 in all"), ("300.0", "400.0 in all"), ("–", "")
        ],
        ("dice", "at c"): [("0.560", "± 0.014"), ("0.685", "± 0.014"), ("0.775", ""), FAILED],
        ("worst", "site"): [("0.510", "b"), ("0.635", "b"), ("0.725", "b"), FAILED],
        ("iou", "at b"): [("0.255", "± 0.007"), ("0.318", "± 0.007"), ("0.362", ""), FAILED],
        ("hd95", "at b"): [
            ("7.40", "± 0.14"),
            ("6.15", "± 0.14"),
            ("5.65", "1 undefined\n−2.30 vs. no adaptation\nover 5 cases; undefined: 1\nhere, 0 with no adaptation"),
            FAILED,
        ],
        ("accuracy", "at b"): [("0.610", "± 0.014"), ("0.735", "± 0.014"), ("0.825", ""), FAILED],
        ("predict", "s / 100 cases"): [("1.0", ""), ("2.0", ""), ("3.0", ""), ("–", "")],
        ("peak", "MB"): [("1,001", ""), ("1,002", ""), ("1,003", ""), ("–", "")],
        ("trainable", "parameters"): [("50,000", ""), ("100,000", ""), ("150,000", ""), ("–", "")],
    }  # fmt: skip
    assert [cell.mark for cell in columns["dice", "at b"]] == ["", "", "†", ""]
    assert {cell.kind for cell in columns["seeds", "done"]} == {"number", "warn"}
    assert shown.groups == [
        ("", 1, False), ("score", 3, False), ("gain", 3, False), ("home", 2, False), ("home", 1, True),
        ("cost", 1, False), ("details", 8, True),
    ]  # fmt: skip
    assert shown.details == [
        "dice at h3", "dice at c", "worst site", "iou", "hd95", "accuracy", "predict", "peak", "trainable"
    ]  # fmt: skip
    assert shown.note == "the smallest possible p after Holm over 2 rows is 0.062"


def test_another_target_has_its_own_scores_and_the_first_as_another(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    columns = columns_of(decision_table(study, plan, table, "c"))
    assert [cell.text for cell in columns["dice", "at c"]] == ["0.560", "0.685", "0.775", "failed"]
    assert [cell.text for cell in columns["dice", "at b"]] == ["0.510", "0.635", "0.725", "failed"]
    assert text(columns["worst", "site"])[1] == ("0.635", "b")
    assert columns["accuracy", "at c"][0].text == "0.660"
    # without the seconds of what rows are built on, those of their own
    assert text(columns["train", "seconds"]) == [("0.0", "101.0 in all"), ("201.0", ""), ("301.0", ""), ("–", "")]
    assert columns["predict", "s / 100 cases"][0].text == "11.0"
    intervals = [score_interval(plan, line, "c") for line in table if line.target == "c"]
    assert [cell.value for cell in columns["95 % interval", "over subjects"]] == [
        None if limits is None else limits[0] for limits in intervals
    ]


def test_a_source_that_is_a_target_is_no_home(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    within = replace(study, source=("b", "h1", "h2"), target_labels="none")
    groups = [(column.small, column.detail) for column in decision_table(within, plan, table, "b").columns
              if column.group == "home"]  # fmt: skip
    assert groups == [("at h1", False), ("at h2", False)]
    # at another target "b" is a home, and not shown twice
    heads = [column.small for column in decision_table(within, plan, table, "c").columns if column.name == "dice"]
    assert heads == ["at c", "at b", "at h1", "at h2"]


def test_the_verdict_marks_its_row_and_says_why_others_are_worse(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    said = {"adabn": "change", "finetune": "tied; loses; forgets", "supervised": ""}
    marked = [replace(line, verdict=said.get(line.title, "")) for line in table]
    shown = decision_table(study, plan, marked, "b")
    assert [chosen for chosen, _ in shown.rows] == [False, True, False, False]
    assert [cells[0].small for _, cells in shown.rows] == [
        "", "change to this", "tied · loses here · forgets at home", ""
    ]  # fmt: skip
    classes = class_table(plan, marked, "b")
    assert classes is not None
    assert [chosen for chosen, _ in classes.rows] == [False, True, False, False]
    assert badges_of(replace(table[0], verdict="keep")) == "keep"


@pytest.mark.parametrize(
    ("statistics", "small", "hint"),
    [
        ({"alternative": "greater"}, "Holm", "exact greater Wilcoxon signed-rank test over subjects, Holm over"),
        ({"adjustment": "none"}, "unadjusted", "exact two-sided Wilcoxon signed-rank test over subjects, unadjusted"),
    ],
)
def test_the_column_of_p_says_which_test_it_is(
    made: tuple[Study, Plan, list[Line]], statistics: Any, small: str, hint: str
) -> None:
    study = a_study(statistics=statistics)
    plan = replace(made[1], statistics=study.statistics)
    column = next(one for one in decision_table(study, plan, made[2], "b").columns if one.name == "p")
    assert column.small == small
    assert column.hint.startswith(hint)
    assert column.hint.endswith("over the rows of this table") == (small != "unadjusted")


def test_a_named_reference_is_named_by_every_column(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    columns = columns_of(decision_table(study, replace(plan, reference="adabn"), table, "b"))
    assert text(columns["gain", "vs. adabn"])[:3] == [
        ("−0.125", "−0.145 to −0.105"), ("–", "reference"), ("+0.100", "+0.100 to +0.100")
    ]  # fmt: skip
    assert text(columns["dice", "at h1"])[:3] == [("0.820", "+0.010"), ("0.810", "± 0.014"), ("0.770", "−0.030")]
    assert "−1.00 vs. adabn over 5\ncases; undefined: 1 here,\n0 with adabn" in columns["hd95", "at b"][2].small
    # what a row costs is beside the source model, whatever the reference is
    assert columns["train", "seconds"][0].text == "0.0"


def test_notes_that_rows_do_not_share_stand_in_their_cells(made: tuple[Study, Plan, list[Line]]) -> None:
    study, plan, table = made
    short = list(table)
    at = next(n for n, line in enumerate(table) if (line.title, line.target) == ("finetune", "b"))
    run = table[at].runs[0]
    cut = replace(run.tests["b"][0], cases=run.tests["b"][0].cases[:3])
    short[at] = replace(table[at], runs=(replace(run, tests={"b": (cut,)}), *table[at].runs[1:]))
    shown = decision_table(study, plan, short, "b")
    assert shown.note == ""
    assert [cell.small for cell in columns_of(shown)["p", "Holm"]] == [
        "", "raw 0.031", "cannot be significant with\n3 subjects", ""
    ]  # fmt: skip


def test_of_a_single_score_none_is_the_best_and_the_order_of_rows_changes_no_cost(
    made: tuple[Study, Plan, list[Line]],
) -> None:
    study, plan, table = made
    columns = columns_of(decision_table(study, plan, [line for line in table if line.title == "adabn"], "b"))
    assert [cell.mark for cell in columns["dice", "at b"]] == [""]
    columns = columns_of(decision_table(study, plan, table[::-1], "b", SECONDS))
    assert text(columns["train", "seconds"])[::-1] == [
        ("0.0", "100.0 in all"), ("200.0", "300.0 in all"), ("300.0", "400.0 in all"), ("–", "")
    ]  # fmt: skip


def test_classes_have_a_column_for_each_metric_of_each(made: tuple[Study, Plan, list[Line]]) -> None:
    _, plan, table = made
    shown = class_table(plan, table, "b")
    assert shown is not None
    assert {head: text(cells) for head, cells in columns_of(shown).items()} == {
        ("recipe", ""): [(row, "") for row in RECIPES],
        ("dice", "x"): [("0.410", "± 0.014"), ("0.535", "± 0.014"), ("0.625", ""), FAILED],
        ("dice", "y"): [("0.310", "± 0.014"), ("0.435", "± 0.014"), ("0.525", ""), FAILED],
    }
    one = [
        replace(line, runs=(), metrics={site: {k: v for k, v in all_.items() if k != "dice/y"}
                                        for site, all_ in line.metrics.items()})
        for line in table
    ]  # fmt: skip
    assert class_table(plan, one, "b") is None


def test_what_is_still_to_come_is_no_failure() -> None:
    study = a_study()
    plan, table = a_table(study, wait=True)
    columns = columns_of(decision_table(study, plan, table, "b"))
    assert text(columns["dice", "at b"])[2:] == [("0.725", ""), ("not run yet", "")]
    assert text(columns["seeds", "done"])[2:] == [("1 of 2", "1 to go"), ("0 of 2", "2 to go")]
    assert {cell.kind for cell in columns["seeds", "done"]} == {"number"}
    half = replace(table[6], runs=(table[6].runs[0], replace(table[6].runs[1], error="broke")))
    assert half.title == "fourier"
    assert score_cell(half, "b", "dice").text == "failed"
    assert (seeds_cell(half).small, seeds_cell(half).kind) == ("1 failed\n1 to go", "warn")


def test_label_free_scores_are_means_over_the_folds_of_a_seed() -> None:
    folds = [
        Record("u", {}, 0, "end", 0, "b", "test", fold=n, metrics={"label-free/entropy": value, "dice": 0.5},
               cases=({"case": "c", "subject": "p", "entropy": 0.1},))
        for n, value in enumerate((0.2, 0.4, 0.9, None))
    ]  # fmt: skip
    (line,) = [one for one in a_table(a_study())[1] if (one.title, one.target) == ("supervised", "b")]
    runs = [replace(line.runs[0], tests={"b": tuple(each)}) for each in (folds[:2], folds[2:3], folds[2:])]
    made = replace(line, runs=tuple(runs), metrics={}, scores={})
    # .3 and .9; of the third seed one fold is missing
    cell = free_cell(made, "b", "entropy")
    assert (cell.text, cell.small, cell.value) == ("0.600", "± 0.424", pytest.approx(0.6))
    assert free_cell(replace(made, runs=runs[2:]), "b", "entropy").text == "not measured"
    assert label_free([made], "b") == ["entropy"]
    measured = replace(folds[0], cases=({"case": "c", "subject": "p", "dice": 0.1},))
    assert label_free([made, replace(made, runs=(replace(runs[0], tests={"b": (measured,)}),))], "b") == []
    assert metrics_of([made], "b") == ["dice"]


def test_metrics_that_are_read_first_come_first() -> None:
    line = a_table(a_study())[1][0]
    names = ("accuracy", "asd", "dice/x", "hd95", "iou/x", "undefined/hd95", "surface_dice")
    bare = replace(line, runs=(), metrics={"b": dict.fromkeys(names, (1.0,))})
    assert metrics_of([bare], "b") == ["iou/x", "hd95", "asd", "accuracy", "dice/x", "surface_dice"]


def test_cells_of_scores_say_in_how_many_seeds_a_metric_is_defined() -> None:
    line = a_table(a_study())[1][0]
    few = replace(line, metrics={"b": {"hd95": (3.0,), "undefined/hd95": (2.0, 5.0)}})
    cell = score_cell(few, "b", "hd95", best=3.0)
    assert (cell.text, cell.small, cell.mark) == ("3.00", "5 undefined\nin 1 of 2 seeds", "†")
    assert score_cell(few, "b", "hd95", best=4.0).mark == ""
    assert score_cell(few, "b", "dice").text == "undefined"
    assert score_cell(replace(few, runs=()), "b", "dice").text == "not measured"


def test_cells_of_a_comparison() -> None:
    found = Comparison(5, -0.1, -0.3, 0.1, p=0.01, adjusted=0.04, false_claim=0.0099, note="a note", cases=7)
    gain = gain_cell(replace(found, undefined=(2, 3)), "", "adabn")
    assert (gain.text, gain.value) == ("−0.100", -0.1)
    assert gain.small == "−0.300 to +0.100\nover 7 cases; undefined: 2 here, 3 with adabn"
    assert gain_cell(None, "reference").small == "reference"
    assert gain_cell(replace(found, low=None), "").small == ""
    p = p_cell(found, "another note")
    assert (p.text, p.small, p.value) == ("0.040", "raw 0.010\na note", 0.04)
    assert p_cell(found, "a note").small == "raw 0.010"
    assert (p_cell(replace(found, adjusted=None), "").text, p_cell(replace(found, p=None), "").small) == ("–", "a note")
    assert (claim_cell(found).text, claim_cell(found).value) == ("0.010", 0.0099)
    assert claim_cell(replace(found, false_claim=0.0009)).text == "<0.001"
    assert claim_cell(replace(found, false_claim=None)).text == "–"
    interval = interval_cell((-0.25, 0.5))
    assert (interval.text, interval.value) == ("−0.250 to 0.500", -0.25)


def test_cells_of_training_are_sorted_by_what_comes_on_top_of_the_source_model() -> None:
    shared = training_cell(TrainingCost(1500.0, 20.0), 7.0)
    assert (shared.text, shared.small, shared.value) == ("20.0", "1,500.0 in all", 20.0)
    assert training_cell(TrainingCost(20.0, 20.0), 7.0).small == ""
    assert training_cell(None, 7.0) == Cell("7.0", value=7.0)
    assert training_cell(None, None).text == "–"
