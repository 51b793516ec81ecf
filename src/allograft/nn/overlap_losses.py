"""Losses of one foreground against the background, pooled over all pixels that are given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_bce(logits: Tensor, mask: Tensor, *, positive: float | None = None) -> Tensor:
    """Binary cross-entropy, mean over pixels, in which a foreground pixel counts ``positive``
    times: a scalar.

    Args:
        logits: (...) of the foreground.
        mask: (...) float, 0 or 1.
        positive: by default negatives / positives, 1 where there is no positive.
    """
    count = mask.sum()
    weight = torch.where(count > 0, (mask.numel() - count) / count.clamp_min(1), 1.0)
    if positive is not None:
        weight = torch.full_like(count, positive)
    return F.binary_cross_entropy_with_logits(logits, mask, pos_weight=weight)


def soft_iou(logits: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """(sum p y + smooth) / (sum p + y - p y + smooth): a scalar.

    >>> round(soft_iou(torch.tensor([50.0, -50.0]), torch.tensor([1.0, 1.0])).item(), 4)  # (1 + 1) / (2 + 1)
    0.6667
    """
    p = logits.sigmoid()
    both = (p * mask).sum()
    return (both + smooth) / (p.sum() + mask.sum() - both + smooth)


def iou_loss(logits: Tensor, mask: Tensor) -> Tensor:
    """1 - soft IoU (Rahman and Wang 2016)."""
    return 1 - soft_iou(logits, mask)


def bce_iou(logits: Tensor, mask: Tensor, *, positive: float | None = None) -> Tensor:
    """Weighted cross-entropy - log(2 IoU / (IoU + 1)) (Farshad et al. 2022, equation 4): the second
    term is -log of the Dice that belongs to the IoU."""
    iou = soft_iou(logits, mask)
    return weighted_bce(logits, mask, positive=positive) - torch.log(2 * iou / (iou + 1))


def soft_dice_loss(logits: Tensor, mask: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - (2 sum p y + smooth) / (sum p + sum y + smooth)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * mask).sum() + smooth) / (p.sum() + mask.sum() + smooth)


def focal_tversky(
    logits: Tensor, mask: Tensor, *, alpha: float = 0.2, beta: float = 0.8, gamma: float = 4 / 3, smooth: float = 1.0
) -> Tensor:
    """(1 - TI)^(1 / gamma) with TI = (TP + s) / (TP + alpha FP + beta FN + s), soft counts (Abraham
    and Khan 2019).

    alpha and beta are those of MetaMedSeg's released code, gamma that of the loss's own paper.
    gamma 1 is the plain Tversky loss.
    """
    p = logits.sigmoid()
    hits, false, missed = (p * mask).sum(), (p * (1 - mask)).sum(), ((1 - p) * mask).sum()
    return (1 - (hits + smooth) / (hits + alpha * false + beta * missed + smooth)) ** (1 / gamma)


LOSSES = {
    "bce": weighted_bce,
    "iou": iou_loss,
    "bce_iou": bce_iou,
    "dice": soft_dice_loss,
    "focal-tversky": focal_tversky,
}
"""Name -> loss of logits and mask."""
