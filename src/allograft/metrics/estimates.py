"""Estimates of accuracy and of Dice where no label is: fitted on labelled cases of the source, and
as wrong as its confidence is elsewhere.

Average thresholded confidence (Garg et al. 2022, ICLR), difference of confidences (Guillory et al.
2021, ICCV), and the expected Dice of a mask under its own probabilities after temperature scaling
(Guo et al. 2017, ICML; for estimates of Dice Li et al. 2022, MICCAI).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TEMPERATURES = tuple(2.0 ** (step / 2) for step in range(-4, 7))
"""Temperatures at which a case's sums are kept, 0.25 to 8: the one that fits is not known before
all of the source's validation cases are seen."""


def average_thresholded_confidence(confidence: Tensor, correct: Tensor, target: Tensor) -> float:
    """Estimated accuracy: the share of target cases whose confidence reaches a threshold (Garg et
    al. 2022).

    The threshold is the one below which as large a share of the source's cases lies as is wrong:
    E[s < t] = E[error]. Of thresholds that come equally close the lowest is taken.

    Args:
        confidence: (N,) of labelled source cases that the model was not trained on, such as the
            largest probability.
        correct: (N,) bool, whether the model is right.
        target: (M,) confidence of the target's cases.

    >>> source, correct = torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.tensor([False, True, True, True])
    >>> average_thresholded_confidence(source, correct, torch.tensor([0.5, 0.65, 0.75, 0.95]))
    0.5
    """
    scores, error = confidence.double(), 1 - correct.double().mean()
    thresholds = torch.cat([scores.unique(), scores.new_tensor([torch.inf])])
    below = (scores[:, None] < thresholds).double().mean(0)
    # a rounding must not decide between two thresholds
    gaps = ((below - error).abs() * len(scores)).round(decimals=6)
    return float((target.double() >= thresholds[int(gaps.argmin())]).double().mean())


def difference_of_confidences(confidence: Tensor, correct: Tensor, target: Tensor) -> float:
    """Estimated accuracy: that on the source, less by how much less confident the model is on the
    target on average (Guillory et al. 2021), held in [0, 1].

    Arguments as for ``average_thresholded_confidence``. The paper also fits a line from differences
    of confidence to differences of accuracy over many shifts, which one source does not have.

    >>> difference_of_confidences(torch.tensor([0.75, 0.75]), torch.tensor([True, True]), torch.tensor([0.5, 0.75]))
    0.875
    """
    gap = confidence.double().mean() - target.double().mean()
    return float((correct.double().mean() - gap).clamp(0, 1))


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Class probabilities at another temperature, softmax(log p / T): (K, ...) -> (K, ...).

    >>> tempered(torch.tensor([0.8, 0.2], dtype=torch.float64), 2.0).tolist()
    [0.666..., 0.333...]
    """
    tiny = torch.finfo(probabilities.dtype).tiny
    return (probabilities.clamp_min(tiny).log() / temperature).softmax(0)


def mask_sums(probabilities: Tensor, region: Tensor | None = None) -> dict[str, list[list[float]] | list[float]]:
    """What the expected Dice of a case is made of at each of ``TEMPERATURES``.

    Args:
        probabilities: (K, *spatial), class 0 the background; the mask is the most probable class.
        region: (*spatial) bool, the pixels that count; None for all.

    Returns:
        ``found``: K - 1 pixels of each class in the mask. ``overlap`` and ``total``: (K - 1, T)
        sums of the class's probability over its part of the mask, and over all pixels.
    """
    pixels = probabilities.flatten(1) if region is None else probabilities[:, region]
    mask = pixels.max(0).indices if pixels.shape[1] else pixels.new_zeros(0, dtype=torch.int64)
    inside = [mask == number for number in range(1, len(pixels))]
    overlap: list[list[float]] = [[] for _ in inside]
    total: list[list[float]] = [[] for _ in inside]
    for temperature in TEMPERATURES:
        scaled = tempered(pixels, temperature)
        for number, own in enumerate(inside):
            total[number].append(_short(scaled[number + 1].sum(dtype=torch.float64)))
            overlap[number].append(_short(scaled[number + 1][own].sum(dtype=torch.float64)))
    return {"found": [float(own.sum()) for own in inside], "overlap": overlap, "total": total}


def mask_losses(probabilities: Tensor, truth: Tensor, region: Tensor | None = None) -> list[float] | None:
    """Mean over pixels of -log of the true class's probability, at each of ``TEMPERATURES``.

    Args:
        probabilities: (K, *spatial).
        truth: (*spatial) class indices; negative ones do not count.
        region: (*spatial) bool, the pixels that count.

    Returns:
        (T,), or None where no pixel counts.
    """
    counted = truth >= 0 if region is None else (truth >= 0) & region
    if not counted.any():
        return None
    pixels, label = probabilities[:, counted], truth[counted]
    tiny = torch.finfo(pixels.dtype).tiny
    logs = pixels.clamp_min(tiny).log()
    losses = []
    for temperature in TEMPERATURES:
        right = (logs / temperature).log_softmax(0).gather(0, label[None])[0]
        losses.append(_short(-right.mean(dtype=torch.float64)))
    return losses


def fitted_temperature(losses: Sequence[Sequence[float]]) -> float:
    """The temperature with the smallest mean loss over cases, (N, T) of ``mask_losses``: the lowest
    point of the parabola through the best of ``TEMPERATURES`` and its neighbours, in log T.

    >>> round(fitted_temperature([[abs(k - 4.0) ** 2 for k in range(len(TEMPERATURES))]]), 6)
    1.0
    """
    means = torch.tensor(losses, dtype=torch.float64).mean(0)
    at = int(means.argmin())
    if at in (0, len(TEMPERATURES) - 1):
        return TEMPERATURES[at]
    left, middle, right = (float(means[at + side]) for side in (-1, 0, 1))
    bend = left - 2 * middle + right
    aside = 0.5 * (left - right) / bend if bend > 0 else 0.0
    return float(TEMPERATURES[at] * 2.0 ** (aside / 2))


def expected_dice(found: float, overlap: Sequence[float], total: Sequence[float], temperature: float) -> float | None:
    """Expected Dice of one class of one case: 2 sum(p over the mask) / (mask + sum(p)), the ratio
    of the expectations of what Dice is the ratio of.

    Sums between two of ``TEMPERATURES`` are interpolated in log T. None, as Dice is undefined,
    where the mask lacks the class and less than half a pixel of it is expected.

    Args:
        found: pixels of the class in the mask.
        overlap, total: (T,) as ``mask_sums`` gives them.
        temperature: the fitted one.

    >>> count = len(TEMPERATURES)
    >>> expected_dice(4.0, [3.0] * count, [4.0] * count, 1.3), expected_dice(0.0, [0.0] * count, [0.1] * count, 1.0)
    (0.75, None)
    """
    inside, expected = _between(overlap, temperature), _between(total, temperature)
    if found == 0 and expected < 0.5:
        return None
    return 2 * inside / (found + expected)


def _between(values: Sequence[float], temperature: float) -> float:
    places = torch.tensor(TEMPERATURES, dtype=torch.float64).log2()
    at = min(max(float(torch.tensor(temperature, dtype=torch.float64).log2()), float(places[0])), float(places[-1]))
    lower = min(int((places <= at).sum()) - 1, len(values) - 2)
    share = (at - float(places[lower])) / float(places[lower + 1] - places[lower])
    return float(values[lower] + share * (values[lower + 1] - values[lower]))


def _short(value: Tensor) -> float:
    """Seven digits: what float32 holds."""
    return float(f"{float(value):.7g}")
