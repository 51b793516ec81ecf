"""Detection: a whole case is judged in its own pixels, and a test set by all its boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allograft.batch import Batch, Boxes
from allograft.cohort import Cohort, Preprocessing
from allograft.errors import ManifestError, SpecError
from allograft.metrics.detection import detection_metrics, match
from allograft.networks import Wrapped
from allograft.tasks import detection
from allograft.tasks.detection import Detection

TASK = Detection(("cell", "debris"))


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    rng = np.random.default_rng(0)
    for name in "ab":
        Image.fromarray(rng.integers(0, 255, (20, 40), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.json").write_text(json.dumps({"boxes": [[0, 0, 10, 10], [20, 0, 30, 10]], "labels": ["cell"] * 2}))
    (tmp_path / "b.json").write_text(json.dumps({"boxes": [], "labels": []}))
    (tmp_path / "manifest.csv").write_text("image,boxes,subject,site\na.png,a.json,1,s\nb.png,b.json,2,s\n")
    # twice as wide as stored: what is found is measured on the stored image
    return Cohort.read(tmp_path / "manifest.csv", TASK.coding, preprocessing=Preprocessing(size=(20, 80)))


def _found(*boxes: tuple[list[float], int, float]) -> dict[str, tuple[Boxes, ...]]:
    xyxy, label, score = zip(*boxes, strict=True) if boxes else ((), (), ())
    made = Boxes(
        torch.tensor(xyxy, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(label, dtype=torch.int64),
        torch.tensor(score, dtype=torch.float32),
    )
    return {"boxes": (made,)}


def test_boxes_are_judged_in_the_images_own_pixels(cohort: Cohort) -> None:
    prediction = _found(([60.0, 0, 80, 10], 1, 0.6), ([0.0, 0, 20, 10], 1, 0.9), ([0.0, 0, 20, 10], 2, 0.7))
    measured = TASK.measure(prediction, cohort.whole(0))  # type: ignore[arg-type]
    assert measured["scores"] == pytest.approx([0.9, 0.7, 0.6])
    assert measured["labels"] == [1, 2, 1]
    assert measured["matched"] == [1023, 0, 0]  # all ten thresholds; another class; nowhere near
    assert measured["truths"] == [2, 0]
    assert measured["f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert TASK.measure(_found(), cohort.whole(1))["f1"] == 1.0  # type: ignore[arg-type]


def test_a_test_set_is_measured_from_its_records(cohort: Cohort) -> None:
    first = _found(([0.0, 0, 20, 10], 1, 0.9), ([44.0, 0, 60, 10], 1, 0.8))
    second = _found(([0.0, 0, 4, 4], 1, 0.85))
    cases = [
        json.loads(json.dumps(TASK.measure(prediction, cohort.whole(number))))  # type: ignore[arg-type]
        for number, prediction in enumerate((first, second))
    ]
    one = torch.ones(2, dtype=torch.int64)
    truth = torch.tensor([[0.0, 0, 10, 10], [20.0, 0, 30, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [22.0, 0, 30, 10]])
    expected = detection_metrics(
        [
            match(boxes, one, torch.tensor([0.9, 0.8]), truth, one),
            match(torch.tensor([[0.0, 0, 2, 4]]), one[:1], torch.tensor([0.85]), truth[:0], one[:0]),
        ]
    )
    assert TASK.aggregate(cases) == pytest.approx(expected)
    assert TASK.aggregate([]) == {}
    assert TASK.aggregate(cases[1:])["ap50"] is None


def test_each_reader_has_the_metrics_of_the_images_that_they_have_seen(tmp_path: Path) -> None:
    for name in "ab":
        Image.fromarray(np.zeros((20, 40), np.uint8)).save(tmp_path / f"{name}.png")
    left, right, none = [[0, 0, 10, 10]], [[20, 0, 30, 10]], list[list[int]]()
    for name, boxes in (("left", left), ("right", right), ("both", left + right), ("none", none)):
        (tmp_path / f"{name}.json").write_text(json.dumps({"boxes": boxes, "labels": ["cell"] * len(boxes)}))
    rows = "image,boxes,boxes_reader2,boxes_reader3,subject,site\n"
    rows += "a.png,left.json,right.json,both.json,1,s\nb.png,none.json,,left.json,2,s\n"
    (tmp_path / "manifest.csv").write_text(rows)
    cohort = Cohort.read(tmp_path / "manifest.csv", TASK.coding, preprocessing=Preprocessing(size=(20, 40)))
    assert cohort.prepared.coding.attributes == {}
    assert set(cohort.case(0).labels) == {"boxes"}  # what is trained on is the first reader's
    found = _found(([0.0, 0, 10, 10], 1, 0.9), ([20.0, 0, 30, 10], 1, 0.8)), _found(([0.0, 0, 10, 10], 1, 0.7))
    cases = [
        json.loads(json.dumps(TASK.measure(prediction, whole)))  # type: ignore[arg-type]
        for prediction, whole in zip(found, cohort.wholes(), strict=True)
    ]
    assert "truths/reader2" not in cases[1]
    metrics = TASK.aggregate(cases)
    assert metrics["ap50"] == metrics["ap50/reader3"] == 1.0  # of the most certain box, and of all
    assert metrics["ap50/reader2"] == pytest.approx(0.5)  # the right one is the second
    assert metrics["ar/reader2"] == 1.0
    assert len(metrics) == 12
    assert {key: metrics[key] for key in ("ap50", "ap75", "ap", "ar")} == TASK.aggregate(
        [{key: value for key, value in case.items() if "/" not in key} for case in cases]
    )
    with pytest.raises(KeyError):
        TASK.measure(found[0], cohort.unlabelled().whole(0))  # type: ignore[arg-type]
    (tmp_path / "manifest.csv").write_text(rows.replace("a.png,left.json", "a.png,"))
    with pytest.raises(ManifestError, match="row 2: column 'boxes_reader2' has a file and 'boxes' has none"):
        Cohort.read(tmp_path / "manifest.csv", TASK.coding)


def test_an_answer_counts_what_is_certain_enough(cohort: Cohort) -> None:
    prediction = _found(([40.0, 0, 60, 10], 1, 0.4), ([0.0, 0, 20, 10], 1, 0.9))
    answer = TASK.answer(prediction, cohort.unlabelled().whole(0))  # type: ignore[arg-type]
    assert answer.values == {"cell": 1, "debris": 0}
    assert answer.warnings == ("no debris found",)
    assert answer.boxes is not None
    assert answer.boxes.xyxy.tolist() == [[0, 0, 10, 10]]
    with pytest.raises(KeyError):
        TASK.measure(prediction, cohort.unlabelled().whole(0))  # type: ignore[arg-type]


def test_what_it_cannot_do_is_said(cohort: Cohort) -> None:
    with pytest.raises(SpecError, match="confidence is 2"):
        Detection(("cell",), confidence=2)
    with pytest.raises(SpecError, match="has 0 names"):
        Detection(())
    batch = Batch(torch.zeros(1, 1, 8, 8), torch.tensor([0]), ("a",), {"boxes": (None,)})
    with pytest.raises(SpecError, match="faster_rcnn"):
        TASK.objective(Wrapped(torch.nn.Conv2d(1, 1, 1), "boxes"), batch)
    with pytest.raises(SpecError, match="inside"):
        TASK.loss({}, batch)


class Head:
    def losses(self, features: torch.Tensor, boxes: tuple[Boxes, ...]) -> dict[str, torch.Tensor]:
        return {"classes": features.sum(), "corners": features.sum() + len(boxes)}


class Net:
    def __init__(self) -> None:
        self.heads = {"boxes": Head()}

    def encoder(self, image: torch.Tensor) -> torch.Tensor:
        return image


def test_the_terms_of_the_objective_have_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detection, "Network", Net)
    monkeypatch.setattr(detection, "DetectionHead", Head)
    boxes = (Boxes(torch.zeros(1, 4), torch.tensor([1])),) * 2
    batch = Batch(torch.ones(2, 1, 2, 2), torch.zeros(2), ("c", "d"), {"boxes": boxes})
    task = Detection(("cell",))
    object.__setattr__(task, "weights", {"classes": 0.5})  # names of terms that the stand-in has
    assert task.objective(Net(), batch) == {"classes": 4.0, "corners": 10.0}  # type: ignore[arg-type]
