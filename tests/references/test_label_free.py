"""Label-free scores against loops written from the papers' equations, in plain Python floats."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from allograft.metrics.label_free import (
    class_probabilities,
    information,
    mean_entropy,
    mean_prediction,
    soft_neighbourhood_density,
)


def some(rows: int, classes: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(0, scale, (rows, classes)))


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    raised = [math.exp(value - top) for value in row]
    return [value / sum(raised) for value in raised]


def shannon(shares: list[float]) -> float:
    return -sum(p * math.log(p) for p in shares if p > 0)


def slow_density(points: list[list[float]], temperature: float) -> float:
    """Saito et al. 2021: cosine similarities, softmax over the others, entropy, mean over
    points."""
    total = 0.0
    for i, one in enumerate(points):
        near = []
        for j, other in enumerate(points):
            if i != j:
                product = sum(a * b for a, b in zip(one, other, strict=True))
                near.append(
                    product / math.sqrt(sum(a * a for a in one)) / math.sqrt(sum(b * b for b in other)) / temperature
                )
        total += shannon(softmax(near))
    return total / len(points)


@pytest.mark.parametrize(("rows", "classes", "temperature"), [(3, 2, 0.05), (20, 3, 0.05), (15, 5, 0.3)])
def test_density_is_the_papers(rows: int, classes: int, temperature: float) -> None:
    shares = class_probabilities(some(rows, classes))
    slow = slow_density([softmax(row) for row in some(rows, classes).tolist()], temperature)
    assert soft_neighbourhood_density(shares, temperature=temperature) == pytest.approx(slow, abs=1e-10)


def test_density_is_the_released_codes_but_for_its_rounding() -> None:
    """Released: similarity -1 with oneself, and 1e-5 within the logarithm."""
    shares = class_probabilities(some(40, 4, scale=4.0))
    unit = shares / shares.norm(dim=1, keepdim=True)
    released = (unit @ unit.T / 0.05).masked_fill(torch.eye(40, dtype=torch.bool), -1 / 0.05).softmax(1)
    released = -(released * (released + 1e-5).log()).sum(1).mean()
    assert soft_neighbourhood_density(shares) == pytest.approx(float(released), abs=1e-3)


def test_density_of_several_labels_takes_each_as_a_question_with_two_answers() -> None:
    shares = class_probabilities(some(9, 3), several=True)
    both = [[*row, *(1 - p for p in row)] for row in shares.tolist()]
    assert soft_neighbourhood_density(shares, several=True) == pytest.approx(slow_density(both, 0.05), abs=1e-10)


def test_information_is_the_mutual_information_of_image_and_class() -> None:
    """Against sum over images and classes of p(image) p(class | image) log(p(class | image) /
    p(class))."""
    logits = some(12, 4)
    rows = [softmax(row) for row in logits.tolist()]
    marginal = [sum(row[k] for row in rows) / 12 for k in range(4)]
    slow = sum(p / 12 * math.log(p / marginal[k]) for row in rows for k, p in enumerate(row)) / math.log(4)
    entropies = torch.tensor([mean_entropy(logits[i : i + 1]) for i in range(12)])
    predictions = torch.stack([mean_prediction(logits[i : i + 1]) for i in range(12)])
    assert slow > 0.2
    assert information(predictions, entropies) == pytest.approx(slow, abs=1e-6)


def test_information_of_several_labels_is_the_mean_over_questions() -> None:
    logits = some(10, 3)
    shares = [[1 / (1 + math.exp(-value)) for value in row] for row in logits.tolist()]
    slow = 0.0
    for k in range(3):
        column = [row[k] for row in shares]
        whole = sum(column) / 10
        slow += (shannon([whole, 1 - whole]) - sum(shannon([p, 1 - p]) for p in column) / 10) / math.log(2) / 3
    entropies = torch.tensor([mean_entropy(logits[i : i + 1], several=True) for i in range(10)])
    predictions = torch.stack([mean_prediction(logits[i : i + 1], several=True) for i in range(10)])
    assert information(predictions, entropies, several=True) == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("several", [False, True])
def test_entropy_and_mean_prediction_of_pixels(several: bool) -> None:
    logits = some(2 * 3, 4).reshape(2, 3, 4).movedim(2, 1)  # two images, four classes, three pixels
    pixels = [logits[image, :, place].tolist() for image in range(2) for place in range(3)]
    if several:
        shares = [[1 / (1 + math.exp(-value)) for value in row] for row in pixels]
        slow = sum(shannon([p, 1 - p]) for row in shares for p in row) / 24 / math.log(2)
    else:
        shares = [softmax(row) for row in pixels]
        slow = sum(map(shannon, shares)) / 6 / math.log(4)
    assert mean_entropy(logits, several=several) == pytest.approx(slow, abs=1e-12)
    means = [sum(row[k] for row in shares) / 6 for k in range(4)]
    assert mean_prediction(logits, several=several).tolist() == pytest.approx(means, abs=1e-12)
