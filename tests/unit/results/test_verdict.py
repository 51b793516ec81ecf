"""The verdict: every rule on planted records, and how often it is wrong where nothing is gained."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from tests.unit.tiny import a_row

from allograft.errors import SpecError
from allograft.recipe import parse_recipe, title
from allograft.report import overview
from allograft.report.decision import decision_table
from allograft.results.comparison import compare
from allograft.results.csv_files import write_results
from allograft.results.evidence import evidence_of, marked, verdicts_of, write_verdicts
from allograft.results.record import Record
from allograft.results.scores import score_interval
from allograft.results.select import Chosen, Line, lines
from allograft.results.sentence import NO_REFERENCE, sentence
from allograft.results.standing import Standing
from allograft.results.table import table_of
from allograft.results.verdict import KEPT, Evidence, Verdict, choose, decide, optimism
from allograft.study.keys import Statistics
from allograft.study.plan import Plan
from allograft.study.reading import make_study
from allograft.study.spec import Study
from allograft.tasks.classification import Classification

SUBJECTS = 12
FREE, TOP, FULL, BOUND = "fourier", "finetune scope=top", "finetune", "target_supervised labels=all"
RECIPES: dict[str, Any] = {
    "supervised": "supervised",
    FREE: "fourier",
    TOP: {"finetune": {"scope": "top"}},
    FULL: "finetune",
    BOUND: {"target_supervised": {"labels": "all"}},
}
SECONDS = {"supervised": 60.0, FREE: 0.0, TOP: 30.0, FULL: 90.0, BOUND: 60.0}
LABELS = {"supervised": 0, FREE: 0, TOP: 4, FULL: 4, BOUND: 9}


def a_study(**changes: Any) -> Study:
    tree = {
        "cohort": "m.csv",
        "task": {"segmentation": {"classes": ["vessel"]}},
        "source": ["home"],
        "target": ["b"],
        "target_labels": {"subjects": 4},
        "recipes": list(RECIPES.values())[1:],
        "seeds": 2,
    }
    return make_study({**tree, **changes})


def noise(row: str, size: float = 0.01, subjects: int = SUBJECTS) -> NDArray[np.float64]:
    """Of each subject, with mean 0."""
    drawn = np.random.default_rng(sum(map(ord, row))).normal(0, size, subjects)
    return drawn - drawn.mean()


def scored(
    gains: Mapping[str, float], level: float = 0.5, spread: float = 0.01, subjects: int = SUBJECTS
) -> dict[str, Any]:
    """Row -> a score for each subject: do-nothing's, more by the gain on average."""
    nothing = level + noise("nothing", 0.05, subjects)
    return {"supervised": nothing} | {row: nothing + gain + noise(row, spread, subjects) for row, gain in gains.items()}


def planted(
    study: Study,
    scores: Mapping[str, Sequence[float]],
    *,
    home: Mapping[Any, float] | None = None,
    labels: Mapping[str, int] = LABELS,
    seconds: Mapping[str, float] = SECONDS,
    failed: Sequence[str] = (),
) -> tuple[Plan, list[Line]]:
    """The table of a study whose rows scored so at the target, and 0.8 plus ``home`` at its sources,
    of a row or of a row and a source."""
    made = {row: parse_recipe(RECIPES[row]) for row in RECIPES if row in scores or row in failed}
    rows = [a_row(recipe, "b", seed, 0, f"{row}.{seed}") for seed in range(study.seeds) for row, recipe in made.items()]
    plan = Plan(tuple(rows), study.seeds, study.made_task, study.statistics, study.primary_title)
    records = []
    for row in rows:
        name = title(row.recipe)
        if name in failed:
            records.append(
                Record(row.unit, {}, row.seed, "failed", 0, "b", "test", target="b", status="failed", error="broke")
            )
            continue
        own = tuple(f"t{n}" for n in range(labels[name]))
        cost = {"train_seconds": seconds[name], "peak_memory_mb": 1.0, "trainable_parameters": 1}
        wobble = 0.001 * (-1) ** row.seed
        at_home = {site: (home or {}).get((name, site), (home or {}).get(name, 0.0)) for site in study.source}
        sites = {"b": scores[name]} | {site: 0.8 + more + noise("home", 0.02) for site, more in at_home.items()}
        for site, values in sites.items():
            cases = tuple(
                {"case": f"{site}{n}", "subject": f"{site}{n:02d}", "dice": float(v) + wobble}
                for n, v in enumerate(values)
            )
            records.append(
                Record(
                    row.unit,
                    {},
                    row.seed,
                    "end",
                    0,
                    site,
                    "test",
                    target="b",
                    labelled_subjects=own,
                    cases=cases,
                    cost=cost,
                )
            )
    return plan, lines(plan, {record.name: record for record in records}, study.selection)


def verdict(study: Study, scores: Mapping[str, Sequence[float]], **more: Any) -> Verdict:
    plan, table = planted(study, scores, **more)
    return verdicts_of(study, plan, table)["b"]


# ---- the five wrong recommendations of a row because it was listed last


def test_fine_tuning_listed_last_at_235_below_a_row_at_428() -> None:
    found = verdict(a_study(), scored({TOP: 0.228, FULL: 0.035}, level=0.2))
    assert (found.action, found.row, found.reason) == ("change", TOP, "gain shown")
    assert "dice 0.428" in found.sentence
    assert "worst site b with 0.428" in found.sentence


def test_an_ablation_listed_last_that_loses() -> None:
    found = verdict(a_study(), scored({FREE: 0.057, FULL: -0.02}, level=0.398))
    assert (found.action, found.row) == ("change", FREE)
    assert found.marks[FULL][0].startswith("loses 0.020 at b")


def test_a_row_listed_last_that_lost_198() -> None:
    found = verdict(a_study(), scored({TOP: 0.0, FULL: -0.198}, level=0.676))
    assert (found.action, found.row) == ("keep", "")
    assert found.marks[FULL][0].startswith("loses 0.198 at b (-0.2")
    assert found.sentence.startswith("Keep your model: dice 0.676")


def test_a_control_where_nothing_is_gained() -> None:
    found = verdict(a_study(), scored({FREE: 0.001, TOP: 0.002, FULL: -0.001}, level=0.911, spread=0.008))
    assert (found.action, found.row, found.tied, found.label_free) == ("keep", "", (), "")
    assert found.reason == "no gain shown"
    assert "the highest is finetune scope=top, +0.002 over your model" in found.sentence


def test_a_row_listed_last_that_is_a_little_worse_at_the_target_and_at_home() -> None:
    found = verdict(a_study(), scored({TOP: -0.003, FULL: -0.014}, level=0.83), home={FULL: -0.05})
    assert found.action == "keep"
    assert [why.split()[0] for why in found.marks[FULL]] == ["loses", "forgets"]
    assert found.marks[FULL][1].startswith("forgets 0.050 at home")


# ---- keep


def test_too_few_subjects_come_with_the_number_that_the_margin_would_need() -> None:
    found = verdict(a_study(), scored({TOP: 0.1, FULL: 0.12}, subjects=4, spread=0.03))
    assert (found.action, found.reason) == ("keep", "too few subjects to show one")
    assert found.reach is not None
    assert found.reach.needed is not None
    assert found.reach.needed > found.reach.subjects == 4
    assert f"4 subjects are too few to show a gain, {found.reach.needed} would show 0.02" in found.sentence
    wide = verdict(a_study(statistics={"margin": 0.2}), scored({TOP: 0.1, FULL: 0.12}, subjects=4, spread=0.03))
    assert wide.reach is not None
    assert wide.reach.needed is not None
    assert wide.reach.needed < found.reach.needed
    # the exact test cannot be significant with four
    assert wide.reason == "too few subjects to show one"
    assert verdict(a_study(), {"supervised": [0.5], TOP: [0.9]}).reason == "too few subjects to show one"


def test_what_the_test_set_can_show_is_at_the_level_of_the_test() -> None:
    """Of three rows, and on one side where only gains are tested."""
    from statsmodels.stats.power import TTestPower

    scores = scored({FREE: 0.0, TOP: 0.0, FULL: 0.1}, spread=0.03)
    sd = float(np.std(scores[FULL] - scores["supervised"], ddof=1))
    for alternative, theirs in (("two-sided", "two-sided"), ("greater", "larger")):
        told = {"alpha": 0.05 / 3, "power": 0.8, "alternative": theirs}
        reach = verdict(a_study(statistics={"alternative": alternative}), scores).reach
        assert reach is not None
        assert reach.needed == math.ceil(TTestPower().solve_power(0.02 / sd, **told))
        assert reach.smallest == pytest.approx(sd * TTestPower().solve_power(nobs=SUBJECTS, **told), rel=1e-4)


def test_a_study_of_losses_has_the_verdict_of_a_two_sided_one() -> None:
    scores = scored({FREE: 0.0, TOP: 0.1, FULL: -0.1})
    assert verdict(a_study(statistics={"alternative": "less"}), scores) == verdict(a_study(), scores)


def test_where_the_exact_test_can_show_nothing_no_difference_is_said_to_be_shown() -> None:
    """Of three rows: six subjects cannot, seven can."""
    seven = scored({FREE: 0.0, TOP: 0.1, FULL: 0.12}, subjects=7, spread=0.001)
    found = verdict(a_study(), {row: values[:6] for row, values in seven.items()})
    assert found.reach is not None
    assert (found.reach.needed, found.reach.smallest) == (7, None)
    assert "7 subjects, and 6 subjects show none, however large." in " ".join(found.how)
    assert found.reason == "too few subjects to show one"
    found = verdict(a_study(), seven)
    assert found.reach is not None
    assert found.reach.smallest is not None
    assert f"7 subjects show one of {found.reach.smallest:.3f}." in " ".join(found.how)


def test_the_interval_and_the_exact_test_must_both_show_the_gain() -> None:
    """Subjects that all gain: with six the interval says yes, and no p can after Holm over three
    rows; with seven both do."""
    scores = scored({FREE: 0.1, TOP: 0.1, FULL: 0.1}, subjects=7)
    seven = verdict(a_study(), scores)
    assert (seven.action, seven.p) == ("change", pytest.approx(3 * 2**-6))
    six = verdict(a_study(), {row: values[:6] for row, values in scores.items()})
    assert six.low is not None
    assert six.low > 0
    assert six.p == pytest.approx(3 * 2**-5)
    assert six.action == "keep"
    outlier = scored({TOP: 0.05})
    outlier[TOP] = outlier["supervised"] + np.array(
        [0.01] * 11 + [0.4]
    )  # all gain, by ranks beyond doubt, and one carries the mean
    found = verdict(a_study(), outlier)
    assert found.p is not None
    assert found.p < 0.001
    assert found.low is not None
    assert found.low < 0
    assert found.action == "keep"


def test_limits_are_joint_over_the_rows_that_share_a_level() -> None:
    scores = scored({FREE: 0.0, TOP: 0.0, FULL: 0.1}, spread=0.03)
    gains = scores[FULL] - scores["supervised"]
    for study, rows in ((a_study(), 3), (a_study(primary="fourier"), 2), (a_study(primary="finetune"), 1)):
        found, expected = verdict(study, scores), stats.ttest_1samp(gains, 0).confidence_interval(1 - 0.05 / rows)
        assert (found.looked_at, found.rows) == (FULL, rows)
        assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
        assert f"({expected.low:+.3f} to {expected.high:+.3f}, p" in found.sentence
    onesided = verdict(a_study(statistics={"alternative": "greater"}), scores)
    assert onesided.low == pytest.approx(
        stats.ttest_1samp(gains, 0, alternative="greater").confidence_interval(1 - 0.05 / 3).low
    )


def test_a_gain_that_one_row_alone_would_show_is_not_shown_among_many() -> None:
    rng = np.random.default_rng(5)
    nothing = rng.beta(6, 1.2, 12)
    gain = rng.normal(0, 0.03, 12)
    gain += 0.0225 - gain.mean()
    alone = Evidence(("a",), np.stack([nothing, nothing + gain], 1), (0.0,), (1.0,))
    many = np.stack([nothing, nothing + gain, *(nothing + rng.normal(0, 0.03, 12) for _ in range(7))], 1)
    among = Evidence(tuple("abcdefgh"), many, (0.0,) * 8, (1.0,) * 8)
    assert decide(alone, Statistics())["action"] == "change"
    assert decide(among, Statistics())["action"] == "keep"


def test_a_false_claim_is_shrunk_over_the_rows_that_compete() -> None:
    """However much an upper bound gains, it says nothing of them."""
    scores = scored({FREE: 0.0, TOP: 0.01, FULL: 0.015, BOUND: 0.4}, spread=0.03)
    gains = np.stack([scores[row] - scores["supervised"] for row in (FREE, TOP, FULL, BOUND)], 1)
    mean, error = gains.mean(0), stats.sem(gains)
    signal = np.mean(mean[:3] ** 2 - error[:3] ** 2)
    assert signal > 0
    pull = np.sqrt(signal / (signal + error[:3] ** 2))
    plan, table = planted(a_study(), scores)
    found = {row: one.false_claim for row, one in compare(table, plan, "b").items()}
    expected = stats.t.cdf(-mean[:3] / error[:3] * pull, SUBJECTS - 1)
    assert [found[row] for row in (FREE, TOP, FULL)] == pytest.approx(list(expected))
    assert found[FREE] == pytest.approx(0.5)
    assert found[BOUND] is not None
    assert found[BOUND] < 1e-6


# ---- change


def test_of_rows_that_cannot_be_told_apart_the_cheapest_in_labels_then_in_time_is_taken() -> None:
    scores = scored({FREE: 0.199, TOP: 0.2, FULL: 0.202})
    found = verdict(a_study(), scores)
    assert (found.row, found.tied) == (FREE, (FULL, TOP, FREE))
    assert "with no labelled patient and less than a minute of training" in found.sentence
    same = dict.fromkeys(LABELS, 4)
    assert verdict(a_study(), scores, labels=same, seconds={**SECONDS, FREE: 99.0}).row == TOP
    assert verdict(a_study(), scores, labels={**same, FULL: 1}).row == FULL
    apart = verdict(a_study(), scored({FREE: 0.1, TOP: 0.15, FULL: 0.202}))
    assert (apart.row, apart.tied, apart.label_free) == (FULL, (FULL,), FREE)
    assert "with 4 labelled patients and 2 minutes of training" in apart.sentence


@pytest.mark.parametrize(("t", "tied"), [(2.2, [0, 1]), (2.45, [0, 1]), (2.8, [0])])
def test_two_of_three_rows_are_told_apart_at_the_level_of_two_questions(t: float, tied: list[int]) -> None:
    """With ten subjects t reaches 2.26 at 1 - .05, 2.69 at 1 - .05 / 2, and 2.93 at 1 - .05 / 3."""
    assert [stats.t.ppf(1 - 0.025 / k, 9) for k in (1, 2, 3)] == pytest.approx([2.262, 2.685, 2.933], abs=1e-3)
    rng = np.random.default_rng(4)
    apart = rng.normal(0, 1, 10)
    apart = 0.02 + (apart - apart.mean()) * 0.02 * np.sqrt(10) / t / apart.std(ddof=1)
    nothing = rng.beta(6, 2, 10)
    rows = [nothing, nothing + 0.3, nothing + 0.3 - apart, nothing]
    made = Evidence(tuple("abc"), np.column_stack(rows), (4.0, 0.0, 0.0), (1.0,) * 3)
    found = choose(made, made.values[None])
    assert found.gained[0].tolist() == [True, True, False]
    assert np.flatnonzero(found.tied[0]).tolist() == tied
    assert found.row[0] == tied[-1]


def test_a_row_without_a_shown_gain_is_not_taken_for_being_cheap() -> None:
    scores = scored({TOP: 0.05, FULL: 0.05})
    scores[FREE] = scores["supervised"] + 0.04 + noise(FREE, 0.2)
    found = verdict(a_study(), scores)
    assert found.row == TOP
    assert FREE not in found.tied
    assert found.label_free == ""


def test_what_was_not_measured_at_home_is_said_to_be_unknown() -> None:
    study = a_study()
    plan, table = planted(study, scored({TOP: 0.1, FULL: 0.05}))
    at_b = [
        replace(line, scores={"b": line.scores["b"]}, runs=tuple(only_at(run, "b") for run in line.runs))
        for line in table
    ]
    assert (
        verdicts_of(study, plan, table)["b"]
        .how[-2]
        .endswith("no row loses at the target or forgets more than that at home.")
    )
    found = verdicts_of(study, plan, at_b)["b"]
    home = ", ".join(study.source)
    assert (
        found.how[-2]
        == f"Never worse (tolerance 0.02): no row loses at the target. What is forgotten at {home} was not measured."
    )
    assert "what is forgotten at home was not measured" in found.sentence


def only_at(run: Chosen, site: str) -> Chosen:
    """The run, as if no other site had been tested."""
    return replace(run, tests={site: run.tests[site]})


def test_upper_bounds_and_what_failed_never_compete() -> None:
    found = verdict(a_study(), scored({TOP: 0.1, BOUND: 0.3}), failed=[FULL])
    assert (found.row, found.rows, found.tied) == (TOP, 1, (TOP,))
    assert any("Upper bounds do not compete: target_supervised labels=all" in line for line in found.how)
    plan, table = planted(a_study(), scored({TOP: 0.1, FULL: 0.1, BOUND: 0.3}))
    compared = compare(table, plan, "b")
    alone = 2 * 0.5**SUBJECTS
    assert [compared[row].adjusted for row in (TOP, FULL, BOUND)] == [2 * alone, 2 * alone, alone]


def test_the_test_scores_may_not_choose_before() -> None:
    found = verdict(a_study(selection="oracle"), scored({TOP: 0.1}))
    assert found.action == "not-measured"
    assert "oracle" in found.reason


def test_where_nothing_was_measured_nothing_is_said() -> None:
    study = a_study()
    plan, table = planted(study, scored({TOP: 0.1}))
    bare = [replace(line, scores={}, runs=tuple(replace(run, tests={}) for run in line.runs)) for line in table]
    found = verdicts_of(study, plan, bare)["b"]
    assert (found.action, found.reason) == ("not-measured", "no test subject has labels")
    assert found.sentence == "Nothing can be said of b: no test subject has labels."
    assert verdict(study, {"supervised": [0.5] * 5}).reason == "no other row was measured"
    assert (
        verdict(study, scored({TOP: 0.1}), failed=["supervised"]).reason == "no adaptation has no score to compare with"
    )


# ---- where no row does nothing

ALONE = "target_supervised"


@pytest.fixture
def from_scratch(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setitem(RECIPES, ALONE, "target_supervised")
    monkeypatch.setitem(LABELS, ALONE, 4)
    monkeypatch.setitem(SECONDS, ALONE, 60.0)
    return a_study(source=[], recipes=[])


def without_nothing(gains: Mapping[str, float]) -> dict[str, Any]:
    rows = scored(gains)
    return {ALONE: rows.pop("supervised"), **rows}


def test_target_supervised_is_the_reference_where_no_row_does_nothing(from_scratch: Study) -> None:
    found = verdict(from_scratch, without_nothing({TOP: 0.1, BOUND: 0.3}))
    same = verdict(a_study(), scored({TOP: 0.1, BOUND: 0.3}))
    assert (found.action, found.row, found.reference, same.reference) == ("change", TOP, ALONE, "supervised")
    assert (found.gain, found.low, found.p) == (same.gain, same.low, same.p)
    assert f"+0.100 over {ALONE} (" in found.sentence
    assert any(f"There is no row without adaptation, so {ALONE} is the reference" in line for line in found.how)
    assert not any("There is no row without adaptation" in line for line in same.how)


def test_the_reference_is_stayed_with_and_named_everywhere(from_scratch: Study) -> None:
    plan, table = planted(from_scratch, without_nothing({TOP: 0.0}))
    found = verdicts_of(from_scratch, plan, table)
    assert found["b"].sentence.startswith(
        f"Stay with {ALONE}, the reference where there is no row without adaptation: dice 0.500"
    )
    assert "your model" not in found["b"].sentence
    made = marked(table, found)
    assert [line.verdict for line in made if line.title == ALONE] == ["keep"]
    headings = {str(column.header).replace("\n", " ") for column in table_of(from_scratch, plan, made, "b").columns}
    assert f"vs. {ALONE}" in headings
    page = decision_table(from_scratch, plan, made, "b")
    assert f"vs. {ALONE}" in {column.small for column in page.columns}
    assert sum(cell.small == "reference" for _, cells in page.rows for cell in cells) == 1


def test_the_page_over_all_pairs_compares_with_the_same_reference(from_scratch: Study) -> None:
    study = replace(from_scratch, source=("a",))
    plan, table = planted(from_scratch, without_nothing({TOP: 0.1}))
    found = verdicts_of(from_scratch, plan, table)
    now = Standing(tuple(marked(table, found)), found, 1, 1)
    part = overview.Part("from a", "", study, plan, now)
    assert found["b"].reference == ALONE
    pairs = overview._pairs(plan, [part])
    assert [column.small for column in pairs.columns[2:]] == [ALONE, plan.headline, f"vs. {ALONE}"]
    ((_, cells),) = pairs.rows
    base, choice = (next(line for line in table if line.title == title) for title in (ALONE, TOP))
    assert [cell.value for cell in cells[2:4]] == [base.score("b"), choice.score("b")]
    assert cells[4].value == pytest.approx(found["b"].gain)
    recipes = overview.recipes_over([part])
    gains = {cells[0].text: cells[2].value for _, cells in recipes.rows}
    assert gains[TOP] == pytest.approx(found["b"].gain)
    assert recipes.columns[3].small == f"than {ALONE}"
    maps = overview._maps([part])
    assert maps[0].title.startswith(f"{ALONE}, from (rows) to (columns)")
    assert f"{base.score('b'):.3g}" in maps[0].picture
    assert f"{choice.score('b'):.3g}" in maps[1].picture


def test_the_page_over_all_pairs_counts_the_subjects_of_a_row_that_has_scores() -> None:
    study = a_study()
    plan, table = planted(study, scored({TOP: 0.1}), failed=[FREE])
    found = verdicts_of(study, plan, table)
    part = overview.Part("from a", "", study, plan, Standing(tuple(marked(table, found)), found, 1, 1))
    ((_, cells),) = overview._pairs(plan, [part]).rows
    assert cells[1].value == len(scored({TOP: 0.1})[TOP])


def test_beside_do_nothing_target_supervised_is_a_row_like_others(from_scratch: Study) -> None:
    nothing = scored({TOP: 0.0})
    plan, table = planted(a_study(), nothing | {ALONE: nothing["supervised"]})
    found = verdicts_of(a_study(), plan, table)
    assert found["b"].reference == "supervised"
    assert {line.title: line.verdict for line in marked(table, found)} == {"supervised": "keep", TOP: "", ALONE: ""}


def test_without_a_reference_the_scores_are_listed(from_scratch: Study) -> None:
    scores = without_nothing({TOP: 0.1, BOUND: 0.3})
    del scores[ALONE]
    found = verdict(from_scratch, scores)
    assert (found.action, found.reason, found.reference) == ("not-measured", "no row is a reference", "")
    assert found.sentence == (
        f"There is no reference row at b, so rows are neither compared nor chosen: dice of {TOP} 0.600, {BOUND} 0.800 "
        "(an upper bound)."
    )
    assert verdict(from_scratch, scores, failed=[ALONE]).reason == (
        f"the reference, {ALONE}, has no score to compare with"
    )


def test_without_a_reference_the_page_has_no_columns_of_gains(from_scratch: Study) -> None:
    rows = without_nothing({TOP: 0.1, BOUND: 0.3})
    for kept, gains in ((rows, True), ({name: rows[name] for name in (TOP, BOUND)}, False)):
        plan, table = planted(from_scratch, kept)
        made = decision_table(from_scratch, plan, table, "b")
        assert any(column.group == "gain" for column in made.columns) == gains
        assert {len(cells) for _, cells in made.rows} == {len(made.columns)}


def test_a_stream_without_a_reference_is_called_one(from_scratch: Study) -> None:
    plan, table = planted(from_scratch, {TOP: without_nothing({TOP: 0.1})[TOP]})
    found = verdicts_of(from_scratch, plan, table)["b"]
    a_stream = SimpleNamespace(stream=(("a",), ("b",)))  # all that is read of the study here
    told = sentence(a_stream, plan, replace(found, reason=NO_REFERENCE), table, None, "stream")
    assert told.startswith("There is no reference row for a stream, so rows are neither compared")


def test_where_only_weights_are_left_it_is_said(from_scratch: Study) -> None:
    plan, table = planted(from_scratch, {TOP: without_nothing({TOP: 0.1})[TOP]})
    bare = [replace(line, scores={}, runs=tuple(replace(run, tests={}) for run in line.runs)) for line in table]
    said = verdicts_of(from_scratch, plan, bare)["b"].sentence
    assert said == "Nothing can be said of b: its rows leave weights only, which other rows start from."


# ---- the row named beforehand


def test_the_row_named_beforehand_is_tested_alone() -> None:
    scores = scored({FREE: 0.0, TOP: 0.1, FULL: 0.1}, subjects=6)
    assert verdict(a_study(), scores).action == "keep"  # 3 * 2 ** -5
    study = a_study(primary={"finetune": {"scope": "top"}})
    found = verdict(study, scores)
    assert (found.action, found.row, found.rows, found.p) == ("change", TOP, 1, 2**-5)
    assert found.optimism == 0.0
    plan, table = planted(study, scores)
    compared = compare(table, plan, "b")
    # two others share their level
    assert (compared[TOP].adjusted, compared[FULL].adjusted) == (2**-5, 2 * 2**-5)
    assert "p 0.031, named beforehand" in found.sentence


def test_the_row_named_beforehand_is_taken_before_others_and_others_where_it_does_not_gain() -> None:
    study = a_study(primary={"finetune": {"scope": "top"}})
    found = verdict(study, scored({FREE: 0.3, TOP: 0.1, FULL: 0.2}))
    assert (found.row, found.tied, found.label_free) == (TOP, (FREE,), FREE)
    found = verdict(study, scored({FREE: 0.0, TOP: 0.0, FULL: 0.2}))
    assert (found.row, found.looked_at, found.rows) == (FULL, FULL, 2)
    # two-sided, of the two that share their level
    assert found.p == pytest.approx(2 * 2 * 2.0**-SUBJECTS)
    found = verdict(study, scored({FREE: 0.0, TOP: -0.01, FULL: 0.001}))
    assert (found.action, found.looked_at) == ("keep", TOP)
    assert "the row named beforehand is finetune scope=top, -0.010 over your model" in found.sentence


@pytest.mark.parametrize(
    ("primary", "said"),
    [
        ("adabn", "primary: found 'adabn', expected a row of the table"),
        ("supervised", "is what every row is compared with"),
        ({"target_supervised": {"labels": "all"}}, "upper bound"),
        ("finetun", "did you mean 'finetune'"),
    ],
)
def test_a_wrong_primary_is_refused(primary: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        a_study(primary=primary)


@pytest.mark.parametrize("key", ["margin", "tolerance"])
def test_a_margin_must_be_a_size(key: str) -> None:
    with pytest.raises(SpecError, match=f"statistics.{key}"):
        a_study(statistics={key: -0.1})
    assert a_study(statistics={key: 0.5}) != a_study()


def test_primary_and_statistics_change_no_unit() -> None:
    plain, named = a_study(), a_study(primary="finetune", statistics={"margin": 0.1, "tolerance": 0.3})
    assert plain.settings == named.settings
    assert plain.rows == named.rows


# ---- never worse


def test_what_is_forgotten_beyond_the_tolerance_is_marked_with_why() -> None:
    home = {TOP: -0.03, FULL: -0.01}
    found = verdict(a_study(), scored({TOP: 0.1, FULL: 0.05}), home=home)
    assert list(found.marks) == [TOP]
    assert found.marks[TOP] == ("forgets 0.030 at home (-0.030 to -0.030)",)
    assert "forgetting 0.030 at home (home)" in found.sentence
    assert not verdict(a_study(statistics={"tolerance": 0.05}), scored({TOP: 0.1, FULL: 0.05}), home=home).marks
    assert "tolerance 0.02" in " ".join(found.how)


def test_the_source_that_is_forgotten_most_is_named() -> None:
    home = {(TOP, "home"): -0.01, (TOP, "second"): -0.04, (TOP, "third"): 0.02}
    found = verdict(a_study(source=["home", "second", "third"]), scored({TOP: 0.1, FULL: 0.0}), home=home)
    assert found.row == TOP
    assert "forgetting 0.040 at home (second)" in found.sentence
    assert found.marks == {TOP: ("forgets 0.040 at second (-0.040 to -0.040)",)}


# ---- optimism


def test_the_best_of_many_rows_promises_too_much_and_a_single_row_does_not() -> None:
    rng = np.random.default_rng(1)
    values, truth, biases = [], 0.06, []
    for _ in range(12):
        nothing = rng.beta(6, 2, 20)
        rows = nothing[:, None] + truth + rng.normal(0, 0.06, (20, 8))
        made = Evidence(tuple("abcdefgh"), np.column_stack([nothing, rows]), tuple(map(float, range(8))), (1.0,) * 8)
        values.append(optimism(made))
        row = int(choose(made, made.values[None]).row[0])
        biases.append(0.0 if row == KEPT else made.values[:, row + 1].mean() - nothing.mean() - truth)
    single = Evidence(("a",), made.values[:, :2] + np.array([0.0, 0.2]), (0.0,), (1.0,))
    assert np.mean(values) == pytest.approx(np.mean(biases), abs=0.02)
    assert abs(optimism(single)) < 0.005


def test_the_optimism_of_the_choice_stands_beside_the_score() -> None:
    found = verdict(a_study(), scored({FREE: 0.05, TOP: 0.1, FULL: 0.0}, spread=0.08))
    assert found.action == "change"
    assert found.optimism is not None
    assert found.optimism > 5e-4
    assert f"; optimism of the choice {found.optimism:.3f}) at b, " in found.sentence


@pytest.mark.parametrize("alternative", ["two-sided", "greater"])
def test_optimism_by_a_slow_loop(alternative: Any) -> None:
    """Of gains that one side alone shows."""
    rng = np.random.default_rng(6)
    nothing = rng.beta(6, 2, 9)
    rows = [nothing, nothing + rng.normal(0.03, 0.05, 9), nothing + rng.normal(0.02, 0.03, 9)]
    made = Evidence(("a", "b"), np.column_stack(rows), (4.0, 0.0), (1.0, 1.0))
    drawn, outside = np.random.default_rng(0).integers(9, size=(60, 9)), []
    for picked in drawn:
        rest = [n for n in range(9) if n not in picked]
        if rest:
            row = int(choose(made, made.values[picked][None], alternative).row[0])
            outside.append(made.values[rest, row + 1].mean())
    row = int(choose(made, made.values[None], alternative).row[0])
    assert (row == KEPT) == (alternative == "two-sided")
    assert optimism(made, alternative, 60) == pytest.approx(made.values[:, row + 1].mean() - np.mean(outside))
    two = Evidence(("a",), np.array([[0.5, 0.6], [0.4, 0.6]]), (0.0,), (1.0,))
    assert np.isfinite(optimism(two))  # half of the resamples leave nobody out


# ---- how often it is wrong


@pytest.mark.parametrize("subjects", [8, 12, 20])
def test_of_500_controls_with_eight_rows_at_most_one_in_twenty_is_told_to_change(subjects: int) -> None:
    rng = np.random.default_rng(subjects)
    nothing = rng.beta(6, 1.2, (500, subjects, 1))
    rows = (
        nothing + rng.normal(0, 0.02, (500, subjects, 1)) + rng.normal(0, 0.03, (500, subjects, 8))
    )  # what they share, and their own
    made = Evidence(tuple("abcdefgh"), np.concatenate([nothing, rows], 2)[0], (1.0,) * 8, (1.0,) * 8)
    found = choose(made, np.concatenate([nothing, rows], 2))
    changed = float(np.mean(found.row != KEPT))
    low = rows.mean(1) - nothing.mean(1) - 1.96 * (rows - nothing).std(1, ddof=1) / np.sqrt(subjects)
    unadjusted = float(np.mean((low > 0).any(1)))
    print(f"{subjects} subjects: {changed:.1%} are told to change, {unadjusted:.1%} by an unadjusted interval")
    assert changed <= 0.05
    assert unadjusted > 0.1


def test_a_real_gain_is_found() -> None:
    rng = np.random.default_rng(9)
    nothing = rng.beta(6, 1.2, (200, 16, 1))
    rows = nothing + rng.normal(0, 0.03, (200, 16, 8)) + np.array([0.0] * 7 + [0.06])
    made = Evidence(tuple("abcdefgh"), np.concatenate([nothing, rows], 2)[0], (1.0,) * 8, (1.0,) * 8)
    assert np.mean(choose(made, np.concatenate([nothing, rows], 2)).row == 7) > 0.9


# ---- areas under the curve, and other pooled metrics


def classified(shifts: Mapping[str, float], images: int = 40, *, alone: bool = False) -> tuple[Study, Plan, list[Line]]:
    """Rows with an image of each subject, or all of one."""
    study = a_study(task={"classification": {"classes": ["no", "yes"]}})
    made = {row: parse_recipe(RECIPES[row]) for row in shifts}
    rows = [a_row(recipe, "b", seed, 0, f"{row}.{seed}") for seed in range(study.seeds) for row, recipe in made.items()]
    plan = Plan(tuple(rows), study.seeds, study.made_task, study.statistics)
    base = np.random.default_rng(0).normal(0, 1, images)
    records = []
    for row in rows:
        own = np.random.default_rng([row.seed, len(row.unit)]).normal(0, 0.3, images)
        logit = base + own + shifts[title(row.recipe)] * (np.arange(images) % 2)
        p = 1 / (1 + np.exp(-logit))
        cases = tuple(
            {"case": f"{n}", "subject": "p" if alone else f"p{n:02d}", "label": n % 2, "probabilities": [1 - v, v]}
            for n, v in enumerate(map(float, p))
        )
        records.append(
            Record(
                row.unit,
                {},
                row.seed,
                "end",
                0,
                "b",
                "test",
                target="b",
                cases=cases,
                metrics=plan.task.aggregate(cases),
            )
        )
    return study, plan, lines(plan, {record.name: record for record in records}, "last")


def test_an_area_is_judged_by_delong_and_not_by_ranks_of_subjects() -> None:
    study, plan, table = classified({"supervised": 0.5, TOP: 3.0, FULL: 0.5})
    found = verdicts_of(study, plan, table)["b"]
    assert (found.action, found.row) == ("change", TOP)
    compared = compare(table, plan, "b")[TOP]
    assert found.gain == pytest.approx(compared.difference)
    assert compared.p is not None
    assert found.p == pytest.approx(compared.adjusted, rel=1e-6)
    assert (compared.effect, compared.rank_biserial) == (None, None)
    evidence = evidence_of(plan, table[1:], table[0], "b")
    assert evidence is not None
    assert not evidence.exact
    assert evidence.values.mean(0) == pytest.approx([line.score("b") for line in table])
    assert "auroc" in found.sentence


def test_of_a_single_subject_an_area_has_no_interval_and_shows_no_gain() -> None:
    study, plan, table = classified({"supervised": 0.5, TOP: 3.0, FULL: 0.5}, alone=True)
    compared = compare(table, plan, "b")[TOP]
    assert (compared.low, compared.high, compared.p, compared.note) == (None, None, None, "one subject: no interval")
    assert compared.difference == pytest.approx(table[1].score("b") - table[0].score("b"))  # type: ignore[operator]
    assert score_interval(plan, table[1], "b") is None
    found = verdicts_of(study, plan, table)["b"]
    assert (found.action, found.row, found.reason) == ("keep", "", "too few subjects to show one")


class Plain(Classification):
    """A task with a pooled headline that is no area."""

    headline = "balanced_accuracy"  # type: ignore[misc]


class Right(Classification):
    """A task with a pooled headline that is a mean over images."""

    headline = "accuracy"  # type: ignore[misc]


def test_any_other_pooled_headline_is_judged_by_the_jackknife() -> None:
    study, plan, table = classified({"supervised": -1.0, TOP: 4.0, FULL: -1.0})
    plan = replace(plan, task=Plain(("no", "yes")))
    scores = [{site: values["balanced_accuracy"] for site, values in line.metrics.items()} for line in table]
    table = [replace(line, scores=each) for line, each in zip(table, scores, strict=True)]
    evidence = evidence_of(plan, table[1:], table[0], "b")
    assert evidence is not None
    assert evidence.values.mean(0) == pytest.approx(
        [line.score("b") for line in table], abs=0.01
    )  # the jackknife's, less its bias
    assert verdicts_of(study, plan, table)["b"].row == TOP


def test_of_a_mean_over_subjects_the_jackknife_gives_back_the_subjects() -> None:
    """Whose scatter is that of the score: here whether each was answered rightly, mean over seeds."""
    _, plan, table = classified({"supervised": 0.5, TOP: 1.5})
    plan = replace(plan, task=Right(("no", "yes")))
    evidence = evidence_of(plan, table[1:], table[0], "b")
    assert evidence is not None
    assert not evidence.exact
    for column, line in zip(evidence.values.T, table, strict=True):
        by_seed = [[case for record in run.tests["b"] for case in record.cases] for run in line.runs]
        right = [[case["label"] == np.argmax(case["probabilities"]) for case in cases] for cases in by_seed]
        assert column == pytest.approx(np.mean(right, 0))
    assert 0 < evidence.values[:, 0].std() < 1


# ---- where it is written


def test_the_file_the_table_and_the_lines_say_the_same(tmp_path: Path) -> None:
    study = a_study()
    plan, table = planted(study, scored({FREE: 0.0, TOP: 0.2, FULL: 0.202}), home={TOP: -0.05})
    found = verdicts_of(study, plan, table)
    made = marked(table, found)
    assert {line.title: line.verdict for line in made} == {
        "supervised": "",
        FREE: "",
        TOP: "change; forgets",
        FULL: "tied",
    }
    assert [line.title for line in made if line.chosen] == [TOP]
    path = write_verdicts(tmp_path, found)
    assert path is not None
    written = json.loads(path.read_text())["b"]
    assert {key: written[key] for key in ("action", "reason", "row", "tied", "label_free", "rules_version")} == {
        "action": "change",
        "reason": "gain shown",
        "row": TOP,
        "tied": [FULL, TOP],
        "label_free": "",
        "rules_version": 1,
    }
    assert written["optimism"] == found["b"].optimism
    assert written["sentence"] == found["b"].sentence
    rows = write_results(tmp_path, plan, made).read_text().splitlines()
    assert rows[0].split(",")[4] == "verdict"
    assert [row.split(",")[4] for row in rows[1:] if row.startswith(f"{TOP},b,b")] == ["change; forgets"]
    assert [row.split(",")[4] for row in rows[1:] if row.startswith(f"{TOP},b,home")] == [""]
    # an unfinished study has none, and an older one goes
    assert write_verdicts(tmp_path, {}) is None
    assert not path.exists()
    kept = marked(*(lambda made: (made[1], verdicts_of(study, *made)))(planted(study, scored({TOP: 0.0}))))
    assert [line.verdict for line in kept] == ["keep", ""]
