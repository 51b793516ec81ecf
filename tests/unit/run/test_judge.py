"""What the judge writes of a stage: every field of its records, what it looks at, and when it
judges again."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.unit.tiny import VESSEL, read, write_photographs

from allograft import __version__
from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.methods.finetune import Finetune
from allograft.predictor import Prediction
from allograft.recipe import Stage, title
from allograft.recipe.recipe import Saw
from allograft.results.record import Record, read_all, read_record
from allograft.run import judge as room
from allograft.run.judge import Judge, environment, failed_record
from allograft.study.world import TestSet
from allograft.tasks.segmentation import Segmentation

FABRIC: Any = SimpleNamespace(device=torch.device("cpu"), world_size=3)


@dataclass(frozen=True)
class Seeing:
    """Finds the bright square, and says what it was shown."""

    shown: Any

    def __call__(self, batch: Batch) -> Prediction:
        self.shown.append((batch.image.device.type, batch.site.tolist(), dict(batch.labels), torch.rand(()).item()))
        bright = (batch.image > 100).float() - 0.5
        facts = {"score": torch.full((len(batch),), 4.0), "chosen": torch.full((len(batch),), 2)}
        return {"mask": torch.cat([-bright, bright], 1), **facts, "warnings": ("far",) * len(batch)}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """Two labelled subjects of "b" and one without a label; one of "a"."""
    whole = replace(read(write_photographs(tmp_path / "cohort", {"a": 1, "b": 3})), sites=("a", "b"))
    hidden = [replace(c, labels={}) if c.name == "b2.png" else c for c in whole.cases]
    return replace(whole, cases=tuple(hidden))


@pytest.fixture
def stage() -> Stage:
    return Stage(
        "tuned",
        Seeing([]),
        ("a",),
        {"models": 2},
        unit="u" * 8,
        recipe=Finetune("top"),
        sites=("x", "b", "a"),
        cost={"train_seconds": 2.5, "trainable_parameters": 7},
        saw=Saw(("a",), ("b", "c"), ("d",), ("b0", "b1")),
    )


def judge_of(folder: Path, *tests: TestSet, task: Any = VESSEL, fabric: Any = FABRIC) -> Judge:
    return Judge(tests, task, folder / "records", fabric)


def site(cohort: Cohort, name: str, part: Any = "test", fold: int = 0) -> TestSet:
    here = cohort.site(name)
    return TestSet(name, part, fold, here.labelled("mask") if part == "val" else here)


def test_every_field_of_a_record(cohort: Cohort, stage: Stage, tmp_path: Path) -> None:
    judge = judge_of(tmp_path, site(cohort, "b", fold=2))
    judge(stage, 4, 7)
    (record,) = read_all(tmp_path).values()
    names = ("unit", "seed", "stage", "ordinal", "seen", "site", "part", "fold", "status", "error")
    assert [getattr(record, name) for name in names] == [
        stage.unit, 7, "tuned", 4, ("a",), "b", "test", 2, "done", "",
    ]  # fmt: skip
    assert (record.source, record.target, record.stream) == (("a",), "b+c", ("d",))
    assert record.labelled_subjects == ("b0", "b1")
    assert record.recipe == {
        "name": "finetune",
        "title": "finetune scope=top",
        "parameters": record.recipe["parameters"],
    }
    assert record.recipe["parameters"]["scope"] == "top"
    assert record.facts == {"models": 2}
    assert record.cost.keys() == {"train_seconds", "trainable_parameters", "predict_seconds"}
    assert (record.cost["train_seconds"], record.cost["trainable_parameters"]) == (2.5, 7)
    assert record.environment == environment(FABRIC)
    assert record.name in {path.stem for path in (tmp_path / "records").iterdir()}


def test_the_environment_is_what_same_bytes_depend_on() -> None:
    assert environment(FABRIC) == {
        "allograft": __version__,
        "torch": torch.__version__,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "processes": 3,
    }


def test_every_case_is_there_with_or_without_a_label_and_means_are_of_those_with_one(
    cohort: Cohort, stage: Stage, tmp_path: Path
) -> None:
    judge_of(tmp_path, site(cohort, "b"))(stage, 0, 0)
    (record,) = read_all(tmp_path).values()
    assert [(case["case"], case["subject"], "dice" in case) for case in record.cases] == [
        ("b0.png", "b0", True),
        ("b1.png", "b1", True),
        ("b2.png", "b2", False),
    ]
    for case in record.cases:
        assert (case["score"], case["chosen"], case["warnings"]) == (4.0, 2, ["far"])
        assert "calibration" in case
        assert "losses" not in case["calibration"], "of a test case no label is looked at"
    dice = [case["dice"] for case in record.cases[:2]]
    assert record.metrics["dice"] == pytest.approx(sum(dice) / 2)
    assert record.metrics["label-free/score"] == 4.0
    entropies = [case["entropy"] for case in record.cases]
    assert record.metrics["label-free/entropy"] == pytest.approx(sum(entropies) / 3)
    assert "label-free/chosen" not in record.metrics


def test_a_predictor_is_shown_no_label_and_sites_by_the_numbers_of_its_unit(
    cohort: Cohort, stage: Stage, tmp_path: Path
) -> None:
    judge_of(tmp_path, site(cohort, "b"), site(cohort, "a"))(stage, 0, 0)
    shown = stage.predictor.shown  # type: ignore[union-attr]
    assert [sites for _, sites, _, _ in shown] == [[1], [1], [1], [2]]
    assert all(labels == {} for _, _, labels, _ in shown)


def test_validation_cases_keep_losses_and_unlabelled_training_images_are_watched(
    cohort: Cohort, stage: Stage, tmp_path: Path
) -> None:
    judge_of(tmp_path, site(cohort, "a", "val"), site(cohort, "b", "train-unlabelled"))(stage, 0, 0)
    by_part = {record.part: record for record in read_all(tmp_path).values()}
    assert by_part["val"].cases[0]["calibration"]["losses"]
    watched = by_part["train-unlabelled"]
    assert all(case.keys() == {"case", "subject", "entropy", "prediction", "snd"} for case in watched.cases)
    assert watched.metrics.keys() == {"label-free/entropy", "label-free/infomax", "label-free/snd"}


def test_draws_of_a_predictor_are_named_by_unit_and_stage_and_leave_the_generators_as_they_were(
    cohort: Cohort, stage: Stage, tmp_path: Path
) -> None:
    drawn = []
    for other in (stage, stage, replace(stage, unit="v" * 8), replace(stage, name="another")):
        made = replace(other, predictor=Seeing([]))
        before = torch.get_rng_state()
        judge_of(tmp_path / str(len(drawn)), site(cohort, "b"))(made, 0, len(drawn))
        assert torch.equal(torch.get_rng_state(), before)
        drawn.append([value for *_, value in made.predictor.shown])  # type: ignore[union-attr]
    assert drawn[0] == drawn[1]
    assert len({*map(tuple, drawn)}) == 3


def test_cases_go_to_the_device_of_the_study(
    cohort: Cohort, stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def predicted(predictor: Any, whole: Any, task: Any, device: Any) -> dict[str, Any]:
        asked.append((predictor, whole.case.name, task, device))
        return dict(stage.predictor(whole.batch.unlabelled()))  # type: ignore[misc]

    monkeypatch.setattr(room, "case_prediction", predicted)
    device = torch.device("meta")
    judge_of(tmp_path, site(cohort, "a"), fabric=SimpleNamespace(device=device, world_size=1))(stage, 0, 0)
    assert asked == [(stage.predictor, "a0.png", VESSEL, device)]


def test_weights_only_have_a_record_that_says_so_and_nothing_more(cohort: Cohort, stage: Stage, tmp_path: Path) -> None:
    judge, bare = judge_of(tmp_path, site(cohort, "b")), replace(stage, predictor=None)
    assert not judge.complete(stage.unit, [bare])
    judge(bare, 3, 5)
    (record,) = read_all(tmp_path).values()
    assert (record.part, record.site, record.cases, record.ordinal, record.seed) == ("weights", "", (), 3, 5)
    assert record.cost == dict(stage.cost)
    assert judge.complete(stage.unit, [bare])
    assert not judge.complete(stage.unit, [bare, stage])
    assert judge.scores(bare) == "no score"


def test_only_what_has_no_fresh_record_is_judged(cohort: Cohort, stage: Stage, tmp_path: Path) -> None:
    tests = site(cohort, "a"), site(cohort, "b"), site(cohort, "b", "val")
    judge = judge_of(tmp_path, *tests)
    judge(stage, 0, 0)
    assert judge.complete(stage.unit, [stage])
    assert not judge.complete("another", [stage])
    assert not judge.complete(stage.unit, [stage, replace(stage, name="another")])
    shown = stage.predictor.shown  # type: ignore[union-attr]
    count = len(shown)
    judge(stage, 0, 0)
    assert len(shown) == count
    damaged = tmp_path / "records" / f"{Record(stage.unit, {}, 0, 'tuned', 0, 'a', 'test').name}.json"
    damaged.write_text(damaged.read_text()[:-9])
    assert not judge.complete(stage.unit, [stage])
    judge(stage, 0, 0)
    assert len(shown) == count + 1
    assert judge.complete(stage.unit, [stage])
    fewer = judge_of(tmp_path, TestSet("b", "test", 0, cohort.site("b").of(["b0"])))
    assert not fewer.complete(stage.unit, [stage])
    assert replace(fewer, tests=tests[1:2]).complete(stage.unit, [stage])


@pytest.mark.parametrize("changes", [{"missed": "zero"}, {"surface_dice": 2.0}, {"surface_dice": 1.0}])
def test_other_questions_to_the_same_cases_are_asked_again_and_other_sites_of_the_study_are_not(
    changes: dict[str, Any], cohort: Cohort, tmp_path: Path
) -> None:
    test = site(cohort, "b")
    plain = judge_of(tmp_path)._data(test)
    asked = [judge_of(tmp_path, task=Segmentation(("vessel",), **more))._data(test) for more in (changes, changes, {})]
    assert asked[0] == asked[1] != plain
    assert asked[2] == plain
    assert judge_of(tmp_path)._data(replace(test, cohort=replace(test.cohort, sites=("b", "z")))) == plain


def test_scores_are_said_site_by_site(cohort: Cohort, stage: Stage, tmp_path: Path) -> None:
    judge = judge_of(tmp_path, site(cohort, "a"), site(cohort, "b", "val"))
    assert judge.scores(stage) == "no score"
    judge(stage, 0, 0)
    records = read_all(tmp_path).values()
    values = {record.site: record.metrics["dice"] for record in records}
    assert judge.scores(stage) == f"dice {values['a']:.3f} at a, {values['b']:.3f} at b (val)"


@pytest.mark.parametrize(
    ("error", "said"), [(SpecError("a: wrong"), "a: wrong"), (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0")]
)
def test_a_failed_unit_is_recorded_with_why(error: Exception, said: str, tmp_path: Path) -> None:
    failed_record("unit", Finetune("top"), 3, "b", 2, error, FABRIC).write(tmp_path)
    (path,) = tmp_path.iterdir()
    record = read_record(path)
    assert (record.unit, record.seed, record.stage, record.site, record.target, record.fold) == (
        "unit", 3, "failed", "b", "b", 2,
    )  # fmt: skip
    assert (record.part, record.status, record.error) == ("test", "failed", said)
    assert record.recipe["title"] == title(Finetune("top"))
    assert record.environment == environment(FABRIC)
    assert "checksum" in json.loads(path.read_text())
