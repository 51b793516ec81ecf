"""Scores that need no label. They say how sure a model is, or how clear-cut its predictions are,
not how right.

Of a set of images: entropy (Morerio et al. 2018 choose by it), information maximisation (Shi and
Sha 2012) and soft neighbourhood density (Saito et al. 2021). Entropies are natural; where "share"
is said, divided by the largest possible.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 0.05
"""Of the similarities in soft neighbourhood density: the paper's, for every dataset."""
KEYS = ("mask", "label")
"""Outputs that have these scores: class probabilities, of pixels or of images."""
PIXELS = 100
"""Pixels of an image that its soft neighbourhood density is taken over, as in the paper's code for
segmentation."""


def class_probabilities(logits: Tensor, *, several: bool = False) -> Tensor:
    """(B, K, *spatial) -> the same shape, float64; with ``several``, K independent labels, each a
    sigmoid."""
    return logits.double().sigmoid() if several else logits.double().softmax(1)


def entropy(probabilities: Tensor, *, several: bool = False) -> Tensor:
    """Entropy of predicted classes as a share of the largest possible: 0 = sure, 1 = knows nothing.

    Args:
        probabilities: (B, K, *spatial); with ``several``, of K independent labels, whose entropies
            are averaged.

    Returns:
        (B, *spatial).

    >>> entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    if several:
        return (torch.special.entr(probabilities) + torch.special.entr(1 - probabilities)).mean(1) / math.log(2)
    return torch.special.entr(probabilities).sum(1) / math.log(probabilities.shape[1])


def mean_entropy(logits: Tensor, *, several: bool = False) -> float:
    """Mean entropy of the predicted classes, as a share of the largest possible: 0 = sure
    everywhere, 1 = knows nothing.

    Args:
        logits: (B, K, *spatial); with ``several``, K independent labels.

    Example:
        >>> import torch
        >>> round(mean_entropy(torch.zeros(1, 3, 2, 2)), 6), round(mean_entropy(1000.0 * torch.eye(3)), 6)
        (1.0, 0.0)
    """
    return float(entropy(class_probabilities(logits, several=several), several=several).mean())


def mean_prediction(logits: Tensor, *, several: bool = False) -> Tensor:
    """How much of the images each class is given: (B, K, *spatial) -> (K,) float64, mean over
    images and pixels."""
    return class_probabilities(logits, several=several).movedim(1, 0).flatten(1).mean(1)


def information(predictions: Tensor, entropies: Tensor, *, several: bool = False) -> float:
    """Mutual information between image (or pixel) and predicted class, I = H(mean p) - mean H(p),
    as a share of the largest possible.

    High when every prediction is sure and together they use all classes: a model that calls
    everything background has entropy 0, and information 0. What information maximisation maximises
    (Shi and Sha 2012; Bridle et al. 1992); its loss, mean conditional entropy less entropy of the
    mean prediction, is minus this number. Higher is better.

    Args:
        predictions: (N, K) ``mean_prediction`` of each image.
        entropies: (N,) ``mean_entropy`` of each image.

    Returns:
        In [0, 1], up to rounding: entropy is concave.

    >>> information(torch.eye(2), torch.zeros(2)), information(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))
    (1.0, 0.0)
    """
    return float(entropy(predictions.double().mean(0, keepdim=True), several=several)[0] - entropies.double().mean())


def soft_neighbourhood_density(
    probabilities: Tensor, *, several: bool = False, temperature: float = TEMPERATURE
) -> float:
    """Soft neighbourhood density (Saito et al. 2021, ICCV): how many others each point has close
    by, in nats. Higher is better.

    Rows are scaled to length 1; S_ij is the inner product of rows i and j; P_i = softmax over j !=
    i of S_ij / temperature; the score is the mean over i of the entropy of P_i. A point with m
    equal neighbours and none else near has log(m). The similarity of a point with itself does not
    count (the released code sets it to -1, which leaves it a weight below exp(-20), and adds 1e-5
    within the logarithm).

    Args:
        probabilities: (N, K) softmax outputs of N images, or of N pixels of one image; with
            ``several``, of K independent labels: a point is then (p, 1 - p), as if each label were
            a question with two answers (the paper has single labels only).
        temperature: of the similarities.

    Returns:
        In [0, log(N - 1)]; nan for fewer than three points, which leave no choice of a neighbour.

    >>> round(soft_neighbourhood_density(torch.tensor([[1.0, 0.0]] * 4)), 3)  # log 3
    1.099
    """
    if len(probabilities) < 3:
        return math.nan
    points = torch.cat([probabilities, 1 - probabilities], 1) if several else probabilities
    unit = F.normalize(points.double())
    similarity = (unit @ unit.T / temperature).fill_diagonal_(-math.inf)
    return float(torch.special.entr(similarity.softmax(1)).sum(1).mean())


def pixel_density(logits: Tensor, generator: torch.Generator) -> float:
    """``soft_neighbourhood_density`` of at most 100 pixels of an image, drawn without replacement.

    Args:
        logits: (B, K, *spatial) of one image, or of the B slices of a volume.
        generator: draws the pixels; the same one for all models that are compared.

    Returns:
        nan for an image of fewer than three pixels.
    """
    pixels = logits.movedim(1, 0).flatten(1)
    drawn = torch.randperm(pixels.shape[1], generator=generator)[:PIXELS]
    return soft_neighbourhood_density(class_probabilities(pixels[:, drawn].T))
