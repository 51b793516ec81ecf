"""Knowledge distillation: a network is held to what an earlier one says of the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.networks import AnyNetwork, copied
from allograft.parts.stream import masked_mean
from allograft.predictor import evaluation_mode
from allograft.tasks import Task

Loss = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]
"""Logits of the network and of the teacher (B, K, *spatial), the pixels that count -> a scalar."""


def distillation(
    logits: Tensor, old: Tensor, counts: Tensor | None = None, *, temperature: float = 1.0, new: Sequence[int] = ()
) -> Tensor:
    """Cross-entropy to the teacher's probabilities at a temperature, mean over pixels: a scalar.

    ``-sum_c q'_c log p'_c`` with q' = softmax(old / T), p' = softmax(logits / T): equation 2 of Li
    and Hoiem (2017), whose q_c^(1/T) / sum q^(1/T) is that softmax. With ``new`` classes, which the
    teacher calls background, the background's share of p' is that of the background and the new
    classes together (equation 9 of Cermelli et al. 2020).

    Args:
        logits: (B, K, *spatial) or (B, K).
        old: of the teacher, (B, K - len(new), ...), its classes the first ones of the network's.
        counts: (B, 1, *spatial) bool; None = all.
        temperature: T.
        new: classes of ``logits`` that the teacher does not have.

    Example:
        >>> bool(distillation(torch.zeros(1, 2), torch.zeros(1, 2)) == torch.tensor(2.0).log())
        True
    """
    log_p = (logits / temperature).log_softmax(1)
    if new:
        background = torch.logsumexp(log_p[:, [0, *new]], 1, keepdim=True)
        kept = [c for c in range(1, logits.shape[1]) if c not in set(new)]
        log_p = torch.cat([background, log_p[:, kept]], 1)
    return masked_mean(-((old / temperature).softmax(1) * log_p).sum(1), counts)


@dataclass(frozen=True)
class Distilled:
    """The supervised loss, and a distance of the network's output to an earlier network's.

    Args:
        task: gives the supervised loss.
        teacher: the network as it ended on the last stage; None on the first.
        loss: how far the network is from the teacher.
        strength: of that term.
    """

    task: Task
    teacher: AnyNetwork | None
    loss: Loss
    strength: float

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The supervised terms and ``distillation``; the supervised terms alone where there is no
        teacher."""
        output = network(batch.image)
        terms = self.task.loss(output, batch)
        if self.teacher is None or not self.strength:
            return terms
        with evaluation_mode(self.teacher):
            old = self.teacher(batch.image)[self.task.key]
        held = self.loss(output[self.task.key], old, batch.region)
        return {**terms, "distillation": self.strength * held}


def teacher_of(network: AnyNetwork) -> AnyNetwork:
    """A copy of the network as it is, which nothing moves any more."""
    twin = copied(network).eval()
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    return twin
