"""What a record keeps of the target's training images, how rules rank by it, and what the judge
writes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, write_cohort

from allograft.metrics.label_free import class_probabilities, mean_entropy, soft_neighbourhood_density
from allograft.results.analysis.label_free import RULES, pooled, score, watched
from allograft.results.record import Record, read_all
from allograft.run.judge import Judge
from allograft.study.plan import scenario_of
from allograft.study.world import WATCHED, World
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.segmentation import Segmentation

MASKS, LABELS = Segmentation(("vessel",)), Classification(("no", "yes"))


def of_images(logits: torch.Tensor, task: Any = LABELS) -> list[dict[str, Any]]:
    return [
        {"case": str(n), "subject": str(n), **watched({"label": row[None]}, task, str(n))}
        for n, row in enumerate(logits)
    ]


def test_a_rule_ranks_the_better_higher() -> None:
    sure = 9.0 * torch.eye(2).repeat(5, 1) - 4.5
    unsure, collapsed = sure / 9, sure[:1].expand(10, 2)
    ranks = {rule: [score(rule, of_images(logits), LABELS) for logits in (sure, unsure, collapsed)] for rule in RULES}
    assert ranks["entropy"][0] > ranks["entropy"][1]  # type: ignore[operator]
    assert ranks["infomax"][0] > ranks["infomax"][1] > ranks["infomax"][2] - 1e-9  # type: ignore[operator]
    assert ranks["entropy"][2] == pytest.approx(
        ranks["entropy"][0]
    )  # sure of one class: entropy is fooled, information is not
    assert ranks["infomax"][2] == pytest.approx(0, abs=1e-9)
    assert ranks["snd"][0] == pytest.approx(math.log(4), abs=1e-3)


@pytest.mark.parametrize("task", [LABELS, Multilabel(("a", "b"))], ids=["classes", "labels"])
def test_scores_of_images(task: Any) -> None:
    logits = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    cases, several = of_images(logits, task), task.coding.several
    assert all(set(case) == {"case", "subject", "entropy", "prediction"} for case in cases)
    assert score("entropy", cases, task) == pytest.approx(-mean_entropy(logits, several=several))
    expected = soft_neighbourhood_density(class_probabilities(logits, several=several), several=several)
    assert score("snd", cases, task) == pytest.approx(expected)
    told = pooled(cases, task)
    assert told["label-free/entropy"] == -score("entropy", cases, task)  # type: ignore[operator]
    assert set(told) == {f"label-free/{rule}" for rule in RULES}


def test_scores_of_masks() -> None:
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    cases = [
        {"case": n, "subject": n, **watched({"mask": image[None]}, MASKS, n)}
        for n, image in zip("ab", logits, strict=True)
    ]
    each = [
        soft_neighbourhood_density(class_probabilities(image.flatten(1).T)) for image in logits
    ]  # 16 pixels: all of them
    assert score("snd", cases, MASKS) == pytest.approx(sum(each) / 2)
    tiny = watched({"mask": logits[:1, :, :1, :2]}, MASKS, "c")
    assert tiny["snd"] is None
    assert score("snd", [*cases, {"case": "c", "subject": "c", **tiny}], MASKS) == pytest.approx(sum(each) / 2)
    assert score("snd", [{"case": "c", "subject": "c", **tiny}], MASKS) is None
    assert watched({"mask": logits[:1]}, MASKS, "a") == watched({"mask": logits[:1]}, MASKS, "a")
    assert all(score(rule, [], MASKS) is None for rule in RULES)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, Record]]:
    folder = tmp_path_factory.mktemp("pool")
    session = session_of(write_cohort(folder / "cohort"), folder / "out", {"finetune": {"scope": "full"}})
    world = session.prepare()
    row = next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])
    judge = Judge(
        (*world.tests(0), *world.unlabelled_training(0)),
        session.study.made_task,
        session.out / "records",
        session.fabric,
    )
    for ordinal, stage in enumerate(
        session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0))
    ):
        judge(stage, ordinal, 0)
    return world, read_all(session.out)


def test_the_judge_writes_a_pool_beside_the_test_sets(judged: tuple[World, dict[str, Record]]) -> None:
    world, records = judged
    unlabelled_training = [
        record for record in records.values() if (record.site, record.part) == ("b", "train-unlabelled")
    ]
    others = {(record.site, record.part) for record in records.values()} - {("b", "train-unlabelled")}
    assert others == {("a", "val"), ("a", "test"), ("d", "val"), ("d", "test"), ("b", "test")}
    assert len(unlabelled_training) == len(
        [record for record in records.values() if (record.site, record.part) == ("b", "test")]
    )
    train, test = world.part("b", "train", 0), world.part("b", "test", 0)
    for record in unlabelled_training:
        assert {case["case"] for case in record.cases} == {case.name for case in train.cases}
        assert not {case["subject"] for case in record.cases} & set(test.subjects)
        assert all(set(case) == {"case", "subject", "entropy", "prediction", "snd"} for case in record.cases)
        assert set(record.metrics) == {f"label-free/{rule}" for rule in RULES}
        assert all(value is not None for value in record.metrics.values())


def test_a_pool_shows_no_label_and_no_test_case(judged: tuple[World, dict[str, Record]]) -> None:
    world, _ = judged
    tests = {case.name for test in world.tests(0) for case in test.cohort.cases}
    for pool in world.unlabelled_training(0):
        assert pool.is_unlabelled_training
        assert all(not case.labels for case in pool.cohort.cases)
        assert not tests & {case.name for case in pool.cohort.cases}
    assert not any(test.is_unlabelled_training for test in world.tests(0))


def test_a_pool_is_small_and_stays_when_images_come(judged: tuple[World, dict[str, Record]]) -> None:
    world, _ = judged
    case = next(case for case in world.cases() if case.site == "b" and world.assignments[case.subject].split == "train")

    def pool(numbers: range) -> list[str]:
        cases = tuple(replace(case, name=f"n{number}") for number in numbers)
        (found,) = replace(world, cohorts=(replace(world.cohorts[0], cases=cases),)).unlabelled_training(0)
        return [one.name for one in found.cohort.cases]

    assert len(pool(range(50))) == WATCHED
    assert pool(range(8)) == [name for name in pool(range(WATCHED)) if name in {f"n{number}" for number in range(8)}]
    assert replace(world, cohorts=(replace(world.cohorts[0], cases=()),)).unlabelled_training(0) == []


def test_a_pool_rotates_with_the_folds(judged: tuple[World, dict[str, Record]], tmp_path: Path) -> None:
    session = session_of(
        write_cohort(tmp_path / "cohort"),
        tmp_path / "out",
        "supervised",
        test={"fraction": 0.5, "val": 0.5, "folds": 2},
    )
    world = session.prepare()
    for fold in range(2):
        ((pool,), tests) = world.unlabelled_training(fold), [test for test in world.tests(fold) if test.site == "b"]
        assert pool.fold == fold
        assert not set(pool.cohort.subjects) & {subject for test in tests for subject in test.cohort.subjects}
    assert set(world.unlabelled_training(0)[0].cohort.subjects) != set(world.unlabelled_training(1)[0].cohort.subjects)
