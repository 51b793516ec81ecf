"""Boxes found in several views of an image, and fused: test-time augmentation for detectors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.errors import require_extra
from allograft.networks import AnyNetwork
from allograft.networks.detector import DetectionHead
from allograft.predictor import Direct

SCALES = (0.8, 0.9, 1.0, 1.1, 1.2)
FLIPS: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
"""Twenty views of an image: each scale, mirrored along these axes (Elbatel, Bornberg et al. 2022,
section 4.1)."""


def views(network: AnyNetwork, head: DetectionHead, image: Tensor, *, keep: float) -> list[Boxes]:
    """The boxes that a detector finds in each of the twenty views, in the pixels of the image.

    The four flips of a scale are one batch, so that an image costs five forward passes.

    Args:
        network: the detector.
        head: its head.
        image: (1, C, H, W).
        keep: boxes that are less certain are left out.
    """
    height, width = image.shape[-2:]
    detected = []
    with least_confidence(head, keep):
        for scale in SCALES:
            size = (max(1, round(height * scale)), max(1, round(width * scale)))
            scaled = image if size == (height, width) else F.interpolate(image, size, mode="bilinear")
            batch = torch.cat([scaled.flip(axes) if axes else scaled for axes in FLIPS])
            names = tuple(map(str, range(len(FLIPS))))
            every = Direct(network)(Batch(batch, torch.full((len(FLIPS),), -1), names))["boxes"]
            back = torch.tensor([width / size[1], height / size[0]] * 2)
            for axes, boxes in zip(FLIPS, every, strict=True):
                assert isinstance(boxes, Boxes)
                own = boxes.each(Tensor.cpu)
                detected.append(Boxes(unflipped(own.xyxy, axes, size) * back, own.label, own.score))
    return detected


def unflipped(xyxy: Tensor, axes: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Boxes of a mirrored image of (rows, columns) as they lie in the image; mirroring boxes is the
    same.

    >>> unflipped(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), (-1,), (4, 10)).tolist()
    [[8.0, 1.0, 10.0, 3.0]]
    """
    x0, y0, x1, y1 = xyxy.unbind(1)
    if -1 in axes:
        x0, x1 = size[1] - x1, size[1] - x0
    if -2 in axes:
        y0, y1 = size[0] - y1, size[0] - y0
    return torch.stack([x0, y0, x1, y1], 1)


@contextmanager
def least_confidence(head: DetectionHead, score: float) -> Iterator[None]:
    """Inside, the head gives boxes from this confidence on."""
    before = head.roi_heads.score_thresh
    head.roi_heads.score_thresh = score  # type: ignore[assignment]
    try:
        yield
    finally:
        head.roi_heads.score_thresh = before


def fuse(
    detected: Sequence[Boxes],
    size: tuple[int, int],
    *,
    overlap: float = 0.5,
    skip: float = 0.25,
    score: Literal["paper", "released"] = "paper",
) -> Boxes:
    """Weighted boxes fusion (Solovyev et al. 2021) of the boxes found in several views, as equation
    1 of the paper has it: each side is the mean over a cluster, weighted by confidence.

    Args:
        found: boxes in the pixels of the one image.
        size: (rows, columns) of the image.
        overlap: intersection over union from which on a box belongs to a cluster.
        skip: boxes that are less certain are left out.
        score: of a fused box: ``paper``: the mean confidence of its cluster; ``released``: that
            times the share of views that agree, by which a box in few views falls away.

    Returns:
        The fused boxes, most certain first.

    Raises:
        MissingExtraError: ensemble-boxes is not installed.
    """
    require_extra("ensemble_boxes", "detection")
    from ensemble_boxes import weighted_boxes_fusion

    whole = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    groups = list(detected) if score == "released" else [joined(detected)]  # one group: no view can be missing
    fused, confidence, label = weighted_boxes_fusion(
        [(boxes.xyxy / whole).clamp(0, 1).tolist() for boxes in groups],
        [[] if boxes.score is None else boxes.score.tolist() for boxes in groups],
        [boxes.label.tolist() for boxes in groups],
        iou_thr=overlap,
        skip_box_thr=skip,
    )
    xyxy = torch.tensor(np.asarray(fused), dtype=torch.float32).reshape(-1, 4) * whole
    return Boxes(xyxy, torch.tensor(label, dtype=torch.int64), torch.tensor(confidence, dtype=torch.float32))


def joined(parts: Sequence[Boxes]) -> Boxes:
    """The boxes of all views, one after another."""
    scores = [boxes.score for boxes in parts if boxes.score is not None]
    return Boxes(
        torch.cat([boxes.xyxy for boxes in parts]), torch.cat([boxes.label for boxes in parts]), torch.cat(scores)
    )
