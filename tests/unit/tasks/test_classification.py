"""Classification, several labels, and masks and classes together: losses, records, pooled
metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.unit.tiny import write_photographs, write_rows

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.errors import SpecError
from allograft.strict import validated
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation

TWO = Classification(("normal", "pneumonia"))
SEVERAL = Multilabel(("effusion", "nodule", "none"))


def batch(label: torch.Tensor) -> Batch:
    return Batch(
        torch.zeros(len(label), 1, 2, 2), torch.zeros(len(label)), tuple(map(str, range(len(label)))), {"label": label}
    )


def cohort(folder: Path, task: Any, *labels: str) -> Cohort:
    write_photographs(folder, {"a": len(labels)})
    rows = [
        {"image": f"a{i}.png", "mask": f"a{i}-mask.png", "label": text, "subject": f"s{i}", "site": "a"}
        for i, text in enumerate(labels)
    ]
    if task.key == "label":
        rows = [{key: value for key, value in row.items() if key != "mask"} for row in rows]
    return Cohort.read(
        write_rows(folder / "labels.csv", rows), task.coding, preprocessing=Preprocessing(intensity="none")
    )


def test_only_labelled_cases_count() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = TWO.loss({"label": logits}, batch(torch.tensor([1, -100, 0])))["cross_entropy"]
    torch.testing.assert_close(loss, F.cross_entropy(logits[[0, 2]], torch.tensor([1, 0])))
    loss.backward()
    assert (logits.grad[1] == 0).all()  # type: ignore[index]
    nothing = TWO.loss({"label": logits}, batch(torch.full((3,), -100)))["cross_entropy"]
    assert (nothing.item(), nothing.requires_grad) == (0, True)


def test_only_known_answers_count() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    label = torch.tensor([[1.0, float("nan"), 0.0], [float("nan")] * 3])
    loss = SEVERAL.loss({"label": logits}, batch(label))["binary_cross_entropy"]
    expected = F.binary_cross_entropy_with_logits(logits[0, [0, 2]], torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (logits.grad[1] == 0).all()  # type: ignore[index]
    assert logits.grad[0, 1] == 0  # type: ignore[index]


def test_a_record_and_an_answer(tmp_path: Path) -> None:
    cases = cohort(tmp_path, TWO, "pneumonia", "normal")
    assert cases.case(0).labels["label"].tolist() == [1]  # type: ignore[union-attr]
    prediction = {"label": torch.tensor([[0.0, 0.0], [0.0, 2.0]])}  # two slices of one volume
    measured = TWO.measure(prediction, cases.whole(0))
    mean = torch.tensor([[0.5, 0.5], torch.tensor([0.0, 2.0]).softmax(0).tolist()]).mean(0)
    assert measured["label"] == 1
    assert measured["probabilities"] == pytest.approx(mean.tolist())
    answer = TWO.answer(prediction, cases.unlabelled().whole(0))
    assert answer.values == {
        "label": "pneumonia",
        "normal": measured["probabilities"][0],
        "pneumonia": measured["probabilities"][1],
    }
    assert (answer.mask, answer.maps) == (None, {})


def test_several_labels(tmp_path: Path) -> None:
    cases = cohort(tmp_path, SEVERAL, "nodule|effusion", "none")
    assert cases.case(0).labels["label"].tolist() == [[1, 1, 0]]  # type: ignore[union-attr]
    logits = torch.tensor([[2.0, 0.0, -2.0]])
    measured = SEVERAL.measure({"label": logits}, cases.whole(0))
    assert measured == {"label": [1.0, 1.0, 0.0], "probabilities": pytest.approx(logits[0].sigmoid().tolist())}
    assert SEVERAL.answer({"label": logits}, cases.whole(0)).values["label"] == "effusion|nodule"
    other = SEVERAL.measure({"label": -logits}, cases.whole(1))
    pooled = SEVERAL.aggregate([measured, other])
    assert pooled["auroc/effusion"] == 1
    assert SEVERAL.aggregate([measured])["auroc"] is None


def test_pooled_over_cases() -> None:
    cases = [{"case": str(i), "subject": "s", "label": i % 2, "probabilities": [1 - i / 4, i / 4]} for i in range(4)]
    assert TWO.aggregate(cases)["auroc"] == 0.75
    one_class = TWO.aggregate([case for case in cases if case["label"]])
    assert (one_class["auroc"], one_class["average_precision"], one_class["balanced_accuracy"]) == (None, None, None)
    assert one_class["accuracy"] == 0.5
    assert TWO.aggregate([]) == {}
    assert TWO.headline in one_class


def test_masks_and_classes(tmp_path: Path) -> None:
    task = Multitask(Segmentation(("vessel",)), TWO)
    cases = cohort(tmp_path, task, "pneumonia", "")
    assert set(cases.case(0).labels) == {"mask", "label"}
    prediction = {"mask": torch.randn(1, 2, 16, 16), "label": torch.tensor([[0.0, 1.0]])}
    measured = [
        task.measure(prediction, cases.whole(which)) | {"case": str(which), "subject": str(which)} for which in (0, 1)
    ]
    assert (measured[0]["label"], measured[1]["label"]) == (1, None)
    pooled = task.aggregate(measured)
    assert pooled["dice"] == pytest.approx((measured[0]["dice"] + measured[1]["dice"]) / 2)
    assert pooled["accuracy"] == 1  # of the one case that has a class
    answer = task.answer(prediction, cases.unlabelled().whole(0))
    assert set(answer.values) == {"vessel", "label", "normal", "pneumonia"}
    assert answer.mask is not None
    assert task.coding.label == TWO.classes


def test_from_a_study_file() -> None:
    tree = {
        "segmentation": {"classes": ["vessel"]},
        "classification": {"classes": ["normal", "pneumonia"]},
        "weight": 0.5,
    }
    task = validated(Multitask, tree, "task.multitask")
    assert task.outputs == {"mask": 2, "label": 2}
    with pytest.raises(SpecError, match="unknown key 'clases'; did you mean 'classes'"):
        validated(Multitask, {**tree, "segmentation": {"clases": ["vessel"]}}, "task.multitask")
    for classes, told in (
        (["a"], "has 1 names"),
        (["a", "a"], "listed twice"),
        (["a|b", "c"], "'a|b' cannot be a class name"),
    ):
        with pytest.raises(SpecError, match=told.replace("|", r"\|")):
            validated(Classification, {"classes": classes}, "task.classification")
    with pytest.raises(SpecError, match="'vessel' is a class of both"):
        Multitask(Segmentation(("vessel",)), Classification(("no", "vessel")))
