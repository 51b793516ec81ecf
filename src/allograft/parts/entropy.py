"""How unsure a network is of images: the entropy of its masks and classes, which some methods
minimise."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.nn.processes import count_over_processes
from allograft.tasks import Task

KINDS = ("mask", "label")
"""Outputs that are class probabilities."""


def softmax_entropy(logits: Tensor) -> Tensor:
    """``- sum_c p_c log p_c`` of the softmax in nats: (B, K, ...) -> (B, ...).

    >>> softmax_entropy(torch.zeros(1, 2))  # log 2
    tensor([0.6931])
    """
    logs = logits.log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def sigmoid_entropy(logits: Tensor) -> Tensor:
    """The entropy of each class's own sigmoid in nats, of the same shape.

    >>> sigmoid_entropy(torch.zeros(1, 1))  # log 2
    tensor([[0.6931]])
    """
    return -(logits.sigmoid() * F.logsigmoid(logits) + (-logits).sigmoid() * F.logsigmoid(-logits))


def mean_entropies(
    output: Mapping[str, Tensor], batch: Batch, *, several: bool, share: bool = False
) -> dict[str, Tensor]:
    """The mean entropy of each output that is class probabilities: over the pixels of an image that
    count, then over images.

    Args:
        output: logits, "mask" (B, K, *spatial) and "label" (B, K).
        batch: the images; where it has a ``region``, pixels outside do not count.
        several: whether the classes of a label are questions of their own (multi-label).
        share: as a share of the largest entropy there is: log K, or log 2 of a sigmoid.

    Returns:
        ``{"mask": (), "label": ()}``, those that the output has. Of several processes each returns
        what averages to the mean over all images.
    """
    means = {}
    if "mask" in output:
        logits = output["mask"]
        entropy = softmax_entropy(logits)
        inside = torch.ones_like(entropy, dtype=torch.bool) if batch.region is None else batch.region[:, 0]
        pixels = inside.flatten(1).sum(1)
        each = (entropy * inside).flatten(1).sum(1) / pixels.clamp_min(1)
        means["mask"] = each.sum() / count_over_processes(pixels > 0) / (math.log(logits.shape[1]) if share else 1)
    if "label" in output:
        logits = output["label"]
        each = sigmoid_entropy(logits).mean(1) if several else softmax_entropy(logits)
        largest = math.log(2 if several else logits.shape[1])
        known = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        means["label"] = each.sum() / count_over_processes(known) / (largest if share else 1)
    return means


def check_probabilities(task: Task, method: str) -> None:
    """Raise ``SpecError`` for a task without class probabilities."""
    if not set(KINDS) & set(task.outputs):
        given = ", ".join(task.outputs)
        raise SpecError(
            f"{method}: works on class probabilities, and the task gives {given}; expected a task with masks or "
            "classes, such as task: segmentation"
        )
