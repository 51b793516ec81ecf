"""How much each weight matters to what a network has learned: the diagonal of its Fisher
information."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor.direct import padded
from allograft.tasks import Task
from allograft.tasks.segmentation import cross_entropy

Weights = Mapping[str, Tensor]
"""Name of a parameter -> a tensor of its shape."""


def check_likelihood(task: Task | None, name: str) -> None:
    """Raise ``SpecError`` for a task whose outputs are no class probabilities that add up to 1."""
    if task is None or task.key not in ("mask", "label") or task.coding.several:
        found = "none" if task is None else type(task).__name__.lower()
        raise SpecError(
            f"{name}: task: found {found}; expected segmentation or classification, whose classes exclude "
            "each other; choose another recipe"
        )


def negative_log_likelihood(logits: Tensor, batch: Batch, key: str) -> tuple[Tensor, Tensor]:
    """-log p(labels | image) of each image, mean over its labelled pixels, and how many there are.

    Args:
        logits: (B, K, *spatial) or (B, K).
        batch: the truth under ``key``.

    Returns:
        (B,) and (B,); a class of an image is one pixel.
    """
    truth = batch.labels[key]
    assert isinstance(truth, Tensor)
    if key == "label":
        return F.cross_entropy(logits, truth, ignore_index=-100, reduction="none"), (truth >= 0).to(logits.dtype)
    counts = truth[:, 0] >= 0
    if batch.region is not None:
        counts = counts & batch.region[:, 0]
    return cross_entropy(logits, truth[:, 0], counts), counts.flatten(1).sum(1).to(logits.dtype)


def fisher_diagonal(network: AnyNetwork, cohort: Cohort, context: Context) -> dict[str, Tensor]:
    """The diagonal of the empirical Fisher information of all cases, per pixel.

    F = mean over cases of (d log p / d w)^2 / P, where log p is the log-likelihood of all P
    labelled pixels of a case: the curvature of a loss that is a mean over pixels, in the Laplace
    approximation of the posterior (Kirkpatrick et al. 2017, section 2.1, after MacKay 1992). Labels
    are those of the cases and not drawn from the model. The network is in evaluation mode.

    Returns:
        Parameter name -> a tensor of its shape, 0 where a parameter has no part in the output.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    key, training = context.supervised_task.key, network.training
    network.eval()
    for index in range(len(cohort)):
        case = context.fabric.to_device(cohort.case(index))
        value, pixels = negative_log_likelihood(padded(network, case.image)[key], case, key)
        slopes = torch.autograd.grad(value.sum(), [*parameters.values()], allow_unused=True)
        for name, slope in zip(parameters, slopes, strict=True):
            if slope is not None:
                total[name] += slope.square() * pixels.sum()  # (P mean)^2 / P
    network.train(training)
    return {name: value / max(1, len(cohort)) for name, value in total.items()}


def quadratic_pull(parameters: Iterable[tuple[str, nn.Parameter]], centre: Weights, weight: Weights) -> Tensor:
    """sum_i weight_i (w_i - centre_i)^2: a scalar.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> at, weight = {"weight": layer.weight.detach() - 2.0}, {"weight": torch.tensor([[0.5]])}
    >>> round(quadratic_pull(layer.named_parameters(), at, weight).item(), 4)
    2.0
    """
    return torch.stack([(weight[name] * (p - centre[name]).square()).sum() for name, p in parameters]).sum()
