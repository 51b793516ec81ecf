"""How far probabilities can be taken at their word, and the one number that corrects them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError

LARGEST = 20.0
"""A temperature lies between 1 / LARGEST and LARGEST."""


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence.

    Args:
        confidence, accuracy: means; accuracy is the share that is right.
        count: how many answers.
    """

    confidence: float
    accuracy: float
    count: int


def temperature_of(logits: Tensor, label: Tensor) -> float:
    """The temperature T that minimises the mean cross-entropy of softmax(logits / T) (Guo et al.
    2017, section 4.2), within 1 / 20 and 20.

    Args:
        logits: (N, K); log-probabilities are logits too.
        label: (N,) int64.

    Raises:
        SpecError: no answer to fit it on.

    Example:
        >>> import torch
        >>> logits = torch.log(torch.tensor([[0.9, 0.1]])).repeat(10, 1)  # right 9 times of 10
        >>> round(temperature_of(3 * logits, torch.tensor([0] * 9 + [1])), 3)
        3.0
    """
    from scipy.optimize import minimize_scalar

    if not len(logits):
        raise SpecError("temperature: no answer to fit it on; expected at least one labelled case")
    logits = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(logits / math.exp(log_temperature), label))

    bound = math.log(LARGEST)
    return math.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}).x)


def reliability(confidence: Tensor, correct: Tensor, bins: int = 10) -> list[Bin]:
    """The points of a reliability diagram (Guo et al. 2017, equations 1 and 2); empty bins are left
    out.

    Args:
        confidence: (N,) probability of the answer.
        correct: (N,) bool.
        bins: of equal width; bin m is ((m - 1) / bins, m / bins].

    Example:
        >>> import torch
        >>> reliability(torch.tensor([0.95, 0.91, 0.55]), torch.tensor([True, False, True]))[1].accuracy
        0.5
    """
    number = (confidence.double() * bins).ceil().long().clamp(1, bins) - 1
    made = []
    for one in range(bins):
        here = number == one
        if count := int(here.sum()):
            sure, right = confidence[here].double().mean(), correct[here].double().mean()
            made.append(Bin(float(sure), float(right), count))
    return made
