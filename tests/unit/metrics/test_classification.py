"""What is undefined, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allograft.errors import SpecError
from allograft.metrics.classification import (
    METRICS,
    auroc,
    average_precision,
    classification_metrics,
    expected_calibration_error,
)
from allograft.metrics.classification import multilabel_metrics as several


def test_a_site_with_one_class_defines_accuracy_and_calibration_alone() -> None:
    probabilities = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    found = classification_metrics(probabilities, torch.tensor([1, 1]), ["normal", "pneumonia"])
    defined = {key: round(value, 6) for key, value in found.items() if not math.isnan(value)}
    assert defined == {"accuracy": 0.5, "ece": 0.55, "recall/pneumonia": 0.5}
    assert list(found)[: len(METRICS)] == list(METRICS)
    nothing = several(torch.tensor([[0.8, 0.2]]), torch.tensor([[1.0, 0.0]]), ["a", "b"])
    assert {key for key, value in nothing.items() if not math.isnan(value)} == {"accuracy", "ece", "recall/a"}


def test_no_cases_are_undefined_throughout() -> None:
    found = classification_metrics(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ["a", "b"])
    assert all(math.isnan(value) for value in found.values())


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.booleans()), min_size=2, max_size=30))
def test_a_ranking_is_blind_to_monotone_changes_and_turns_with_its_sign(cases: list[tuple[float, bool]]) -> None:
    score = torch.tensor([one for one, _ in cases], dtype=torch.float64).mul(64).round()
    positive = torch.tensor([flag for _, flag in cases])
    found = auroc(score, positive)
    if not positive.any() or positive.all():
        assert math.isnan(found)
        assert math.isnan(average_precision(score, positive))
        return
    assert found == pytest.approx(auroc(score * 3 + 1, positive))
    assert found == pytest.approx(1 - auroc(-score, positive))
    assert auroc(positive.double(), positive) == average_precision(positive.double(), positive) == 1


def test_calibration_bins_are_closed_at_their_upper_edge() -> None:
    sure = torch.tensor([1.0, 1.0, 0.0])
    assert expected_calibration_error(sure, torch.tensor([True, True, False])) == 0
    assert expected_calibration_error(torch.tensor([0.5, 0.52]), torch.tensor([True, False]), bins=2) == pytest.approx(
        (0.5 + 0.52) / 2
    )


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SpecError, match=r"do not fit 3 classes"):
        classification_metrics(torch.zeros(2, 2), torch.tensor([0, 1]), ["a", "b", "c"])
    with pytest.raises(SpecError, match=r"do not fit 2 classes"):
        classification_metrics(torch.zeros(1, 2), torch.tensor([2]), ["a", "b"])
    with pytest.raises(SpecError, match="flags boolean"):
        auroc(torch.zeros(2), torch.zeros(2))
