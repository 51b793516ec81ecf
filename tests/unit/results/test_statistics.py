"""Statistics: worked examples by hand, what must be equal, and what a table says of them."""

from __future__ import annotations

import ast
import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.unit.tiny import a_row

from allograft.recipe import parse_recipe, title
from allograft.report import overview
from allograft.report.decision import decision_table
from allograft.results import statistics
from allograft.results.comparison import Comparison, compare, difference
from allograft.results.csv_files import COLUMNS, write_metrics, write_results
from allograft.results.evidence import verdicts_of
from allograft.results.over_pairs import over_pairs
from allograft.results.record import Record
from allograft.results.scores import score_interval, seed_scores, subject_scores
from allograft.results.select import Line, lines
from allograft.results.standing import Standing
from allograft.results.statistics import (
    adjust,
    bootstrap_pooled,
    effect_size,
    paired,
    per_subject,
    smallest_p,
    wilcoxon,
)
from allograft.results.table import print_tables, short_count
from allograft.study.plan import Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study

RECIPES = ("supervised", {"fourier": {"beta": 0.02}}, {"finetune": {"scope": "top"}})
TITLES = ("supervised", "fourier beta=0.02", "finetune scope=top")
Scores = Mapping[tuple[str, str, int], Mapping[str, Sequence[float | None]]]


def a_study(**changes: Any) -> Study:
    tree = {
        **{"cohort": "manifest.csv", "task": {"segmentation": {"classes": ["vessel"]}}, "source": ["drive"]},
        **{"target": ["chase", "stare"], "recipes": RECIPES, "seeds": 2},
    }
    return make_study({**tree, **changes})


def a_table(study: Study, scores: Scores, failed: Sequence[tuple[str, str, int]] = ()) -> tuple[Plan, list[Line]]:
    """(title, target, seed) -> subject -> dice of each case, as a table; judged at the target
    alone."""
    made = [parse_recipe(recipe) for recipe in RECIPES]
    rows = [
        a_row(r, site, s, 0, f"{title(r)}.{site}.{s}")
        for s in range(study.seeds)
        for r in made
        for site in study.target
    ]
    plan = Plan(tuple(rows), study.seeds, study.made_task)
    records = []
    for row in rows:
        key = (title(row.recipe), row.target, row.seed)
        if key in failed:
            records.append(
                Record(
                    row.unit, {"name": "x"}, row.seed, "failed", 0, row.target, "test", status="failed", error="broke"
                )
            )
        elif key in scores:
            cases = tuple(
                {"case": f"{s}{n}", "subject": s, "dice": v}
                for s, values in scores[key].items()
                for n, v in enumerate(values)
            )
            cost = {
                "train_seconds": 2.5,
                "predict_seconds": 1.5,
                "peak_memory_mb": 900.0,
                "trainable_parameters": 120_000,
            }
            records.append(
                Record(row.unit, {"name": "x"}, row.seed, "tuned", 0, row.target, "test", cases=cases, cost=cost)
            )
    return plan, lines(plan, {record.name: record for record in records}, "last")


def with_gains(gains: Mapping[str, Sequence[float]], study: Study, cases: int = 1) -> Scores:
    """Every seed alike: subject i has 0.3 + i / 100 with do-nothing, and a recipe's i-th gain more
    with it."""
    count = len(next(iter(gains.values())))
    every = {**gains, "supervised": [0.0] * count}
    return {
        (name, site, seed): {
            f"p{n:02d}": [0.3 + n / 100 + more + (-1) ** c * 0.01 * (cases > 1) for c in range(cases)]
            for n, more in enumerate(row)
        }
        for name, row in every.items()
        for site in study.target
        for seed in range(study.seeds)
    }


# ---- by hand


@pytest.mark.parametrize(("count", "p"), [(1, 1.0), (4, 0.125), (5, 0.0625), (6, 0.03125)])
def test_all_of_one_sign_give_the_smallest_p(count: int, p: float) -> None:
    gains = [0.1 * (n + 1) for n in range(count)]
    assert wilcoxon(gains) == wilcoxon([-gain for gain in gains]) == smallest_p(count) == p
    assert wilcoxon(gains, "greater") == smallest_p(count, "greater") == min(1.0, 2.0**-count)
    assert wilcoxon([-gain for gain in gains], "less") == smallest_p(count, "less")
    assert wilcoxon(gains, "less") == 1.0


def test_signed_ranks_by_hand() -> None:
    # ranks 1, 2, 3 with signs +, -, +: the sum of the positive is 4; sums of 4 or more: {1,3},
    # {2,3}, {1,2,3}, 3 of 8
    assert wilcoxon([0.1, -0.2, 0.3], "greater") == 3 / 8
    assert wilcoxon([0.1, -0.2, 0.3], "less") == 6 / 8
    assert wilcoxon([0.1, -0.2, 0.3]) == 6 / 8
    # |d| all tied, mid-rank 2: positive sum 4 of 6; at least two of three signs are plus: 4 of 8
    assert wilcoxon([0.1, 0.1, -0.1], "greater") == 4 / 8


def test_zeros_are_dropped_and_noise_makes_no_difference() -> None:
    assert wilcoxon([0.0, 0.1, 0.0, 0.2, 0.3]) == wilcoxon([0.1, 0.2, 0.3]) == 0.25
    assert wilcoxon([0.0, 0.0]) is wilcoxon([]) is None
    assert wilcoxon([1e-17, -3e-17]) is None
    noisy = [0.8 - 0.7, -(0.3 - 0.2), 0.9 - 0.8, 0.5]
    assert len({abs(value) for value in noisy}) > 2
    assert wilcoxon(noisy) == wilcoxon([0.1, -0.1, 0.1, 0.5])


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
@pytest.mark.parametrize(
    "differences", [[1, 1, -1, 2, 2, -3], [1, -1, 1, -1], [2, 2, 2, 2, 2], [1, 2, 2, -4, 5, 5, 5, -8, 9, 10]]
)
def test_ties_are_counted_over_every_sign(differences: list[int], alternative: Any) -> None:
    size = [abs(value) for value in differences]
    ranks = [sum(s < one for s in size) + (size.count(one) + 1) / 2 for one in size]
    found = sum(rank for rank, value in zip(ranks, differences, strict=True) if value > 0)
    sums = [
        sum(rank for rank, plus in zip(ranks, signs, strict=True) if plus)
        for signs in itertools.product((0, 1), repeat=len(ranks))
    ]
    greater, less = (sum(test) / len(sums) for test in ([s >= found for s in sums], [s <= found for s in sums]))
    expected = {"greater": greater, "less": less, "two-sided": min(1.0, 2 * min(greater, less))}[alternative]
    assert wilcoxon(differences, alternative) == pytest.approx(expected, abs=1e-15)


def test_effect_sizes_by_hand() -> None:
    # mean 2, squares about it 4 + 1 + 0 + 1 + 4, sd with n - 1 = sqrt(10 / 4)
    d_z, correlation = effect_size([0.0, 1.0, 2.0, 3.0, 4.0])
    assert d_z == pytest.approx(2 / math.sqrt(2.5))
    assert correlation == 1.0
    assert effect_size([-1.0, 2.0, 4.0])[1] == pytest.approx((2 + 3 - 1) / 6)
    assert effect_size([0.1, 0.1, 0.1]) == (None, 1.0)
    assert effect_size([0.0, 0.0]) == (None, None)
    assert effect_size([0.4]) == (None, 1.0)
    mirrored = effect_size([0.0, -1.0, -2.0, -3.0, -4.0])
    assert mirrored == (pytest.approx(-2 / math.sqrt(2.5)), -1.0)


def test_adjusted_by_hand() -> None:
    p = [0.01, 0.02, 0.03, 0.5]
    assert adjust(p) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert adjust(p, "bonferroni") == pytest.approx([0.04, 0.08, 0.12, 1.0])
    assert adjust(p, "none") == p
    assert adjust(p[::-1]) == adjust(p)[::-1]
    assert adjust([]) == []


# ---- subjects and pairs


def test_cases_of_a_subject_are_one_value_and_undefined_ones_none() -> None:
    cases = [{"subject": s, "dice": v} for s, v in [("b", 0.2), ("a", 0.6), ("b", 0.4), ("a", None), ("c", None)]]
    assert per_subject(cases, "dice") == {"a": 0.6, "b": pytest.approx(0.3)}
    assert per_subject(cases, "iou") == {}
    assert per_subject(cases + cases, "dice") == per_subject(cases, "dice") == per_subject(cases[::-1], "dice")


def by_seed(scores: Mapping[int, Mapping[str, float | None]]) -> dict[int, list[dict[str, Any]]]:
    """Seed -> "subject" or "subject/number" -> dice, as cases."""
    return {
        seed: [{"case": name, "subject": name.split("/")[0], "dice": value} for name, value in cases.items()]
        for seed, cases in scores.items()
    }


def test_pairs_are_of_common_subjects_and_seeds() -> None:
    a = by_seed({0: {"x": 0.5, "y": 0.9}, 1: {"x": 0.7, "z": 0.1}, 2: {"x": 0.0}})
    b = by_seed({0: {"x": 0.1, "z": 0.2}, 1: {"x": 0.3, "z": 0.5}})
    found = paired(a, b, "dice")
    assert found.subjects == ("x", "z")
    assert found.ours == pytest.approx([0.6, 0.1])
    assert found.theirs == pytest.approx([0.2, 0.5])
    assert (found.cases, found.undefined) == (2, (0, 0))
    nothing = paired(by_seed({0: {"x": 1.0}}), by_seed({1: {"x": 1.0}}), "dice")
    assert (len(nothing.subjects), len(nothing.ours), len(nothing.theirs), nothing.cases) == (0, 0, 0, 0)


def test_a_case_that_one_row_lacks_is_left_out_of_both() -> None:
    """The hard case of x is worth 0.9 where it is found; a row that lacks it does not become better
    by that, in whichever seed."""
    easy = {"x/easy": 0.2, "y/only": 0.3}
    found = paired(by_seed({0: easy | {"x/hard": None}}), by_seed({0: easy | {"x/hard": 0.9}}), "dice")
    assert found.ours.tolist() == found.theirs.tolist() == [0.2, 0.3]
    assert (found.subjects, found.cases, found.undefined) == (("x", "y"), 2, (1, 0))
    ours = by_seed({0: {"x/a": None, "x/b": 0.1}, 1: {"x/a": 0.5, "x/b": 0.1}})
    other = by_seed({seed: {"x/a": 0.7, "x/b": 0.3} for seed in range(2)})
    found = paired(ours, other, "dice")
    # seed 0 has b alone, seed 1 both: the mean of (0.1, 0.3) and of (0.3, 0.5)
    assert (found.ours, found.theirs) == (pytest.approx([0.2]), pytest.approx([0.4]))
    assert (found.cases, found.undefined) == (2, (1, 0))
    assert paired(other, ours, "dice").undefined == (0, 1)


# ---- bootstrap


def mean_over_subjects(cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    return {"dice": float(np.mean(list(per_subject(cases, "dice").values())))}


def test_a_pooled_mean_has_the_interval_of_the_mean() -> None:
    values = np.random.default_rng(3).normal(size=15)
    cases = [{"case": f"{n}{eye}", "subject": f"p{n}", "dice": float(v)} for n, v in enumerate(values) for eye in "LR"]
    found = bootstrap_pooled([cases], None, mean_over_subjects, draws=2000)["dice"]
    drawn = values[np.random.default_rng(0).integers(15, size=(9999, 15))].mean(1)
    # a subject drawn twice counts twice
    assert found == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.05)
    half = bootstrap_pooled([cases], None, mean_over_subjects, draws=2000, level=0.5)["dice"]
    assert half == pytest.approx(np.quantile(drawn, (0.25, 0.75)), abs=0.05)
    twice, once = (
        bootstrap_pooled(each, None, mean_over_subjects, draws=200)["dice"] for each in ([cases, cases], [cases])
    )
    assert twice == pytest.approx(once)


def test_a_pooled_difference_is_paired() -> None:
    values = np.random.default_rng(4).normal(size=15)
    a, b = ([{"subject": f"p{n}", "dice": float(v) + more} for n, v in enumerate(values)] for more in (0.5, 0.0))
    assert bootstrap_pooled([a], [b], mean_over_subjects, draws=200)["dice"] == pytest.approx((0.5, 0.5))
    assert bootstrap_pooled([b, b], [a], mean_over_subjects, draws=200)["dice"] == pytest.approx((-0.5, -0.5))
    assert bootstrap_pooled([a[:1]], [b], mean_over_subjects) == {}
    assert bootstrap_pooled([a], None, lambda cases: {"dice": None}, draws=20) == {}


# ---- rows of a table


def test_a_comparison_by_hand() -> None:
    study = a_study()
    plan, table = a_table(
        study,
        with_gains(
            {TITLES[1]: [0.01, 0.02, 0.03, 0.04, 0.05, 0.06], TITLES[2]: [-0.1, 0.1, 0.2, 0.3, 0.4, 0.5]}, study
        ),
    )
    found = compare(table, plan, "chase")
    assert list(found) == list(TITLES[1:])
    fourier, tuned = found.values()
    assert (fourier.subjects, fourier.difference) == (6, pytest.approx(0.035))
    assert fourier.low is not None
    assert fourier.high is not None
    # t with 5 degrees of freedom; squares about the mean sum to 0.00175
    half = 2.570582 * math.sqrt(0.00175 / 5 / 6)
    assert (fourier.low, fourier.high) == pytest.approx((0.035 - half, 0.035 + half), abs=1e-7)
    assert (fourier.sd, fourier.dof) == (pytest.approx(math.sqrt(0.00175 / 5)), 5)
    assert fourier.p == 0.03125
    assert fourier.adjusted == 0.0625
    assert fourier.note == "the smallest possible p after Holm over 2 rows is 0.062"
    assert fourier.effect == pytest.approx(0.035 / math.sqrt(0.00175 / 5))
    assert fourier.rank_biserial == 1.0
    # -0.1 and 0.1 are tied at 1.5: sums of 19.5 or more are all of 21, and 21 - 1.5 twice: 3 of 64
    assert tuned.p == pytest.approx(2 * 3 / 64)
    assert tuned.rank_biserial == pytest.approx((21 - 3) / 21)
    assert compare(table, plan, "chase", adjust="none")[TITLES[1]].adjusted == 0.03125
    assert compare(table, plan, "chase", adjust="bonferroni")[TITLES[2]].adjusted == pytest.approx(12 / 64)
    assert compare(table, plan, "chase", alternative="greater")[TITLES[1]].p == 1 / 64
    assert compare(table, plan, "chase", baseline=TITLES[2])["supervised"].difference == pytest.approx(-1.4 / 6)
    assert compare(table, plan, "nowhere") == compare(table[1:], plan, "chase") == {}


@pytest.mark.parametrize(
    ("gains", "note"),
    [
        ([0.1], "one subject: no interval"),
        ([0.1, 0.2, 0.3, 0.4], "cannot be significant with 4 subjects"),
        ([0.0] * 6, "no difference"),
    ],
)
def test_a_note_stands_where_no_p_can(gains: list[float], note: str) -> None:
    study = a_study(target=["chase"])
    plan, table = a_table(study, with_gains({TITLES[1]: gains}, study))
    found = compare(table, plan, "chase")[TITLES[1]]
    assert found.note == note
    assert found.p == found.adjusted == (1.0 if note == "no difference" else None)
    assert (found.low is None) == (len(gains) == 1)


def test_only_what_both_rows_finished_is_compared() -> None:
    study = a_study(target=["chase"])
    scores = dict(with_gains({TITLES[1]: [0.1] * 6}, study))
    scores[TITLES[1], "chase", 1] = {"p00": [0.9], "stranger": [0.9]}
    plan, table = a_table(
        study, scores, failed=[("supervised", "chase", 1), (TITLES[2], "chase", 0), (TITLES[2], "chase", 1)]
    )
    found = compare(table, plan, "chase")
    assert list(found) == [TITLES[1]]
    assert found[TITLES[1]].subjects == 6
    assert found[TITLES[1]].difference == pytest.approx(0.1)


def _described(table: Sequence[Line], plan: Plan) -> list[Any]:
    return [
        {title: replace(one, cases=0) for title, one in compare(table, plan, "chase").items()},
        [score_interval(plan, line, "chase") for line in table],
        over_pairs([table], plan),
    ]


def test_two_images_of_a_subject_do_not_double_n() -> None:
    study = a_study()
    gains = {name: list(np.random.default_rng(n).normal(0.03, 0.05, 7)) for n, name in enumerate(TITLES[1:])}
    scores = with_gains(gains, study, cases=3)
    doubled = {key: {subject: [*values, *values] for subject, values in row.items()} for key, row in scores.items()}
    once, twice = (a_table(study, every) for every in (scores, doubled))
    assert _described(once[1], once[0])[:2] == _described(twice[1], twice[0])[:2]
    assert compare(twice[1], twice[0], "chase")[TITLES[1]].subjects == 7
    assert smallest_p(7) == 2**-6


def test_the_order_and_the_names_of_subjects_change_nothing() -> None:
    study = a_study()
    gains = {name: list(np.random.default_rng(n).normal(0.03, 0.05, 7)) for n, name in enumerate(TITLES[1:])}
    scores = with_gains(gains, study)
    shuffled = {
        key: {f"q{(3 * n) % 7}": values for n, values in reversed(list(enumerate(row.values())))}
        for key, row in scores.items()
    }
    one, other = (a_table(study, every) for every in (scores, shuffled))
    assert _described(one[1], one[0])[:2] == _described(other[1], other[0])[:2]


def test_undefined_subjects_leave_the_pairs() -> None:
    study = a_study(target=["chase"])
    scores = {key: dict(row) for key, row in with_gains({TITLES[1]: [0.1] * 6}, study).items()}
    for seed in range(2):
        scores[TITLES[1], "chase", seed]["p05"] = [None]
    plan, table = a_table(study, scores)
    found = compare(table, plan, "chase")[TITLES[1]]
    assert found.subjects == 5
    assert found.note == "cannot be significant with 5 subjects"
    # and not the difference of the two scores, of other subjects
    assert found.difference == pytest.approx(0.1)
    assert (found.cases, found.undefined) == (5, (1, 0))
    assert "p05" not in subject_scores(plan, table[1], "chase")


DISTANCE = {"supervised": (None, 4.0, 2.0, 2.0), "misses": (None, 4.0, None, 2.5), "finds": (None, 5.0, 9.0, 2.0)}


def distances(tmp_path: Path) -> tuple[Study, Plan, list[Line], dict[str, dict[str, str]]]:
    """Dice as good for all three; a hard case that one row misses, and one where there is nothing
    to find."""
    study = a_study(target=["chase"])
    plan, table = a_table(study, with_gains({TITLES[1]: [0.0] * 4, TITLES[2]: [0.0] * 4}, study))
    records = {}
    for line, (_, values) in zip(table, DISTANCE.items(), strict=True):
        for run in line.runs:
            (record,) = run.tests["chase"]
            cases = tuple(
                {**case, "dice": None if n == 0 else case["dice"], "hd95": v}
                for n, (case, v) in enumerate(zip(record.cases, values, strict=True))
            )
            records[record.name] = replace(record, cases=cases, metrics=study.made_task.aggregate(cases))
    table = lines(plan, records, "last")
    rows = read(write_metrics(tmp_path, plan, table))
    return study, plan, table, {row["recipe"]: row for row in rows if row["metric"] == "hd95"}


def test_missing_a_hard_case_never_improves_a_row(tmp_path: Path) -> None:
    """The row that misses the third case has a lower mean, and is worse over the cases that both
    rows found; counts are beside it."""
    study, plan, table, rows = distances(tmp_path)
    nothing, misses, finds = (rows[title] for title in TITLES)
    assert float(misses["mean"]) == 3.25 < float(finds["mean"])
    assert [row["undefined_cases"] for row in (nothing, misses, finds)] == ["1", "2", "1"]
    assert {row["cases"] for row in rows.values()} == {"4"}
    assert (misses["paired_cases"], float(misses["difference"])) == ("2", 0.25)
    assert (finds["paired_cases"], float(finds["difference"])) == ("3", pytest.approx(8 / 3))
    told = decision_table(study, plan, table, "chase")
    at = [column.name for column in told.columns].index("hd95")
    small = [" ".join(cells[at].small.split()) for _, cells in told.rows]
    assert "+0.25 vs. no adaptation over 2 cases; undefined: 2 here, 1 with no adaptation" in small[1]
    assert "1 undefined" in small[0]
    text = io.StringIO()
    print_tables(study, plan, table, Console(file=text, width=200, highlight=False, markup=False))
    caption = " ".join(text.getvalue().split())
    assert "Cases of 4 where dice is undefined, left out of a row's mean, and of both rows of a difference" in caption
    assert f"{TITLES[1]} 1 (3 cases compared)" in caption


def test_the_verdict_says_whom_it_does_not_compare(tmp_path: Path) -> None:
    study, plan, table, _ = distances(tmp_path)
    (verdict,) = verdicts_of(study, plan, table).values()
    assert "3 subjects are compared: in the others dice is undefined in some row." in verdict.how


def test_a_metric_that_every_case_lacks_has_a_row_without_a_mean(tmp_path: Path) -> None:
    _, plan, table, _ = distances(tmp_path)
    for line in table:
        for run in line.runs:
            for case in run.tests["chase"][0].cases:
                case["asd"] = None
    records = {record.name: record for line in table for run in line.runs for record in run.tests["chase"]}
    rows = [row for row in read(write_metrics(tmp_path, plan, lines(plan, records, "last"))) if row["metric"] == "asd"]
    assert [(row["mean"], row["cases"], row["undefined_cases"]) for row in rows] == [("", "4", "4")] * 3


class Auc:
    """A task whose headline no single case has: the share of pairs that are in the right order."""

    headline = "auroc"

    def aggregate(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        positive = [case["chance"] for case in cases if case["label"]]
        negative = [case["chance"] for case in cases if not case["label"]]
        if not positive or not negative:
            return {"auroc": None}
        return {"auroc": float(np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative]))}


def test_a_pooled_headline_has_an_interval_and_no_p(monkeypatch: pytest.MonkeyPatch) -> None:
    study = a_study(target=["chase"])
    plan, table = a_table(study, with_gains({TITLES[1]: [0.0] * 12}, study))
    plan = replace(plan, task=Auc())
    rng = np.random.default_rng(5)
    scores = [[rng.normal(n % 2, spread, 12) for _ in range(2)] for n, spread in ((0, 1.0), (1, 0.5))]

    def with_cases(line: Line, which: int) -> Line:
        runs = []
        for run in line.runs:
            drawn = scores[which][run.row.seed]
            cases = tuple(
                {"subject": f"p{n}", "label": n % 2, "chance": float(s) + (n % 2) * which} for n, s in enumerate(drawn)
            )
            runs.append(replace(run, tests={"chase": (replace(run.tests["chase"][0], cases=cases),)}))
        return replace(line, runs=tuple(runs))

    made = [with_cases(table[0], 0), with_cases(table[1], 1)]
    found = compare(made, plan, "chase")[TITLES[1]]
    ours, theirs = (seed_scores(plan, line, "chase") for line in (made[1], made[0]))
    assert found.difference == pytest.approx(np.mean([ours[seed] - theirs[seed] for seed in (0, 1)]))
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high
    assert (found.subjects, found.p, found.effect) == (12, None, None)
    assert found.note == "auroc scores no single subject: interval only"
    interval = score_interval(plan, made[1], "chase")
    assert interval is not None
    assert interval[0] < np.mean(list(ours.values())) < interval[1]
    monkeypatch.setattr("allograft.results.scores.bootstrap_pooled", lambda *_: pytest.fail("drawn twice"))
    assert score_interval(plan, made[1], "chase") == interval
    assert compare(made, plan, "chase")[TITLES[1]] == found
    with pytest.raises(pytest.fail.Exception, match="drawn twice"):  # of other cases
        score_interval(plan, with_cases(table[1], 0), "chase")


def test_means_over_pairs_by_hand() -> None:
    study = a_study(seeds=3)
    values = {"chase": (0.5, 0.6, 0.9), "stare": (0.7, 0.6, 0.1)}
    scores: dict[Any, Any] = {
        ("supervised", site, seed): {"p": [v]} for site, row in values.items() for seed, v in enumerate(row)
    }
    scores |= {(TITLES[1], "chase", seed): {"p": [0.5]} for seed in range(3)}
    plan, table = a_table(study, scores, failed=[("supervised", "stare", 1)])
    first, second, third = over_pairs([table], plan)
    # seed 0: 0.6, seed 2: 0.5; seed 1 misses stare
    assert (first.title, first.pairs, first.seeds) == ("supervised", 2, 2)
    assert first.mean == pytest.approx(0.55)
    assert first.sd == pytest.approx(0.1 / math.sqrt(2))
    assert (second.seeds, second.mean, second.sd) == (third.seeds, third.mean, third.sd) == (0, None, None)
    alone = [line for line in table if line.target == "chase"]
    assert over_pairs([alone], plan)[0].mean == pytest.approx(alone[0].score("chase"))
    assert over_pairs([alone], plan)[0].sd == pytest.approx(alone[0].spread("chase"))


def test_do_nothing_gains_nothing_over_itself() -> None:
    study = a_study()
    plan, table = a_table(study, with_gains({TITLES[1]: [0.1] * 6}, study))
    base = table[0]
    found = difference(plan, base, base, "chase")
    assert found is not None
    assert found[0] == 0
    assert not found[1].any()


# ---- what is printed


def printed(study: Study, plan: Plan, table: Sequence[Line], width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False, markup=False)
    print_tables(study, plan, table, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_text_table_fits_and_says_it_all() -> None:
    study = a_study()
    plan, table = a_table(
        study, with_gains({TITLES[1]: [0.01, 0.02, 0.03, 0.044], TITLES[2]: [0.4, 0.3, 0.2, 0.1]}, study)
    )
    text = printed(study, plan, table)
    assert max(map(len, text.splitlines())) <= 160
    (row,) = (line for line in text.split("drive -> stare")[0].splitlines() if "fourier" in line)
    assert "0.341 ± 0.000" in row
    assert "+0.026" in row
    assert "(1)" in row
    assert "(1) cannot be significant with 4 subjects" in text
    assert "over 2 pairs: dice" in text
    assert max(map(len, printed(study, plan, table, 130).splitlines())) <= 130


def test_a_sign_is_explained_where_it_stands() -> None:
    study = a_study(target=["chase"])
    plan, table = a_table(study, with_gains({TITLES[1]: [0.1] * 6}, study))
    star, worse = "* the row of the verdict", "! loses here"
    assert star not in printed(study, plan, table)
    assert worse not in printed(study, plan, table)
    named = [replace(table[0], verdict="keep"), *table[1:]]
    assert star in printed(study, plan, named)
    assert worse not in printed(study, plan, named)
    lost = [*table[:2], replace(table[2], verdict="loses")]
    assert star not in printed(study, plan, lost)
    assert worse in printed(study, plan, lost)


def test_over_pairs_a_pre_training_leaves_weights_only_and_what_is_done_counts() -> None:
    study = a_study(seeds=1)
    scores: dict[Any, Any] = {("supervised", site, 0): {"p": [0.5]} for site in study.target}
    scores |= {(TITLES[1], "chase", 0): {"p": [0.6]}}
    plan, table = a_table(study, scores)
    # a tuning that stands in one part alone, and a pre-training that is done
    rows = [line for line in table if line.title != TITLES[1] or line.target == "chase"]
    bare = {"stage": "end", "error": "", "tests": {}}
    rows = [replace(line, runs=(replace(line.runs[0], **bare),)) if line.title == TITLES[2] else line for line in rows]
    text = printed(study, plan, rows).split("over 2 pairs")[1]
    words = {line.split("  ")[0].strip(): " ".join(line.split()) for line in text.splitlines()}
    assert words["supervised"] == "supervised 0.500 1 of 1 2 of 2"
    assert words[TITLES[1]] == f"{TITLES[1]} 1 of 2 pairs 0 of 1 1 of 1"
    assert words[TITLES[2]] == f"{TITLES[2]} weights only 2 of 2"
    recipes = overview.recipes_over([overview.Part("", "", study, plan, Standing(tuple(rows)))])
    page = {cells[0].text: (cells[1].text, cells[5].text) for _, cells in recipes.rows}
    assert page[TITLES[1]] == ("1 of 2 pairs", "1 of 1")
    assert page[TITLES[2]] == ("weights only", "2 of 2")


def test_intervals_name_their_unit_where_nothing_is_compared_too() -> None:
    """Do-nothing failed, or a stream has none."""
    study = a_study(target=["chase"])
    scores = with_gains({TITLES[1]: [0.1] * 6}, study)
    text = printed(study, *a_table(study, scores, failed=[("supervised", "chase", seed) for seed in range(2)]))
    assert " to " in next(line for line in text.splitlines() if TITLES[1] in line)
    assert "The unit is the subject" in text
    assert "Student's t" not in text


def test_a_study_without_target_labels_prints_no_statistics() -> None:
    study = a_study()
    plan, table = a_table(study, {})
    text = printed(study, plan, table)
    assert "no labelled test subject, nothing is ranked" in text
    assert "significant" not in text
    assert "The unit is" not in text
    assert "over 2 pairs" not in text


def test_cells_of_the_report() -> None:
    study = a_study(target=["chase"])
    plan, table = a_table(
        study,
        with_gains(
            {TITLES[1]: [0.1 + n / 100 for n in range(8)], TITLES[2]: [-0.1 - n / 100 for n in range(8)]}, study
        ),
    )
    made = decision_table(study, plan, table, "chase")
    names = [column.name for column in made.columns]
    cells = [dict(zip(names, row, strict=False)) for _, row in made.rows]
    assert cells[0]["gain"].text == cells[0]["p"].text == "–"
    assert cells[1]["gain"].text == "+0.135"
    assert cells[2]["gain"].text == "−0.135"
    found = compare(table, plan, "chase")
    low, high = found[TITLES[1]].low, found[TITLES[1]].high
    assert low is not None
    assert high is not None
    assert cells[1]["gain"].small == f"+{low:.3f} to +{high:.3f}"
    assert low < high
    assert cells[2]["gain"].small == f"−{high:.3f} to −{low:.3f}"
    assert cells[1]["p"].text == "0.016"
    assert cells[1]["p"].small == "raw 0.008"
    interval = score_interval(plan, table[1], "chase")
    assert interval is not None
    assert cells[1]["95 % interval"].text == f"{interval[0]:.3f} to {interval[1]:.3f}"
    few_plan, few = a_table(study, with_gains({TITLES[1]: [0.1] * 4}, study))
    made = decision_table(study, few_plan, few, "chase")
    # of every row, so it stands once, below the table
    assert made.note == "cannot be significant with 4 subjects"
    assert made.rows[1][1][[column.name for column in made.columns].index("p")].small == ""


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (9_996, "10.0k"), (99_960, "100k"), (999_900, "1.00M")],
)
def test_counts_are_short(number: float, text: str) -> None:
    assert short_count(number) == text


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_results_are_one_row_a_line_and_site(tmp_path: Path) -> None:
    study = a_study(target=["chase", '=stare, "b"'])
    plan, table = a_table(
        study, with_gains({TITLES[1]: [0.1 + n / 100 for n in range(8)]}, study), failed=[(TITLES[2], "chase", 0)]
    )
    rows = read(write_results(tmp_path, plan, table))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["recipe"], row["site"]) for row in rows] == [
        (line.title, line.target.replace("=", "'=")) for line in table
    ]
    row = next(row for row in rows if row["recipe"] == TITLES[1] and row["site"] == "chase")
    line = next(line for line in table if line.title == TITLES[1] and line.target == "chase")
    found: Comparison = compare(table, plan, "chase")[TITLES[1]]
    assert float(row["mean"]) == line.score("chase")
    assert (row["seeds_done"], row["seeds"], row["subjects"], row["paired_subjects"]) == ("2", "2", "8", "8")
    assert (float(row["low"]), float(row["high"])) == score_interval(plan, line, "chase")
    assert [float(row[key]) for key in ("difference", "difference_low", "difference_high")] == [
        found.difference,
        found.low,
        found.high,
    ]
    assert float(row["p"]) == found.p == 2**-7
    assert (row["train_seconds"], row["trainable_parameters"], float(row["predict_seconds_per_100"])) == (
        "2.5",
        "120000",
        18.75,
    )
    failed = next(row for row in rows if row["recipe"] == TITLES[2] and row["site"] == "chase")
    assert (failed["seeds_done"], failed["mean"], failed["difference"], failed["subjects"]) == ("0", "", "", "0")
    first = (tmp_path / "results.csv").read_bytes()
    write_results(tmp_path, plan, table)
    assert (tmp_path / "results.csv").read_bytes() == first


def test_results_have_p_as_it_came_and_adjusted(tmp_path: Path) -> None:
    study = a_study()
    gains = {TITLES[1]: [0.1 + n / 100 for n in range(8)], TITLES[2]: [-0.2 - n / 100 for n in range(8)]}
    rows = read(write_results(tmp_path, *a_table(study, with_gains(gains, study))))
    tested = [row for row in rows if row["recipe"] in TITLES[1:]]
    assert {(float(row["p"]), float(row["p_adjusted"])) for row in tested} == {(2**-7, 2**-6)}
    assert len(tested) == 4


class DiceAndAuc:
    """Dice of a case, the AUROC of all of them, and a metric without a value."""

    headline = "dice"

    def aggregate(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        return (
            {**mean_over_subjects(cases), **Auc().aggregate(cases), "ece": None, "undefined/ece": 1.0} if cases else {}
        )


def test_every_metric_has_a_row_and_an_interval(tmp_path: Path) -> None:
    plan, table = a_table(
        a_study(target=["chase"]), with_gains({TITLES[1]: [0.1 + n / 100 for n in range(8)]}, a_study(target=["chase"]))
    )
    plan = replace(plan, task=DiceAndAuc())
    record = table[1].runs[0].tests["chase"][0]
    judged = tuple({**case, "label": n % 2, "chance": (7 * n) % 8} for n, case in enumerate(record.cases))
    runs = tuple(
        replace(run, tests={"chase": (replace(run.tests["chase"][0], cases=judged),)}) for run in table[1].runs
    )
    pooled = {name: (value,) * 2 for name, value in plan.task.aggregate(judged).items() if value is not None}
    line = replace(table[1], runs=runs, metrics={"chase": pooled})
    rows = {row["metric"]: row for row in read(write_metrics(tmp_path, plan, [line]))}
    assert list(rows) == ["dice", "auroc"]
    assert float(rows["dice"]["mean"]) == line.score("chase")
    assert (float(rows["dice"]["low"]), float(rows["dice"]["high"])) == score_interval(plan, line, "chase")
    bounds = bootstrap_pooled([judged, judged], None, plan.task.aggregate)
    assert (float(rows["auroc"]["low"]), float(rows["auroc"]["high"])) == bounds["auroc"]
    assert (rows["auroc"]["subjects"], rows["auroc"]["seeds_done"], rows["auroc"]["sd_over_seeds"]) == ("8", "2", "0.0")


def test_other_sites_have_rows_of_their_own(tmp_path: Path) -> None:
    study = a_study(target=["chase"])
    plan, table = a_table(study, with_gains({TITLES[1]: [0.1 + n / 100 for n in range(8)]}, study))

    def also_at_the_source(line: Line, shift: float) -> Line:
        runs = []
        for run in line.runs:
            records = run.tests.get("chase", ())
            moved = tuple(
                replace(
                    r,
                    site="drive",
                    cost={"predict_seconds": 4.0},
                    cases=tuple({**c, "dice": c["dice"] + shift} for c in r.cases),
                )
                for r in records
            )
            runs.append(replace(run, tests={**run.tests, "drive": moved} if records else {}))
        return replace(line, runs=tuple(runs))

    table = [also_at_the_source(line, shift) for line, shift in zip(table, (0.2, -0.1, 0.0), strict=True)]
    rows = read(write_results(tmp_path, plan, table))
    here = {(row["recipe"], row["site"]): row for row in rows}
    assert [site for recipe, site in here if recipe == TITLES[1]] == ["chase", "drive"]
    assert float(here[TITLES[1], "chase"]["difference"]) == pytest.approx(0.135)
    assert float(here[TITLES[1], "drive"]["difference"]) == pytest.approx(0.135 - 0.3)
    assert here[TITLES[1], "drive"]["predict_seconds_per_100"] == "50.0"


NUMBERS = ("areas", "claims", "intervals", "power", "ranks", "statistics")


@pytest.mark.parametrize("name", NUMBERS)
def test_the_numbers_need_neither_torch_nor_the_rest_of_us(name: str) -> None:
    source = Path(statistics.__file__).with_name(f"{name}.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    hints = {
        id(inner) for node in ast.walk(tree) if isinstance(node, ast.If) for inner in ast.walk(node)
    }  # under TYPE_CHECKING
    nodes = [node for node in ast.walk(tree) if id(node) not in hints]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {f"allograft.results.{each}" for each in NUMBERS}
    assert not any(found.startswith(("torch", "allograft")) for found in names - ours)
