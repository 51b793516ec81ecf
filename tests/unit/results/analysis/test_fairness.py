"""The fairness audit: groups, gaps, sizes, and an operating point that no test case has a part
in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import recall_score, roc_auc_score
from tests.unit.tiny import a_row

from allograft.cohort import Case
from allograft.recipe import parse_recipe, title
from allograft.results.analysis.fairness import (
    LEAST,
    Audit,
    Group,
    _comparable,
    audits,
    group_columns,
)
from allograft.results.analysis.fairness_sheets import fairness, gap_sheet, group_sheet
from allograft.results.analysis.operating_points import operating_points, rates_at, threshold_at
from allograft.results.areas import area_limits, mean_area
from allograft.results.ranking import area_of
from allograft.results.record import Record
from allograft.results.select import Line, lines
from allograft.study.plan import Plan
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation

TASK = Classification(("benign", "melanoma"))
SIZES = {"light": 24, "dark": 14, "olive": 6}  # subjects, the last too few
NOISE = {"light": 0.5, "dark": 2.0, "olive": 1.0}


def a_plan(task: Any = TASK, seeds: int = 2) -> Plan:
    recipes = [parse_recipe("supervised"), parse_recipe("finetune")]
    return Plan(tuple(a_row(r, "b", s, 0, f"{title(r)}.{s}") for s in range(seeds) for r in recipes), seeds, task)


def people(tone: str, site: str = "b") -> list[Case]:
    """Two images a subject."""
    names = [f"{site}-{tone}{n}" for n in range(SIZES[tone])]
    return [
        Case(f"{name}{eye}.png", name, site, (Path("x"),), attributes={"tone": tone, "id": name})
        for name in names
        for eye in "LR"
    ]


def scored(cases: list[Case], seed: int, noise: float, classes: int = 2) -> tuple[dict[str, Any], ...]:
    made = []
    for number, case in enumerate(cases):
        rng = np.random.default_rng([seed, number, round(noise * 10)])
        label = number // 2 % classes
        logits = rng.normal(0, noise, classes) + 1.5 * (np.arange(classes) == label)
        made.append(
            {
                "case": case.name,
                "subject": case.subject,
                "label": label,
                "probabilities": softmax(logits),
                "entropy": 0.5,
            }
        )
    return tuple(made)


def softmax(logits: np.ndarray) -> list[float]:
    raised = np.exp(logits - logits.max())
    return list(map(float, raised / raised.sum()))


COHORT = [case for tone in SIZES for case in people(tone)]
SOURCE = people("light", "a")


def records_of(plan: Plan, *, source: bool = True, classes: int = 2) -> dict[str, Record]:
    made = []
    for row in plan.rows:
        base = Record(row.unit, {}, row.seed, "end", 0, "b", "test", target="b")
        made.append(
            replace(
                base,
                cases=tuple(case for tone in SIZES for case in scored(people(tone), row.seed, NOISE[tone], classes)),
            )
        )
        made.append(replace(base, site="a", cases=scored(SOURCE, row.seed, 0.4, classes)))
        if source:
            made.append(replace(base, site="a", part="val", cases=scored(SOURCE, row.seed + 9, 0.4, classes)))
    return {record.name: record for record in made}


def a_line(plan: Plan, **more: Any) -> Line:
    return lines(plan, records_of(plan, **more), "last")[0]


def audit_of(plan: Plan, attribute: str, **more: Any) -> Audit:
    return next(one for one in audits(plan, a_line(plan), [*COHORT, *SOURCE], **more) if one.attribute == attribute)


def by_name(audit: Audit) -> dict[str, Group]:
    return {group.name: group for group in audit.groups}


def test_groups_are_scored_as_scikit_learn_does() -> None:
    plan = a_plan()
    line, groups = a_line(plan), by_name(audit_of(plan, "tone"))
    points = operating_points(plan.task, line).of
    for tone in ("light", "dark"):
        areas, found, spared = [], [], []
        for run in line.runs:
            cases = [case for case in run.tests["b"][0].cases if f"-{tone}" in case["case"]]
            truth, score = [case["label"] for case in cases], np.array([case["probabilities"][1] for case in cases])
            areas.append(roc_auc_score(truth, score))
            called = score >= points[run.row.seed]
            found.append(recall_score(truth, called))
            spared.append(recall_score(truth, called, pos_label=0))
        assert groups[tone].scores["auroc"] == pytest.approx(np.mean(areas))
        assert groups[tone].scores["sensitivity"] == pytest.approx(np.mean(found))
        assert groups[tone].scores["specificity"] == pytest.approx(np.mean(spared))
        pooled = [
            TASK.aggregate([c for c in run.tests["b"][0].measured if f"-{tone}" in c["case"]])["ece"]
            for run in line.runs
        ]
        assert groups[tone].scores["ece"] == pytest.approx(np.mean(pooled))


def test_worst_group_gap_and_sizes() -> None:
    audit = audit_of(a_plan(), "tone")
    groups = by_name(audit)
    assert {name: (group.subjects, group.cases) for name, group in groups.items()} == {
        t: (n, 2 * n) for t, n in SIZES.items()
    }
    assert groups["olive"].is_too_small
    assert not groups["olive"].scores
    assert audit.worst is groups["dark"]
    assert (
        audit.gap()
        == audit.gap("auroc")
        == pytest.approx(groups["light"].scores["auroc"] - groups["dark"].scores["auroc"])
    )  # type: ignore[operator]
    assert audit.gap() > 0  # type: ignore[operator]


def test_a_small_group_has_no_part_in_the_gap() -> None:
    def group(name: str, subjects: int, value: float | None) -> Group:
        return Group(name, subjects, subjects, {} if subjects < LEAST else {"auroc": value, "ece": 0.1})

    groups = (group("a", 30, 0.9), group("b", LEAST, 0.7), group("c", LEAST - 1, 0.1), group("d", 50, None))
    audit = Audit("supervised", "b", "tone", "auroc", groups)
    assert audit.worst is groups[1]
    assert audit.gap() == pytest.approx(0.2)
    alone = replace(audit, groups=(groups[0], *groups[2:]))
    assert alone.worst is None
    assert alone.gap() is None
    text = " ".join(group_sheet(audit).rows[2]) + " ".join(group_sheet(audit).rows[3])
    assert "too small" in text
    assert "0.1 " not in " ".join(group_sheet(audit).rows[2])
    assert "undefined" in text
    assert "no worst group" in " ".join(group_sheet(alone).notes)


def test_intervals_are_over_the_groups_subjects() -> None:
    plan = a_plan()
    groups = by_name(audit_of(plan, "tone"))
    dark = [[case for case in run.tests["b"][0].measured if "-dark" in case["case"]] for run in a_line(plan).runs]
    own = [area_of(TASK, cases) for cases in dark]
    mean = mean_area([found for found in own if found is not None])
    assert set(mean.subjects) == {case.subject for case in people("dark")}
    assert groups["dark"].intervals == {"auroc": area_limits(mean)}
    assert mean.value == pytest.approx(groups["dark"].scores["auroc"])
    assert groups["olive"].intervals == {}


def test_one_class_in_a_group_is_undefined() -> None:
    plan = a_plan()
    records = records_of(plan)
    for name, record in records.items():
        if record.site == "b":
            cases = tuple({**case, "label": 1} if "-dark" in case["case"] else case for case in record.cases)
            records[name] = replace(record, cases=cases)
    line = lines(plan, records, "last")[0]
    audit = next(one for one in audits(plan, line, COHORT) if one.attribute == "tone")
    dark = by_name(audit)["dark"]
    assert dark.scores["auroc"] is None
    assert dark.scores["specificity"] is None
    assert dark.scores["sensitivity"] is not None
    assert audit.gap() is None
    row = next(row for row in group_sheet(audit).rows if row[0] == "dark")
    assert row[3] == "undefined"
    assert row[-1] == "undefined"


def test_sites_and_columns() -> None:
    found = audits(a_plan(), a_line(a_plan()), [*COHORT, *SOURCE])
    # an id is no group, it has too many values
    assert [audit.attribute for audit in found] == ["site", "tone"]
    assert {group.name: group.subjects for group in found[0].groups} == {"a": 24, "b": sum(SIZES.values())}
    alone = [case for case in COHORT if case.attributes["tone"] == "light"]
    assert group_columns(alone) == ()  # one value
    unknown = [replace(case, attributes={"tone": "unknown"}) for case in COHORT if case.attributes["tone"] == "dark"]
    assert group_columns([*alone, *unknown]) == ()  # still one


@pytest.mark.parametrize("nothing", [{}, {"tone": "unknown"}, {"tone": "NaN"}])
def test_missing_values_are_counted_and_in_no_group(nothing: dict[str, str]) -> None:
    holes = [replace(case, attributes=nothing) if case.subject in ("b-light0", "b-light1") else case for case in COHORT]
    audit = next(one for one in audits(a_plan(), a_line(a_plan()), holes) if one.attribute == "tone")
    assert audit.missing == 2
    assert set(by_name(audit)) == set(SIZES)
    assert by_name(audit)["light"].subjects == SIZES["light"] - 2
    assert "2 test subjects with no value of tone" in " ".join(group_sheet(audit).notes)


def test_numbers_are_in_order() -> None:
    typed = [replace(case, attributes={"type": "10" if "dark" in case.name else "2"}) for case in COHORT]
    audit = next(one for one in audits(a_plan(), a_line(a_plan()), typed) if one.attribute == "type")
    assert [group.name for group in audit.groups] == ["2", "10"]


def test_the_operating_point_is_fixed_on_source_validation() -> None:
    plan = a_plan()
    before = operating_points(plan.task, a_line(plan))
    records = records_of(plan)
    shuffled = {
        name: replace(r, cases=tuple({**case, "probabilities": [0.5, 0.5]} for case in r.cases))
        if r.part == "test"
        else r
        for name, r in records.items()
    }
    assert operating_points(plan.task, lines(plan, shuffled, "last")[0]) == before
    for run in a_line(plan).runs:
        score = [case["probabilities"][1] for record in run.validation for case in record.cases if case["label"] == 1]
        assert np.mean(np.array(score) >= before.of[run.row.seed]) >= 0.9
        assert before.of[run.row.seed] in score
    assert "at least 90% of melanoma on the source's validation cases" in before.how
    without = operating_points(plan.task, a_line(plan, source=False))
    assert set(without.of.values()) == {0.5}
    assert "threshold 0.5" in without.how


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.sampled_from([0.5, 0.75, 0.9, 1.0]))
def test_the_threshold_is_the_highest_that_finds_enough(scores: list[float], share: float) -> None:
    threshold = threshold_at(scores, share)
    assert threshold is not None
    assert np.mean(np.array(scores) >= threshold) >= share - 1e-12
    higher = [score for score in scores if score > threshold]
    assert len(higher) / len(scores) < share


def test_a_score_at_the_threshold_is_called() -> None:
    cases = [{"label": label, "probabilities": [1 - p, p]} for label, p in ((1, 0.5), (1, 0.4), (0, 0.5), (0, 0.1))]
    assert rates_at(cases, 0.5) == {"sensitivity": 0.5, "specificity": 0.5}


def test_several_classes_have_no_operating_point() -> None:
    task = Classification(("a", "b", "c"))
    plan = a_plan(task)
    line = lines(plan, records_of(plan, classes=3), "last")[0]
    audit = next(one for one in audits(plan, line, COHORT) if one.attribute == "tone")
    assert audit.threshold == ""
    assert "sensitivity" not in by_name(audit)["light"].scores
    assert "sensitivity" not in group_sheet(audit).columns
    assert operating_points(Multilabel(("a", "b")), line).of == {}


def test_a_multitask_is_audited_by_its_classes_and_cases_without_one_have_no_part() -> None:
    both = Multitask(Segmentation(("lesion",)), TASK)
    plain, plan = a_plan(), a_plan(both)
    records = {
        name: replace(
            record, cases=tuple({**case, "dice": 0.5} for case in (*record.cases, {**record.cases[0], "label": None}))
        )
        for name, record in records_of(plan).items()
    }
    line = lines(plan, records, "last")[0]
    (found,) = (one for one in audits(plan, line, [*COHORT, *SOURCE]) if one.attribute == "tone")
    assert found == audit_of(plain, "tone")


def test_no_classification_no_audit() -> None:
    plan = a_plan(Segmentation(("vessel",)))
    assert audits(plan, a_line(a_plan()), COHORT) == []


@dataclass(frozen=True)
class AWorld:
    """As much of a world as the audit asks for."""

    def cases(self) -> list[Case]:
        return [*COHORT, *SOURCE]


def test_the_audit_of_a_target() -> None:
    plan = a_plan()
    records = records_of(plan)
    table = [
        replace(line, verdict="change" if line.title == "finetune" else "") for line in lines(plan, records, "last")
    ]
    made = fairness(plan, table, AWorld(), "b")  # type: ignore[arg-type]
    assert made is not None
    assert [sheet.title.split(",")[0] for sheet in made.gaps] == [
        "Gaps between groups by site",
        "Gaps between groups by tone",
    ]
    assert [row[0] for row in made.gaps[1].rows] == ["supervised", "finetune"]
    assert [row[1] for row in made.gaps[1].rows] == ["dark", "dark"]
    # do-nothing and the row that the verdict names, by site and by tone
    assert len(made.details) == 4
    for sheet in (*made.gaps, *made.details):
        assert all(len(row) == len(sheet.columns) for row in sheet.rows)
    assert fairness(plan, lines(plan, {}, "last"), AWorld(), "b") is None  # type: ignore[arg-type]
    both = gap_sheet([replace(audit_of(plan, "tone"), headline="ece")])
    assert both.columns[-1] == "auroc gap"


def test_a_group_that_lacks_a_class_of_another_has_no_mean_over_classes() -> None:
    plan = a_plan(Classification(("benign", "melanoma", "nevus")), seeds=1)
    every = records_of(plan, classes=3)
    fewer = {
        name: replace(
            record, cases=tuple(case for case in record.cases if "-dark" not in case["case"] or case["label"] != 2)
        )
        for name, record in every.items()
    }
    for records, is_whole in ((every, True), (fewer, False)):
        line = lines(plan, records, "last")[0]
        audit = next(made for made in audits(plan, line, [*COHORT, *SOURCE]) if made.attribute == "tone")
        for tone, is_scored in (("light", True), ("dark", is_whole)):
            cases = [case for case in line.runs[0].tests["b"][0].cases if f"-{tone}" in case["case"]]
            score = np.array([case["probabilities"] for case in cases])
            truth = np.array([case["label"] for case in cases])
            area = np.mean([roc_auc_score(truth == label, score[:, label]) for label in set(truth.tolist())])
            assert by_name(audit)[tone].scores["auroc"] == (pytest.approx(area) if is_scored else None)
            assert bool(by_name(audit)[tone].intervals) == is_scored
        assert (audit.gap() is None) != is_whole


def test_a_group_that_is_too_small_keeps_what_it_has() -> None:
    every, few = (
        Group(name, subjects, subjects, {"auroc": 0.8}, {}, frozenset(ranked))
        for name, subjects, ranked in (("light", LEAST, "ab"), ("dark", LEAST - 1, "a"))
    )
    lacks = Group("olive", LEAST, LEAST, {"auroc": 0.9}, {}, frozenset("a"))
    assert [group.scores["auroc"] for group in _comparable([every, few, lacks])] == [0.8, 0.8, None]
