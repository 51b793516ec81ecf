"""Versions of each image, one per donor of its style: predicted in few calls, and averaged."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.predictor import Predictor

PIXELS = 2**21
"""Versions of images that the network sees in one call hold at most so many pixels together."""


def mean_prediction(inner: Predictor, batch: Batch, versions: Tensor, *, several: bool) -> dict[str, Tensor]:
    """The mean over versions of each image (Zakazov et al. 2022, section 3), all of them in one
    call where ``PIXELS`` allows it.

    Args:
        versions: (B, n, C, *spatial).
        several: whether a label's classes have a sigmoid each.

    Returns:
        Logits of the mean probabilities of masks and labels; of other outputs the mean.
    """
    count, flat = versions.shape[1], versions.flatten(0, 1)
    whole = _repeated(batch, count, flat)
    size = max(1, PIXELS // flat[0, 0].numel())
    parts = [inner(whole[start : start + size]) for start in range(0, len(whole), size)]
    together: dict[str, Tensor] = {}
    for key, first in parts[0].items():
        if not isinstance(first, Tensor):
            raise SpecError(f"fourier: '{key}' has no mean over donors; masks, labels and images have")
        values = torch.cat([value for part in parts if isinstance(value := part[key], Tensor)])
        together[key] = _mean(key, values.float().unflatten(0, (-1, count)), several)
    return together


def _repeated(batch: Batch, count: int, image: Tensor) -> Batch:
    """Each case ``count`` times, one behind the other."""

    def each(value: Tensor) -> Tensor:
        return value.repeat_interleave(count, 0)

    def perhaps(value: Tensor | None) -> Tensor | None:
        return None if value is None else each(value)

    cases = tuple(case for case in batch.cases for _ in range(count))
    attributes = {key: each(value) for key, value in batch.attributes.items()}
    kept = replace(batch.unlabelled(), image=image, site=each(batch.site), cases=cases, attributes=attributes)
    return replace(kept, region=perhaps(batch.region), spacing=perhaps(batch.spacing), extent=perhaps(batch.extent))


def _mean(key: str, values: Tensor, several: bool) -> Tensor:
    """(B, n, K, ...) -> (B, K, ...)."""
    if key == "label" and several:
        # log (mean p / mean (1 - p))
        return F.logsigmoid(values).logsumexp(1) - F.logsigmoid(-values).logsumexp(1)
    if key in ("mask", "label"):
        return values.log_softmax(2).logsumexp(1) - math.log(values.shape[1])
    return values.mean(1)
