"""Estimates without labels: loops in float64, other libraries, and worlds in which confidence means
what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar

from allograft.metrics.estimates import (
    TEMPERATURES,
    average_thresholded_confidence,
    difference_of_confidences,
    expected_dice,
    fitted_temperature,
    mask_losses,
    mask_sums,
    tempered,
)


def drawn(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.5 + 0.5 * torch.rand(count, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(count, generator=generator, dtype=torch.float64) < confidence


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_leaves_as_many_source_cases_below_as_are_wrong(seed: int) -> None:
    """A loop over every threshold that there is, in plain Python."""
    confidence, correct = drawn(seed, 40)
    target, _ = drawn(seed + 100, 60)
    wrong = sum(not right for right in correct.tolist())
    best = math.inf
    for threshold in (*sorted(confidence.tolist()), math.inf):
        gap = abs(sum(value < threshold for value in confidence.tolist()) - wrong)
        if gap < best:
            best, chosen = gap, threshold
    expected = sum(value >= chosen for value in target.tolist()) / 60
    assert average_thresholded_confidence(confidence, correct, target) == expected


def test_at_the_source_itself_both_estimates_are_the_accuracy() -> None:
    confidence, correct = drawn(1, 50)
    accuracy = float(correct.double().mean())
    assert average_thresholded_confidence(confidence, correct, confidence) == pytest.approx(accuracy)
    assert difference_of_confidences(confidence, correct, confidence) == pytest.approx(accuracy)


def test_a_threshold_depends_on_the_order_of_confidences_alone() -> None:
    confidence, correct = drawn(2, 50)
    target, _ = drawn(3, 50)
    bent = [average_thresholded_confidence(f(confidence), correct, f(target)) for f in (torch.square, torch.exp)]
    assert bent == [average_thresholded_confidence(confidence, correct, target)] * 2


def test_a_model_that_is_always_or_never_right() -> None:
    confidence, target = torch.tensor([0.6, 0.7, 0.8]), torch.tensor([0.65, 0.9])
    never, always = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    assert average_thresholded_confidence(confidence, never, target) == 0
    assert average_thresholded_confidence(confidence, always, target) == 1
    # 0.7 on the source, 0.775 here: more confidence cannot make more than all right
    assert difference_of_confidences(confidence, always, target) == 1
    assert difference_of_confidences(confidence, always, target - 0.175) == pytest.approx(0.9)


def test_where_probabilities_are_true_a_shift_of_the_cases_is_estimated() -> None:
    """The same calibrated model meets harder cases."""
    generator = torch.Generator().manual_seed(0)
    source, target = (low + (1 - low) * torch.rand(20_000, generator=generator) for low in (0.7, 0.4))
    right, elsewhere = (torch.rand(20_000, generator=generator) < each for each in (source, target))
    estimate = difference_of_confidences(source, right, target)
    assert estimate == pytest.approx(float(elsewhere.double().mean()), abs=0.01)


def logits(seed: int, classes: int = 3, shape: tuple[int, ...] = (12, 9)) -> torch.Tensor:
    return 3 * torch.randn(classes, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_temperature_divides_the_logits() -> None:
    z = logits(0)
    for temperature in (0.25, 1.0, 3.7):
        torch.testing.assert_close(tempered(z.softmax(0), temperature), (z / temperature).softmax(0))
    torch.testing.assert_close(tempered(z.softmax(0), 1.0), z.softmax(0))
    assert torch.isfinite(tempered(torch.tensor([1.0, 0.0]), 4.0)).all()


@pytest.mark.parametrize("bounded", [False, True])
def test_sums_of_a_mask_against_a_loop_over_pixels(bounded: bool) -> None:
    z = logits(1)
    region = torch.rand(12, 9, generator=torch.Generator().manual_seed(2)) < 0.7 if bounded else None
    found = mask_sums(z.softmax(0), region)
    for t, temperature in enumerate(TEMPERATURES):
        overlap, total, count = np.zeros(3), np.zeros(3), np.zeros(3)
        for row in range(12):
            for column in range(9):
                if region is not None and not region[row, column]:
                    continue
                weights = [math.exp(float(z[k, row, column]) / temperature) for k in range(3)]
                shares = [weight / sum(weights) for weight in weights]
                chosen = max(range(3), key=lambda k: float(z[k, row, column]))
                count[chosen] += 1
                overlap[chosen] += shares[chosen]
                total += shares
        assert [column[t] for column in found["overlap"]] == pytest.approx(overlap[1:], rel=1e-6)  # type: ignore[index]
        assert [column[t] for column in found["total"]] == pytest.approx(total[1:], rel=1e-6)  # type: ignore[index]
        assert found["found"] == count[1:].tolist()


def test_losses_of_a_mask_against_torchs_cross_entropy() -> None:
    z, truth = logits(3), torch.randint(0, 3, (12, 9), generator=torch.Generator().manual_seed(4))
    truth[:2] = -100
    found = mask_losses(z.softmax(0), truth)
    expected = [float(F.cross_entropy(z[None] / t, truth[None], ignore_index=-100)) for t in TEMPERATURES]
    assert found == pytest.approx(expected, rel=1e-5)
    assert mask_losses(z.softmax(0), torch.full((12, 9), -100)) is None


@pytest.mark.parametrize("factor", [0.6, 1.0, 2.3, 4.0])
def test_the_temperature_that_a_network_is_too_sure_by_is_found(factor: float) -> None:
    """Labels drawn from softmax(z), of a network that says factor * z; against scipy's search."""
    z = logits(5, shape=(120, 120)) / 2
    truth = torch.multinomial(z.softmax(0).flatten(1).T, 1, generator=torch.Generator().manual_seed(6)).view(120, 120)
    sure = (factor * z).softmax(0)
    losses = mask_losses(sure, truth)
    assert losses is not None
    searched = minimize_scalar(
        lambda log: float(F.cross_entropy(factor * z[None] / math.exp(log), truth[None])),
        bounds=(-1.4, 2.1),
        method="bounded",
    )
    found = fitted_temperature([losses])
    assert found == pytest.approx(math.exp(searched.x), rel=0.03)
    assert found == pytest.approx(factor, rel=0.06)


def test_a_temperature_at_the_end_of_the_scale_stays_there() -> None:
    falling = [list(range(len(TEMPERATURES), 0, -1))]
    assert fitted_temperature(falling) == TEMPERATURES[-1]
    assert fitted_temperature([each[::-1] for each in falling]) == TEMPERATURES[0]


def test_dice_is_expected_where_probabilities_are_true_and_wrong_where_they_are_not() -> None:
    """Truths drawn from the probabilities: their mean Dice with the mask is what is expected."""
    generator = torch.Generator().manual_seed(7)
    z = logits(8, classes=2, shape=(64, 64)) / 2
    true = z.softmax(0)
    mask = true[1] > true[0]
    measured = []
    for _ in range(40):
        truth = torch.rand(64, 64, generator=generator, dtype=torch.float64) < true[1]
        measured.append(2 * float((truth & mask).sum()) / float(truth.sum() + mask.sum()))
    sums = mask_sums(true)
    assert expected_dice(sums["found"][0], sums["overlap"][0], sums["total"][0], 1.0) == pytest.approx(  # type: ignore[arg-type]
        np.mean(measured), abs=0.003
    )
    sure = mask_sums((4 * z).softmax(0))
    ends = [expected_dice(sure["found"][0], sure["overlap"][0], sure["total"][0], t) for t in (1.0, 4.0)]  # type: ignore[arg-type]
    assert ends[0] is not None
    assert ends[0] > np.mean(measured) + 0.1
    assert ends[1] == pytest.approx(np.mean(measured), abs=0.003)


def test_between_two_temperatures_sums_are_interpolated_and_beyond_them_held() -> None:
    sums = [float(n) for n in range(len(TEMPERATURES))]
    halves = [expected_dice(1.0, sums, [1.0] * len(sums), t) for t in (2**0.25, 1.0, 100.0, 1e-9)]
    assert halves == pytest.approx([4.5, 4.0, 10.0, 0.0])


@pytest.mark.parametrize(("expected", "dice"), [(0.3, None), (0.6, 0.0)])
def test_less_than_half_a_pixel_is_no_class(expected: float, dice: float | None) -> None:
    count = len(TEMPERATURES)
    assert expected_dice(0.0, [0.0] * count, [expected] * count, 1.0) == dice
