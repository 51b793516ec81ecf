"""Estimates without labels from records made by hand: what they are fitted on, where their error is
from, and where they may not stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.tiny import a_row

from allograft.metrics.estimates import expected_dice, fitted_temperature, mask_losses, mask_sums
from allograft.recipe import parse_recipe, title
from allograft.report.without_labels import TITLE, without_labels
from allograft.results.analysis.estimates import (
    DICE,
    DIFFERENCE,
    THRESHOLD,
    UNKNOWN,
    Estimate,
    estimate_sheet,
    estimates,
    methods_of,
)
from allograft.results.record import Record, measured
from allograft.results.select import Line, lines
from allograft.study.plan import Plan
from allograft.study.reading import make_study

RECIPES: tuple[Any, ...] = ("supervised", "adabn")
CLASSES = {"classification": {"classes": ["healthy", "ill"]}}
MASKS = {"segmentation": {"classes": ["vessel"]}}
Maker = Any


def a_table(
    task: Mapping[str, Any], make: Maker, *, targets: Sequence[str] = ("b", "c"), unlabelled: Sequence[str] = ("c",)
) -> tuple[Plan, list[Line]]:
    """Two seeds of two recipes, judged at the source's validation cases and at each target."""
    tree = {"cohort": "m.csv", "task": task, "source": ["a"], "target": list(targets), "recipes": RECIPES, "seeds": 2}
    study = make_study({**tree, "baselines": False})
    rows, records = [], []
    for recipe in map(parse_recipe, RECIPES):
        for seed in range(2):
            for target in targets:
                row = a_row(recipe, target, seed, 0, f"{title(recipe)}.{target}.{seed}")
                rows.append(row)
                cases = make("a", seed, labelled=True)
                records.append(Record(row.unit, {}, seed, "end", 0, "a", "val", cases=cases))
                cases = make(target, seed, labelled=target not in unlabelled)
                records.append(Record(row.unit, {}, seed, "end", 0, target, "test", cases=cases))
    plan = Plan(tuple(rows), 2, study.made_task)
    return plan, lines(plan, {record.name: record for record in records}, "last")


SITES = {"a": 0.75, "b": 0.6, "c": 0.45, "d": 0.7}
"""How sure the model is at least, at each site."""


def pictures(site: str, seed: int, *, labelled: bool, count: int = 60) -> tuple[dict[str, Any], ...]:
    """Classified images of a calibrated model."""
    rng = np.random.default_rng([ord(site), seed])
    first = rng.uniform(0, 1, count)
    first = np.where(rng.random(count) < 0.5, SITES[site] + (1 - SITES[site]) * first, (1 - SITES[site]) * first)
    label = (rng.random(count) > first).astype(int)
    cases = []
    for n in range(count):
        own = [float(first[n]), float(1 - first[n])]
        told = {"label": int(label[n]), "probabilities": own} if labelled else {"prediction": own}
        cases.append({"case": f"{site}{n}", "subject": f"{site}{n // 2}", "entropy": 0.1, **told})
    return tuple(cases)


def maps(site: str, seed: int, *, labelled: bool, count: int = 6) -> tuple[dict[str, Any], ...]:
    """Masks of a model that is twice as sure as it may be."""
    generator = torch.Generator().manual_seed(1000 * ord(site) + seed)
    cases = []
    for n in range(count):
        z = 3 * SITES[site] * torch.randn(2, 24, 24, generator=generator, dtype=torch.float64)
        truth = torch.multinomial(z.softmax(0).flatten(1).T, 1, generator=generator).view(24, 24)
        sure = (2 * z).softmax(0)
        kept: dict[str, Any] = {**mask_sums(sure)}
        case: dict[str, Any] = {"case": f"{site}{n}", "subject": f"{site}{n // 2}", "calibration": kept}
        if site == "a":
            kept["losses"] = mask_losses(sure, truth)
        if labelled:
            mask = sure.max(0).indices
            case["dice"] = 2 * float((mask * truth).sum()) / float(mask.sum() + truth.sum())
        cases.append(case)
    return tuple(cases)


def at(made: Sequence[Estimate], recipe: str, method: str) -> Estimate:
    (one,) = [each for each in made if (each.title, each.method) == (recipe, method)]
    return one


@pytest.mark.parametrize(
    ("task", "make", "methods"), [(CLASSES, pictures, (THRESHOLD, DIFFERENCE)), (MASKS, maps, (DICE,))]
)
def test_a_calibrated_model_is_estimated_well_and_its_error_is_from_the_other_labelled_site(
    task: Mapping[str, Any], make: Maker, methods: tuple[str, ...]
) -> None:
    plan, table = a_table(task, make)
    assert methods_of(plan.task) == methods
    here, other = estimates(plan, table, "c"), estimates(plan, table, "b")
    assert len(here) == len(other) == 2 * len(methods)
    for method in methods:
        unlabelled, labelled = at(here, "adabn", method), at(other, "adabn", method)
        assert unlabelled.truths == ()
        assert len(unlabelled.values) == len(labelled.truths) == 2
        error = np.mean(np.abs(np.subtract(labelled.values, labelled.truths)))
        assert unlabelled.errors == {"b": pytest.approx(error)}
        assert unlabelled.error == f"{error:.3f} at b"
        # nothing is labelled anywhere else: the source is no other site
        assert labelled.errors == {}
        assert labelled.error == UNKNOWN
        # a threshold takes the spread of confidences to be the source's, which it is not here
        assert (error < 0.12) == (method != THRESHOLD)


def test_two_other_labelled_sites_are_both_named() -> None:
    plan, table = a_table(CLASSES, pictures, targets=("b", "c", "d"))
    assert list(at(estimates(plan, table, "c"), "adabn", DIFFERENCE).errors) == ["b", "d"]
    assert list(at(estimates(plan, table, "b"), "adabn", DIFFERENCE).errors) == ["d"]


def test_an_estimate_of_accuracy_by_hand() -> None:
    """The source: confidences .6 (wrong), .7, .8, .9; the target: .65, .75, .95 and .85."""

    def make(site: str, seed: int, *, labelled: bool) -> tuple[dict[str, Any], ...]:
        sure = (0.6, 0.7, 0.8, 0.9) if site == "a" else (0.65, 0.75, 0.95, 0.85)
        cases = []
        for n, value in enumerate(sure):
            label = {"label": int(n == 0), "probabilities": [value, 1 - value]}
            told = label if labelled else {"prediction": [value, 1 - value]}
            cases.append({"case": f"{n}", "subject": f"{n}", "entropy": 0.0, **told})
        return tuple(cases)

    made = estimates(*a_table(CLASSES, make), "c")
    assert at(made, "supervised", THRESHOLD).values == (0.75, 0.75)
    # 0.75 at the source; the mean confidence rises from 0.75 to 0.8
    assert at(made, "supervised", DIFFERENCE).values == pytest.approx((0.8, 0.8))
    assert at(made, "supervised", THRESHOLD).fitted_on == 4


def test_expected_dice_is_a_mean_over_subjects_at_the_temperature_of_the_validation_cases() -> None:
    plan, table = a_table(MASKS, maps)
    source = [case["calibration"]["losses"] for case in maps("a", 0, labelled=True)]
    temperature = fitted_temperature(source)
    assert temperature == pytest.approx(2.0, rel=0.15)
    each = [
        expected_dice(kept["found"][0], kept["overlap"][0], kept["total"][0], temperature)
        for kept in (case["calibration"] for case in maps("c", 0, labelled=False))
    ]
    subjects = np.array(each, dtype=float).reshape(3, 2).mean(1)
    assert at(estimates(plan, table, "c"), "adabn", DICE).values[0] == pytest.approx(subjects.mean())


@pytest.mark.parametrize(("task", "make"), [(CLASSES, pictures), (MASKS, maps)])
def test_no_label_of_the_target_changes_an_estimate(task: Mapping[str, Any], make: Maker) -> None:
    def wrong(site: str, seed: int, *, labelled: bool) -> tuple[dict[str, Any], ...]:
        cases = make(site, seed, labelled=labelled)
        if site == "a" or not labelled:
            return tuple(cases)
        return tuple({**case, **({"label": 0} if "label" in case else {"dice": 0.01})} for case in cases)

    values = [
        [one.values for site in ("b", "c") for one in estimates(*a_table(task, each), site)] for each in (make, wrong)
    ]
    assert values[0] == values[1]


@pytest.mark.parametrize(("task", "make"), [(CLASSES, pictures), (MASKS, maps)])
def test_without_validation_cases_or_what_earlier_versions_did_not_keep_there_is_no_estimate(
    task: Mapping[str, Any], make: Maker
) -> None:
    plan, table = a_table(task, make)
    bare = [replace(line, runs=tuple(replace(run, validation=()) for run in line.runs)) for line in table]
    assert estimate_sheet(plan, bare, "c") is None

    def earlier(site: str, seed: int, *, labelled: bool) -> tuple[dict[str, Any], ...]:
        return tuple(
            {key: value for key, value in case.items() if key not in ("prediction", "calibration")}
            for case in make(site, seed, labelled=labelled)
        )

    assert estimates(*a_table(task, earlier), "c") == []


def test_what_is_kept_for_estimates_is_no_measure() -> None:
    assert measured(maps("c", 0, labelled=False)) == ()
    assert measured(pictures("c", 0, labelled=False)) == ()
    assert set(measured(maps("b", 0, labelled=True))[0]) == {"case", "subject", "dice"}
    _, table = a_table(MASKS, maps)
    assert all(line.score("c") is None for line in table if line.target == "c")


def test_an_unlabelled_site_shows_them_under_a_heading_of_its_own_and_a_labelled_one_in_a_fold() -> None:
    plan, table = a_table(CLASSES, pictures)
    (here,), (other,) = without_labels(plan, table, "c"), without_labels(plan, table, "b")
    assert here.title == other.title == TITLE
    (sheet,) = here.sheets
    assert sheet.title == "accuracy at c, no labels: estimated"
    assert sheet.columns == ("recipe", THRESHOLD, "error at other sites", DIFFERENCE, "error at other sites")
    assert [row[0] for row in sheet.rows] == ["supervised", "adabn"]
    assert any("the verdict does not use them" in note for note in sheet.notes)
    assert not other.sheets
    assert other.folded is not None
    assert other.folded.sheets[0].columns[-1] == "accuracy, measured here"
    assert UNKNOWN in other.folded.sheets[0].rows[0]


def test_tasks_without_probabilities_of_one_class_have_none() -> None:
    tree = {"cohort": "m.csv", "source": ["a"], "target": ["b"], "recipes": RECIPES}
    for task in ({"multilabel": {"classes": ["x", "y"]}}, {"detection": {"classes": ["lesion"]}}):
        assert methods_of(make_study({**tree, "task": task}).made_task) == ()
    both = {"multitask": {"segmentation": MASKS["segmentation"], "classification": CLASSES["classification"]}}
    assert methods_of(make_study({**tree, "task": both}).made_task) == (DICE,)
