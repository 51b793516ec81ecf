"""What a model's pack is fitted on and holds, case by case: shares, classes, pixels that count and the
numbers that monitoring compares with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import VESSEL, read, write_photographs
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.errors import AllograftError
from allograft.predictor import Direct
from allograft.predictor.deployment import DISTANCE, FILE, LEAST, Deployment
from allograft.recipe import total_needs
from allograft.results import deployment
from allograft.results.deployment import (
    Images,
    Source,
    _distances,
    _features,
    _fitted,
    _predicted,
    _thinned,
    answers_of,
    calibrated,
)
from allograft.results.record import Record
from allograft.study.plan import scenario_of
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return read(write_photographs(tmp_path_factory.mktemp("cohort"), {"a": 9}))


@pytest.mark.parametrize(("most", "kept"), [(9, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (8, [0, 2, 4, 6, 8]), (3, [0, 3, 6])])
def test_many_cases_are_thinned_at_equal_steps(
    most: int, kept: list[int], cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "MOST", most)
    (made,) = _thinned((cohort,))
    assert made.cases == tuple(cohort.cases[n] for n in kept)


def test_where_too_few_cases_validate_a_third_of_the_training_subjects_is_left_out(tmp_path: Path) -> None:
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", "supervised", test={"fraction": 0.2, "val": 0.0}
    )
    world = session.prepare()
    row = session.plan(world).rows[0]
    images = Images.of(world, row, world.sites)
    seen = scenario_of(world, row).narrowed(total_needs(row.recipe))
    subjects = {one.subject for part in seen.source for one in part.cases}
    left = {one.subject for part in images.held_out for one in part.cases}
    assert len(left) == len(subjects) // 3 >= 1
    assert {one.subject for part in images.fitted for one in part.cases} == subjects - left
    assert images.labelled == ()
    parts = [
        images,
        replace(images, fitted=images.held_out),
        replace(images, held_out=()),
        replace(images, labelled=images.fitted),
    ]
    assert len({str(part.fingerprint()) for part in parts}) == 4


class Network:
    """Features that name the case."""


@pytest.fixture
def featured(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The mean of an image stands for its features; on which device each was."""
    devices: list[torch.device] = []

    def features(network: Any, batch: Batch) -> Tensor:
        devices.append(batch.image.device)
        return torch.stack([batch.image.double().mean((1, 2, 3)), torch.ones_like(batch.image[:, 0, 0, 0]).double()], 1)

    monkeypatch.setattr(deployment, "case_features", features)
    return devices


def test_features_have_the_class_of_their_case_where_each_has_one(
    cohort: Cohort, featured: list[torch.device], tmp_path: Path
) -> None:
    coding = Classification(("x", "y")).coding
    manifest = write_photographs(tmp_path / "classes", {"a": 4})
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{rows[0]},label", *(f"{row},{'xyyx'[n]}" for n, row in enumerate(rows[1:]))]))
    classed = Cohort.read(manifest, coding, preprocessing=Preprocessing(intensity="none"))
    every, labels = _features(Network(), [classed], Classification(("x", "y")), "cpu")  # type: ignore[arg-type]
    assert labels is not None
    assert labels.tolist() == [0, 1, 1, 0]
    assert every[:, 0].tolist() == [float(whole.batch.image.double().mean()) for whole in classed.wholes()]
    assert _features(Network(), [classed, cohort], Classification(("x", "y")), "cpu")[1] is None  # type: ignore[arg-type]
    assert _features(Network(), [classed], Multilabel(("x", "y")), "cpu")[1] is None  # type: ignore[arg-type]
    assert _features(Network(), [cohort], VESSEL, "cpu")[1] is None  # type: ignore[arg-type]


def test_images_come_to_the_device(cohort: Cohort, featured: list[torch.device]) -> None:
    class Gaussian:
        def distance(self, features: Tensor) -> Tensor:
            return features[:, 0]

    monkey: Any = Gaussian()
    _features(Network(), [cohort], VESSEL, "meta")  # type: ignore[arg-type]
    _distances(monkey, Network(), [cohort], "meta")  # type: ignore[arg-type]
    assert {device.type for device in featured} == {"meta"}
    found = _distances(monkey, Network(), [cohort, cohort], "cpu")  # type: ignore[arg-type]
    assert found.tolist() == [float(whole.batch.image.double().mean()) for whole in cohort.wholes()] * 2
    assert _distances(monkey, Network(), [], "cpu").shape == (0,)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Chances:
    """Fixed chances of two classes, by the brightness of an image."""

    devices: Any

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        self.devices.append(batch.image.device.type)
        bright = batch.image.double().mean((1, 2, 3)) / 255
        return {"label": torch.stack([1 - bright, bright], 1).log()}


def classes(tmp_path: Path, count: int) -> Cohort:
    manifest = write_photographs(tmp_path / f"classes{count}", {"a": count})
    rows = manifest.read_text().splitlines()
    manifest.write_text("\n".join([f"{rows[0]},label", *(f"{row},{'xy'[n % 2]}" for n, row in enumerate(rows[1:]))]))
    return Cohort.read(manifest, Classification(("x", "y")).coding, preprocessing=Preprocessing(intensity="none"))


def test_reference_numbers_are_those_of_the_answers_and_calibration_needs_enough_cases(tmp_path: Path) -> None:
    task, devices = Classification(("x", "y")), []
    few, enough = classes(tmp_path, LEAST - 1), classes(tmp_path, LEAST)
    reference, units, calibration = _predicted(Chances(devices), [few], task, "cpu")
    assert calibration == {}
    assert units == []
    chances = [float(whole.batch.image.double().mean()) / 255 for whole in few.wholes()]
    assert reference["y"] == pytest.approx(chances)
    assert reference["x"] == pytest.approx([1 - chance for chance in chances])
    assert reference["confidence"] == pytest.approx([max(chance, 1 - chance) for chance in chances])
    assert set(_predicted(Chances(devices), [enough], task, "cpu")[2]) == {"a"}
    assert {*devices} == {"cpu"}


def test_a_pixel_that_does_not_count_says_nothing_of_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.tensor([[1, 0], [-100, 1]])
    region = torch.tensor([[True, False], [True, True]])
    chances = torch.tensor([[[0.9, 0.8], [0.7, 0.4]], [[0.1, 0.2], [0.3, 0.6]]])
    task = SimpleNamespace(key="mask", probabilities=lambda prediction, whole: chances)
    for counted, expected in ((region, [0, 3]), (None, [0, 1, 3])):
        found = answers_of({}, SimpleNamespace(mask=mask, region=counted), task)  # type: ignore[arg-type]
        assert found is not None
        logits, labels = found
        assert labels.tolist() == mask.flatten()[expected].tolist()
        torch.testing.assert_close(logits.exp(), chances.flatten(1).T[expected].double())
    monkeypatch.setattr(deployment, "PIXELS", 2)
    found = answers_of({}, SimpleNamespace(mask=mask, region=None), task)  # type: ignore[arg-type]
    assert found is not None
    assert len(found[1]) == 2
    assert answers_of({}, SimpleNamespace(), SimpleNamespace(key="boxes")) is None  # type: ignore[arg-type]


def test_findings_say_each_for_themselves_how_sure_they_were() -> None:
    task = SimpleNamespace(
        key="label",
        coding=SimpleNamespace(several=True),
        probabilities=lambda prediction: torch.tensor([0.2, 0.9]),
        truth=lambda whole: [0.0, 1.0],
    )
    found = answers_of({}, SimpleNamespace(), task)  # type: ignore[arg-type]
    assert found is not None
    torch.testing.assert_close(found[0].softmax(1)[:, 1], torch.tensor([0.2, 0.9]))
    assert found[1].tolist() == [0, 1]
    assert calibrated([found] * 6)["answers"] == 12


@pytest.mark.parametrize("fails", [True, False])
def test_a_pack_says_what_it_lacks_and_has_all_else(
    fails: bool, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the distances fail after the fit, neither is kept."""

    def distances(*_: Any) -> Tensor:
        if fails:
            raise AllograftError("too large\nfor words")
        return torch.tensor([3.0, 1.0])

    audited: list[Any] = []
    monkeypatch.setattr(deployment, "encoder_of", lambda predictor: Network())
    monkeypatch.setattr(deployment, "_features", lambda *_: (torch.eye(3), None))
    monkeypatch.setattr(deployment.TiedGaussian, "fit", staticmethod(lambda *_: "a gaussian"))
    monkeypatch.setattr(deployment, "_distances", distances)
    monkeypatch.setattr(deployment, "_predicted", lambda *words: ({"volume": [2.0, 1.0]}, ["mL"], {"a": 1}))
    monkeypatch.setattr(deployment, "validation_audits", lambda *words: audited.append(words) or ["an audit"])
    records: Any = [SimpleNamespace(measured=("first",)), SimpleNamespace(measured=("second",))]
    study = SimpleNamespace(made_task="the task")
    source = Source(SimpleNamespace(study=study, cases=lambda: "cases"), None, records)  # type: ignore[arg-type]
    made = _fitted(None, Images((cohort,), (cohort,), (), "some words"), source)
    assert audited == [("the task", ["first", "second"], "cases")]
    assert made.gaussian == (None if fails else "a gaussian")
    assert made.held_out.tolist() == ([] if fails else [3.0, 1.0])
    reference = {"volume": [1.0, 2.0]} if fails else {"volume": [1.0, 2.0], DISTANCE: [1.0, 3.0]}
    notes = ["no distance to the training images: too large"] if fails else []
    assert made.facts == {
        "held_out": "some words",
        "calibration": {"a": 1},
        "fairness": ["an audit"],
        "reference": reference,
        "units": ["mL"],
        "notes": notes,
    }


def test_a_network_without_an_encoder_has_no_distance(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployment, "_predicted", lambda *words: ({}, [], {}))
    monkeypatch.setattr(deployment, "validation_audits", lambda *words: [])
    source = Source(SimpleNamespace(study=SimpleNamespace(made_task=VESSEL), cases=list), None)  # type: ignore[arg-type]
    made = _fitted(Direct(torch.nn.Identity()), Images((cohort,), (), (), ""), source)  # type: ignore[arg-type]
    assert made.facts["notes"] == ["no distance to the training images: its network has no part that is an encoder"]
    assert made.gaussian is None


def test_a_pack_is_made_again_where_the_model_its_cases_or_its_records_are_others(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    card = {"checksum": "one", "sites": []}
    images = Images((cohort,), (), (), "")
    monkeypatch.setattr(deployment, "read_card", lambda folder: card)
    monkeypatch.setattr(deployment, "load_predictor", lambda folder, **_: ("a predictor", card))
    monkeypatch.setattr(Images, "of", staticmethod(lambda *_: images))
    monkeypatch.setattr(deployment, "_fitted", lambda *_: made.append("fitted") or Deployment())
    earlier, folder = tmp_path / "earlier", tmp_path / "new"
    for place in (earlier, folder):
        place.mkdir()
    record = Record("u", {}, 0, "end", 0, "a", "val", cases=({"case": "x", "subject": "x", "dice": 0.5},))
    source = Source(None, None, (record,))  # type: ignore[arg-type]
    deployment.add_deployment(earlier, source)

    def again(other: Source = source) -> bool:
        before = len(made)
        deployment.add_deployment(folder, other, earlier=earlier)
        return len(made) > before

    assert not again()
    assert (folder / FILE).read_bytes() == (earlier / FILE).read_bytes()
    worse = replace(record, cases=({"case": "x", "subject": "x", "dice": 0.4},))
    assert again(replace(source, validation=(worse,)))
    monkeypatch.setattr(Images, "of", staticmethod(lambda *_: replace(images, labelled=(cohort,))))
    assert again()
    monkeypatch.setattr(Images, "of", staticmethod(lambda *_: images))
    card["checksum"] = "two"
    assert again()
