"""What tables and verdicts are made of: which rows are tested together, over which seeds and subjects,
at which level, and what is said where nothing can be shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.unit.results.test_verdict import BOUND, FREE, FULL, TOP, a_study, planted, scored

from allograft.results.areas import Area, area, area_difference, area_difference_p, mean_area
from allograft.results.comparison import areas, compare, families, of_areas, of_scores
from allograft.results.evidence import evidence_of, marked, marks, verdicts_of
from allograft.results.power import sd_limits
from allograft.results.sentence import decided
from allograft.results.statistics import adjust, bootstrap_pooled, smallest_p
from allograft.results.verdict import Verdict, reach_of
from allograft.study.keys import Statistics


# ---------------------------------------------------------- comparisons
def test_which_rows_share_a_level() -> None:
    study = a_study(
        primary="fourier",
        recipes=["fourier", {"finetune": {"scope": "top"}}, "finetune", {"target_supervised": {"labels": "all"}}],
    )
    plan, table = planted(study, scored({FREE: 0.1, TOP: 0.1, FULL: 0.1, BOUND: 0.3}))
    others = [line for line in table if line.title != "supervised"]
    assert [[line.title for line in family] for family in families(plan, others)] == [[FREE], [TOP, FULL], [BOUND]]
    found = compare(table, plan, "b")
    assert {row: one.rows for row, one in found.items()} == {FREE: 1, TOP: 2, FULL: 2, BOUND: 1}
    for row in (FREE, BOUND):
        assert found[row].adjusted == found[row].p
    assert [found[row].adjusted for row in (TOP, FULL)] == adjust([found[row].p or 0.0 for row in (TOP, FULL)])


def test_rows_that_cannot_be_tested_share_the_level_too() -> None:
    """One row has a single subject in common with the reference."""
    study = a_study()
    plan, table = planted(study, scored({TOP: 0.2, FULL: 0.1}))
    line = next(one for one in table if one.title == FULL)
    runs = tuple(
        replace(run, tests={"b": tuple(replace(record, cases=record.cases[:1]) for record in run.tests["b"])})
        for run in line.runs
    )
    found = compare([*(one for one in table if one is not line), replace(line, runs=runs)], plan, "b")
    assert (found[FULL].note, found[FULL].p) == ("one subject: no interval", None)
    assert (found[TOP].rows, found[TOP].adjusted) == (2, found[TOP].p)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_tables_test_as_the_study_says(alternative: Any) -> None:
    study = a_study(statistics={"alternative": alternative, "adjustment": "bonferroni"})
    plan, table = planted(study, scored({TOP: 0.2, FULL: 0.004}))
    found = compare(table, plan, "b")
    assert found == compare(table, plan, "b", alternative=alternative, adjust="bonferroni")
    assert found[FULL].adjusted == min(1.0, 2 * (found[FULL].p or 0.0))
    tails = {"two-sided": 2**-11, "greater": 2**-12, "less": 1.0}
    assert found[TOP].p == pytest.approx(tails[alternative])


@pytest.mark.parametrize(
    ("method", "note"),
    [
        ("none", ""),
        ("holm", "the smallest possible p after Holm over 2 rows is 0.062"),
        ("bonferroni", "the smallest possible p after Bonferroni over 2 rows is 0.062"),
    ],
)
def test_where_adjustment_leaves_no_hope_it_is_said(method: Any, note: str) -> None:
    """Six subjects: 0.03125, twice that over two rows."""
    plan, table = planted(a_study(), scored({TOP: 0.2, FULL: 0.1}, subjects=6))
    assert compare(table, plan, "b", adjust=method)[TOP].note == note


def test_of_areas_the_seeds_that_both_finished_count_and_their_subjects_scale_the_sd() -> None:
    rng = np.random.default_rng(0)
    flags, names = [n % 2 == 0 for n in range(12)], [str(n) for n in range(12)]

    def drawn(sharp: float) -> Area:
        made = area(rng.normal(size=12) + sharp * np.array(flags), flags, names)
        assert made is not None
        return made

    one, other = drawn(1.0), drawn(0.2)
    found = of_areas(one, other, "two-sided")
    gap = area_difference(one, other)
    assert (found.subjects, found.difference) == (12, gap.value)
    assert found.sd == pytest.approx((12 * gap.variance) ** 0.5)
    assert found.dof == gap.dof != 11
    assert found.p == area_difference_p(one, other)
    assert area_difference_p(one, other, "greater") == pytest.approx(1 - (area_difference_p(one, other, "less") or 0.0))
    assert (area_difference_p(one, other, "greater") or 1.0) < 0.5 < (area_difference_p(one, other, "less") or 0.0)
    few = area([1, 2, 3, 4, 5], [True, False, False, False, False], "abcde")
    assert few is not None
    alone = of_areas(few, few, "two-sided")  # both are 0, by ranks alone
    assert (alone.note, alone.low, alone.high) == ("one positive subject: interval only", -0.975, 0.975)
    assert (alone.p, alone.sd, alone.dof) == (None, None, None)
    assert mean_area([one, few]).counts == (1, 4)
    assert mean_area([few, one]).counts == (1, 4)


def test_the_areas_of_two_rows_are_over_their_common_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [
        area([0.1, 0.4, 0.35, 0.8], [False, False, True, True], "abcd"),
        area([0.1, 0.2, 0.3, 0.4], [False, False, True, True], "abcd"),
    ]
    of = {"ours": {0: made[0], 1: made[1], 2: made[0]}, "theirs": {1: made[1], 2: made[1], 3: made[0]}}
    monkeypatch.setattr("allograft.results.comparison.seed_areas", lambda plan, line, site: of[line])
    both = areas(None, "ours", "theirs", "b")  # type: ignore[arg-type]
    assert both is not None
    assert [one.value for one in both] == [pytest.approx((1 + 0.75) / 2), 1.0]


def test_a_comparison_of_one_subject_and_of_nothing_says_so() -> None:
    assert of_scores(0.0, np.zeros(8), "two-sided").note == "no difference"
    assert of_scores(0.0, np.zeros(8), "two-sided").p == 1.0
    few = of_scores(0.1, np.array([0.1, 0.2, 0.05]), "two-sided")
    assert (few.note, few.p) == ("cannot be significant with 3 subjects", None)
    assert few.sd == pytest.approx(np.std([0.1, 0.2, 0.05], ddof=1))
    assert few.dof == 2


def test_draws_where_a_metric_is_undefined_are_left_out_and_too_few_give_no_interval() -> None:
    def aggregate(cases: Any) -> dict[str, float | None]:
        known = {case["subject"].split("\0")[0] for case in cases}
        values = [case["x"] for case in cases]
        return {
            "often": None if "0" not in known else float(np.mean(values)),
            "rarely": 1.0 if len(known) == 1 else None,
        }

    cases = [{"case": str(n), "subject": str(n), "x": n} for n in range(4)]
    found = bootstrap_pooled([cases], None, aggregate)
    assert found.keys() == {"often"}
    # subjects that one of the two has not are in neither
    other = [{"case": str(n), "subject": str(n), "x": 10 + n} for n in range(2, 6)]
    low, high = bootstrap_pooled([cases], [other], lambda drawn: {"x": float(np.mean([case["x"] for case in drawn]))})[
        "x"
    ]
    assert (low, high) == (pytest.approx(-10), pytest.approx(-10))


# ---------------------------------------------------------- verdicts
def test_every_source_is_home_and_only_what_passes_the_tolerance_is_marked() -> None:
    study = a_study(source=["home", "away"], statistics={"tolerance": 0.05})
    plan, table = planted(
        study, scored({TOP: -0.03, FULL: 0.1}, spread=0.001), home={(FULL, "away"): -0.2, (TOP, "home"): -0.04}
    )
    found = marks(study, plan, table, "b")
    # a loss at the target counts where it is sure, however small; at home only beyond the tolerance
    assert found.keys() == {TOP, FULL}
    assert [mark.split(" (")[0] for mark in found[FULL]] == ["forgets 0.200 at away"]
    assert [mark.split(" (")[0] for mark in found[TOP]] == ["loses 0.030 at b"]
    lenient = replace(plan, statistics=Statistics(tolerance=0.3))
    assert marks(study, lenient, table, "b").keys() == {TOP}


def test_evidence_holds_each_row_s_own_costs_and_labels() -> None:
    study = a_study()
    seconds = {"supervised": 60.0, FREE: 0.0, TOP: 30.0, FULL: 90.0}
    plan, table = planted(study, scored({FREE: 0.1, TOP: 0.2, FULL: 0.3}), seconds=seconds)
    base, *rows = table
    found = evidence_of(plan, rows, base, "b")
    assert found is not None
    assert (found.titles, found.labels, found.seconds) == ((FREE, TOP, FULL), (0, 4, 4), (0.0, 30.0, 90.0))
    assert (found.exact, found.dof, found.primary) == (True, None, None)
    assert found.cheapness.tolist() == [0, 1, 2]
    named = evidence_of(replace(plan, primary=TOP), rows, base, "b")
    assert named is not None
    assert (named.primary, named.others) == (1, [0, 2])
    timeless = [
        replace(
            line,
            runs=tuple(
                replace(run, tests={"b": tuple(replace(r, cost={}) for r in run.tests["b"])}) for run in line.runs
            ),
        )
        for line in rows
    ]
    untimed = evidence_of(plan, timeless, base, "b")
    assert untimed is not None
    assert untimed.seconds == (np.inf,) * 3
    assert replace(found, labels=(4, 4, 4), seconds=(9.0, 3.0, 3.0)).cheapness.tolist() == [2, 0, 1]
    assert replace(found, labels=(4, 3, 5), seconds=(1.0, 9.0, 0.0)).cheapness.tolist() == [1, 0, 2]


def test_words_of_a_line_are_those_of_the_verdict_and_its_marks() -> None:
    _, table = planted(a_study(), scored({TOP: 0.2, FULL: 0.1}))
    verdict = Verdict(
        "change",
        "gain shown",
        row=TOP,
        tied=(TOP, FULL),
        marks={FULL: ("loses 0.1 at b", "forgets 0.2 at a")},
        reference="supervised",
    )
    assert [line.verdict for line in marked(table, {"b": verdict})] == ["", "change", "tied; loses; forgets"]
    kept = replace(verdict, action="keep", row="", tied=(), marks={})
    assert [(line.verdict, line.chosen) for line in marked(table, {"b": kept})] == [
        ("keep", True),
        ("", False),
        ("", False),
    ]
    assert [line.verdict for line in marked(table, {})] == [""] * 3


@pytest.mark.parametrize(("alternative", "tails"), [("two-sided", 1), ("greater", 2), ("less", 1)])
def test_what_a_test_set_can_show_is_at_the_level_of_all_rows(alternative: Any, tails: int) -> None:
    statistics = Statistics(alternative=alternative, margin=0.05)
    found = reach_of(0.1, 8, 4, statistics, exact=True)
    assert (found.sd, found.subjects) == (0.1, 8)
    assert (found.sd_low, found.sd_high) == sd_limits(0.1, 8)
    low, high = sd_limits(0.1, 8, 0.5)
    assert found.sd_low < low < 0.1 < high < found.sd_high
    assert found.sd_low < 0.1 < found.sd_high
    from allograft.results.power import power, smallest_difference, subjects_needed

    level = tails * 0.05 / 4
    assert found.needed == subjects_needed(0.05, 0.1, level)
    assert found.smallest == pytest.approx(smallest_difference(0.1, 8, level))
    assert float(power((found.smallest or 0.0) / 0.1, 8, level)) == pytest.approx(0.8)
    # with so few no exact test is significant, however large a difference
    hopeless = reach_of(1e-3, 5, 4, statistics, exact=True)
    assert hopeless.smallest is None
    assert hopeless.needed is not None
    assert (
        smallest_p(hopeless.needed, "greater" if tails == 2 else "two-sided") * 4
        <= 0.05
        < smallest_p(hopeless.needed - 1, "greater" if tails == 2 else "two-sided") * 4
    )
    assert reach_of(1e-3, 5, 4, statistics, exact=False).smallest is not None


def test_the_sentence_counts_all_subjects_seeds_and_homes() -> None:
    study = a_study(source=["home", "b2"], seeds=2)
    plan, table = planted(study, scored({TOP: 0.2, FULL: 0.1}))
    verdict = verdicts_of(study, plan, table)["b"]
    assert "12 test subjects, each with the mean over its images and over 2 seeds" in verdict.how[0]
    assert "dice" in verdict.sentence
    fewer = [
        replace(
            line,
            runs=tuple(
                replace(run, tests={"b": tuple(replace(r, cases=r.cases[:5]) for r in run.tests["b"])})
                for run in line.runs
            ),
        )
        if line.title == FULL
        else line
        for line in table
    ]
    assert "12 test subjects" in decided(study, plan, verdict, fewer, "b")[0]
    assert "What is forgotten at" not in " ".join(verdict.how)
