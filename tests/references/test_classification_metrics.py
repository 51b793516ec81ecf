"""Ours against scikit-learn and torchmetrics."""

from __future__ import annotations

import warnings

import pytest
import torch
from sklearn import metrics as sk
from torch import Tensor
from torchmetrics.functional.classification import (
    multiclass_auroc,
    multiclass_average_precision,
    multiclass_calibration_error,
)

from allograft.metrics.classification import auroc, average_precision, classification_metrics, multilabel_metrics


def drawn(classes: int, cases: int = 60, *, ties: bool = False) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(classes + ties)
    logits = torch.randn(cases, classes, generator=rng, dtype=torch.float64)
    label = torch.randint(0, classes, (cases,), generator=rng)
    logits[torch.arange(cases), label] += 0.7
    if ties:
        logits = logits.round()
    return logits.softmax(1), label


def names(count: int) -> list[str]:
    return [f"c{index}" for index in range(count)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_one_label_a_case(classes: int, ties: bool) -> None:
    probabilities, label = drawn(classes, ties=ties)
    found = classification_metrics(probabilities, label, names(classes))
    top = probabilities.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(label, top))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(label, top))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(label, top, average="macro"))
    recalls = sk.recall_score(label, top, average=None)
    assert [found[f"recall/{name}"] for name in names(classes)] == pytest.approx(list(recalls))
    if classes == 2:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(label, probabilities[:, 1]))
        assert found["average_precision"] == pytest.approx(sk.average_precision_score(label, probabilities[:, 1]))
    else:
        assert found["auroc"] == pytest.approx(sk.roc_auc_score(label, probabilities, multi_class="ovr"))
        assert found["auroc"] == pytest.approx(float(multiclass_auroc(probabilities, label, classes)), abs=1e-6)
        expected = float(multiclass_average_precision(probabilities, label, classes))
        assert found["average_precision"] == pytest.approx(expected, abs=1e-6)
    if not ties:  # a confidence on the edge of two bins belongs to the lower one here
        expected = float(multiclass_calibration_error(probabilities, label, classes, n_bins=15))
        assert found["ece"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_rankings_with_many_ties(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    score = torch.randint(0, 4, (30,), generator=rng) / 4
    positive = torch.randint(0, 2, (30,), generator=rng).bool()
    assert auroc(score, positive) == pytest.approx(sk.roc_auc_score(positive, score))
    assert average_precision(score, positive) == pytest.approx(sk.average_precision_score(positive, score))


def test_several_labels_a_case() -> None:
    rng = torch.Generator().manual_seed(3)
    label = torch.randint(0, 2, (50, 4), generator=rng).double()
    probabilities = (torch.randn(50, 4, generator=rng, dtype=torch.float64) + label).sigmoid()
    found, answers = multilabel_metrics(probabilities, label, names(4)), probabilities >= 0.5
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(label, probabilities, average="macro"))
    assert found["average_precision"] == pytest.approx(
        sk.average_precision_score(label, probabilities, average="macro")
    )
    assert found["macro_f1"] == pytest.approx(sk.f1_score(label, answers, average="macro"))
    assert found["accuracy"] == pytest.approx((answers == label.bool()).double().mean().item())
    each = [sk.balanced_accuracy_score(label[:, k], answers[:, k]) for k in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(sum(each) / 4)
    two = torch.stack([1 - probabilities, probabilities], 1)  # each class is a question of two answers
    gaps = [float(multiclass_calibration_error(two[..., k], label[:, k].long(), 2, n_bins=15)) for k in range(4)]
    assert found["ece"] == pytest.approx(sum(gaps) / 4, abs=1e-6)


def test_a_class_that_is_absent_is_left_out_of_the_mean() -> None:
    probabilities, label = drawn(4)
    label = label.where(label != 3, 0)
    found = classification_metrics(probabilities, label, names(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        each = [sk.roc_auc_score(label == k, probabilities[:, k]) for k in range(3)]
    assert found["auroc"] == pytest.approx(sum(each) / 3)
    assert found["auroc/c3"] != found["auroc/c3"]
    assert found["macro_f1"] == pytest.approx(sk.f1_score(label, probabilities.argmax(1), average="macro"))
