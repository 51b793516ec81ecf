"""Whom a recipe may see and who is judged, where sites, seeds, folds and budgets differ: each budget is of its own
seed and target, and nothing depends on the order of a manifest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allograft.cohort import Case, Coding, Cohort, Preprocessing
from allograft.cohort.prepared_images import PreparedImages
from allograft.cohort.splits import Assignment
from allograft.errors import SpecError, SplitError
from allograft.recipe import Needs
from allograft.study import make_study
from allograft.study.world import WATCHED, World
from allograft.tasks.classification import Classification

TREE: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a", "d"],
    "target": ["b", "c"],
    "recipes": ["supervised"],
    "near_duplicates": "warn",
}


def image(subject: str, number: int = 0, **labels: Any) -> Case:
    """A case whose files are never opened."""
    name = f"{subject}-{number}.png"
    return Case(name, subject, subject[0], (Path(name),), labels=labels or {"mask": Path(f"{name}-mask.png")})


def world_of(
    subjects: dict[str, int], splits: dict[str, Assignment] | None = None, images: int = 1, **changes: Any
) -> World:
    """So many subjects per site, who train unless told otherwise."""
    study = make_study({"cohort": "m.csv", **TREE, **changes})
    cases = [image(f"{s}{n:02}", i) for s, count in subjects.items() for n in range(count) for i in range(images)]
    return placed(study, cases, splits)


def placed(study: Any, cases: list[Case], splits: dict[str, Assignment] | None = None) -> World:
    """A world of these cases, without a file."""
    prepared = PreparedImages(Preprocessing(), Coding())
    cohort = Cohort(tuple(cases), tuple(sorted({case.site for case in cases})), prepared, None)
    train = {case.subject: Assignment("train") for case in cases}
    return World(study, (cohort,), {**train, **(splits or {})}, tuple(cases))


def labelled(world: World, question: int, seed: int, needs: Needs | None = None) -> tuple[str, ...]:
    scenario = world.scenario(world.study.questions[question], seed, 0, needs)
    return tuple(sorted(case.name for cohort in scenario.target if cohort.has_labels for case in cohort.cases))


SITES = {"a": 3, "b": 9, "c": 9, "d": 3}


@pytest.mark.parametrize("unit", ["subjects", "cases"])
def test_a_budget_changes_with_the_seed_and_the_target_and_grows_around_itself(unit: str) -> None:
    worlds = [world_of(SITES, target_labels={unit: count}) for count in (2, 4)]
    few, more = ([[labelled(world, target, seed) for seed in range(5)] for target in (0, 1)] for world in worlds)
    assert len(set(few[0])) > 1
    assert any({name[1:] for name in few[0][seed]} != {name[1:] for name in few[1][seed]} for seed in range(5))
    for target in (0, 1):
        assert {len(names) for names in few[target]} == {2}
        assert all(set(few[target][seed]) < set(more[target][seed]) for seed in range(5))


def test_all_cases_of_a_subject_in_the_budget_have_labels_and_the_rest_has_none() -> None:
    world = world_of(SITES, images=2, target_labels={"subjects": 3})
    scenario = world.scenario(world.study.questions[0], 0, 0)
    given, rest = scenario.target
    assert (len(given.subjects), len(given.cases), len(rest.cases)) == (3, 6, 12)
    assert not any(case.labels for case in rest.cases)
    assert not {case.name for case in given.cases} & {case.name for case in rest.cases}
    assert {case.site for cohort in scenario.target for case in cohort.cases} == {"b"}
    assert [cohort.cases[0].site for cohort in scenario.source] == ["a", "d"]


@pytest.mark.parametrize(("share", "count"), [(0.5, 4), (0.4, 4), (0.01, 1), (0.34, 3), (1.0, 9)])
def test_a_share_of_the_subjects_is_rounded_and_never_none(share: float, count: int) -> None:
    assert len(labelled(world_of(SITES, target_labels={"fraction": share}), 1, 0)) == count


def test_only_subjects_with_labels_count_in_a_budget() -> None:
    world = world_of({"a": 3, "d": 3})
    cases = [*world.cases(), *(image(f"b{n}") for n in range(3)), image("c0")]
    bare = [replace(image(f"b{n}"), labels={}) for n in range(3, 8)]
    study = make_study({"cohort": "m.csv", **TREE, "target_labels": {"subjects": 3}})
    assert labelled(placed(study, [*cases, *bare]), 0, 4) == ("b0-0.png", "b1-0.png", "b2-0.png")
    with pytest.raises(SplitError, match="asks for 4 subjects, site 'b' has 3 labelled training subjects"):
        labelled(placed(replace(study, target_labels=replace(study.target_labels, subjects=4)), [*cases, *bare]), 0, 0)


def test_more_cases_than_there_are_or_slices_of_nothing_are_refused() -> None:
    assert len(labelled(world_of(SITES, target_labels={"cases": 9}), 0, 0)) == 9
    with pytest.raises(SplitError, match="asks for 10, site 'b' has 9 labelled training cases"):
        labelled(world_of(SITES, target_labels={"cases": 10}), 0, 0)
    with pytest.raises(SpecError, match="counts slices, but the study has none"):
        labelled(world_of(SITES, target_labels={"slices": 2}), 0, 0)


def test_an_upper_bound_has_every_label_and_a_study_of_all_targets_each_of_them() -> None:
    for labels in ("none", {"subjects": 1}):
        assert len(labelled(world_of(SITES, target_labels=labels), 0, 0, Needs(all_target_labels=True))) == 9
    assert len(labelled(world_of(SITES, target_labels="all"), 0, 0)) == 9
    assert labelled(world_of(SITES), 0, 0) == ()
    world = world_of(SITES, target_labels={"subjects": 2})
    both = labelled(world, 0, 1, Needs(every_target=True))
    assert set(both) == {*labelled(world, 0, 1), *labelled(world, 1, 1)}


def test_source_cases_without_a_label_train_nothing() -> None:
    world = world_of(SITES)
    study = world.study
    cases = [replace(case, labels={}) if case.subject in ("a01", "d02") else case for case in world.cases()]
    source = placed(study, cases).scenario(study.questions[0], 0, 0).source
    assert [cohort.subjects for cohort in source] == [("a00", "a02"), ("d00", "d01")]
    for site in "ad":
        with pytest.raises(SplitError, match=f"source '{site}': no training case has a 'mask'"):
            placed(study, [replace(case, labels={}) if case.site == site else case for case in cases]).check()


FOLDS = {f"b{n:02}": Assignment("fold", n % 3) for n in range(9)} | {
    "a00": Assignment("val"),
    "d02": Assignment("test"),
}


def test_every_fold_tests_its_own_subjects_and_the_source_always_the_same() -> None:
    world = world_of(SITES, FOLDS, test={"folds": 3})
    for fold in range(3):
        judged = {(test.site, test.part, test.fold): test.cohort.subjects for test in world.tests(fold)}
        assert judged == {
            ("a", "val", 0): ("a00",),
            ("d", "test", 0): ("d02",),
            ("b", "test", fold): tuple(f"b{n:02}" for n in range(fold, 9, 3)),
        }
        (seen,) = world.scenario(world.study.questions[0], 0, fold).target
        assert len(seen.cases) == 6
        assert not set(seen.subjects) & set(judged["b", "test", fold])


def test_test_cases_without_labels_are_kept_and_validation_cases_without_are_not() -> None:
    places = {"a00": Assignment("val"), "a01": Assignment("val"), "b00": Assignment("test"), "b01": Assignment("test")}
    world = world_of(SITES, places)
    bare = [replace(case, labels={}) if case.subject in ("a01", "b01") else case for case in world.cases()]
    judged = {(test.site, test.part): test.cohort.subjects for test in placed(world.study, bare, places).tests(0)}
    assert judged == {("a", "val"): ("a00",), ("b", "test"): ("b00", "b01")}


def test_the_watched_images_are_of_the_fold_without_labels_and_in_no_order_of_the_manifest() -> None:
    sites = {"a": 3, "b": 30, "c": 4, "d": 3}
    world = world_of(sites, {"b00": Assignment("fold", 0), "c00": Assignment("test")}, test={"folds": 2})
    for fold, count in ((0, 3), (1, 3)):
        watched = world.unlabelled_training(fold)
        assert [(each.site, each.part, each.fold, len(each.cohort.cases)) for each in watched] == [
            ("b", "train-unlabelled", fold, WATCHED),
            ("c", "train-unlabelled", fold, count),
        ]
        assert all(each.is_unlabelled_training for each in watched)
        assert not any(case.labels for each in watched for case in each.cohort.cases)
    names = [case.name for case in world.unlabelled_training(0)[0].cohort.cases]
    assert "b00-0.png" not in names
    turned = placed(world.study, list(world.cases())[::-1], dict(world.assignments))
    assert [case.name for case in turned.unlabelled_training(0)[0].cohort.cases] == names
    assert names != sorted(names)[:WATCHED]
    assert not any(test.is_unlabelled_training for test in world.tests(0))


def test_a_site_is_of_one_class_where_no_fold_tests_another() -> None:
    task = {"classification": {"classes": ["x", "y"]}}
    splits = {f"b{n:02}": Assignment("fold", n % 2) for n in range(4)}
    study = make_study({"cohort": "m.csv", **TREE, "task": task, "target": ["b"], "test": {"folds": 2}})
    assert isinstance(study.made_task, Classification)

    def world(labels: str) -> World:
        return placed(study, [image(f"b{n:02}", label=word) for n, word in enumerate(labels)], splits)

    assert list(world("xxxx").one_class()) == ["b"]
    assert "'b': every labelled test case is 'x', so auroc is undefined" in world("xxxx").one_class()["b"]
    assert world("xyxy").one_class() == world("xxxy").one_class() == {}


def test_a_target_is_untested_where_no_fold_tests_it() -> None:
    world = world_of(SITES, {"b00": Assignment("fold", 1)}, test={"folds": 2})
    assert list(world.untested()) == ["c"]
    assert "has 9 subjects and none is tested" in world.untested()["c"]


def test_each_fold_watches_its_own_training_images() -> None:
    world = world_of(SITES, {"c00": Assignment("fold", 0), "c01": Assignment("fold", 1)}, test={"folds": 2})
    for fold, absent in ((0, "c00"), (1, "c01")):
        watched = {case.subject for case in world.unlabelled_training(fold)[1].cohort.cases}
        assert watched == {f"c{n:02}" for n in range(9)} - {absent}


def test_a_budget_that_the_last_target_or_the_last_fold_cannot_meet_is_refused_at_once() -> None:
    with pytest.raises(SplitError, match="asks for 4 subjects, site 'c' has 3 labelled"):
        world_of({**SITES, "c": 3}, target_labels={"subjects": 4}).check()
    late = {f"b{n:02}": Assignment("fold", 1) for n in range(6)}
    with pytest.raises(SplitError, match="asks for 4 subjects, site 'b' has 3 labelled"):
        world_of(SITES, late, target_labels={"subjects": 4}, test={"folds": 2}).check()
    world_of(SITES, late, target_labels={"subjects": 3}, test={"folds": 2}).check()


def test_every_site_of_every_stage_of_a_stream_needs_a_label() -> None:
    change = {"source": [], "target": [], "stream": [["a"], ["b", "c"]]}
    world = world_of(SITES, **change)
    world.check()
    for site in "abc":
        bare = [replace(case, labels={}) if case.site == site else case for case in world.cases()]
        with pytest.raises(SplitError, match=f"stream: site '{site}' has no training case with a 'mask'"):
            placed(world.study, bare).check()
