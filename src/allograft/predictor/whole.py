"""A prediction for a whole case, part by part."""

from __future__ import annotations

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort.readers import SUFFIXES
from allograft.predictor.direct import Predictor

CHUNK = 16
"""Slices of a volume predicted at a time."""


def whole_prediction(predictor: Predictor, batch: Batch) -> dict[str, Tensor]:
    """A prediction for a case or for any images, on the CPU: ``CHUNK`` at a time, or all where the predictor ``sees_whole_cases``."""
    chunk = len(batch) if getattr(predictor, "sees_whole_cases", False) else CHUNK
    outputs = [predictor(batch[start : start + chunk].unlabelled()) for start in range(0, len(batch), chunk)]
    return {key: torch.cat([output[key].cpu() for output in outputs]) for key in outputs[0]}


def stem(name: str) -> str:
    """``a/b.nii.gz`` -> ``a/b``; several files joined as channels -> the first."""
    first = name.split(";")[0]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if first.lower().endswith(suffix):
            return first[: -len(suffix)]
    return first
