"""Scores that need no label. They say how sure a model is, not how right: a site without labels gets no other score."""

from __future__ import annotations

import math

from torch import Tensor


def mean_entropy(logits: Tensor, *, several: bool = False) -> float:
    """Mean entropy of the predicted classes, as a share of the largest possible: 0 = sure everywhere, 1 = knows nothing.

    Args:
        logits: (B, K, *spatial); with ``several``, K independent labels.

    Example:
        >>> import torch
        >>> round(mean_entropy(torch.zeros(1, 3, 2, 2)), 6), round(mean_entropy(1000.0 * torch.eye(3)), 6)
        (1.0, 0.0)
    """
    logits = logits.double()
    if several:
        share = logits.sigmoid()
        entropy = -(share.xlogy(share) + (1 - share).xlogy(1 - share)) / math.log(2)
        return float(entropy.mean())
    shares = logits.softmax(1)
    return float(shares.xlogy(shares).sum(1).mean().abs() / math.log(logits.shape[1]))
