"""A prediction for a whole case, part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.cohort.readers import SUFFIXES
from allograft.predictor.direct import Predictor

CHUNK = 16
"""Slices of a volume predicted at a time."""


def whole_prediction(predictor: Predictor, batch: Batch) -> dict[str, Any]:
    """A prediction for a case or for any images, on the CPU: ``CHUNK`` at a time, or all where the
    predictor ``sees_whole_cases``."""
    chunk = len(batch) if getattr(predictor, "sees_whole_cases", False) else CHUNK
    outputs = [predictor(batch[start : start + chunk].unlabelled()) for start in range(0, len(batch), chunk)]
    return {key: _joined([output[key] for output in outputs]) for key in outputs[0]}


def _joined(parts: Sequence[Tensor | tuple[Any, ...]]) -> Any:
    """Tensors along B, on the CPU; tuples of what is no tensor, such as boxes and warnings, end to
    end."""
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat([part.cpu() for part in parts if isinstance(part, Tensor)])
    values = (value for part in parts for value in part)
    return tuple(value.each(Tensor.cpu) if isinstance(value, Boxes) else value for value in values)


def case_facts(prediction: Mapping[str, Any]) -> dict[str, Any]:
    """What a prediction for a whole case says beside the answer itself, as JSON values.

    Returns:
        ``score`` and ``spread``: means over the case's images (slices). ``chosen``: the model, or
        one per slice. ``neighbours``: of its images, one after another. ``warnings``: each once.

    Example:
        >>> case_facts({"score": torch.tensor([0.5, 1.5]), "chosen": torch.tensor([2, 2]), "warnings": ("", "far")})
        {'score': 1.0, 'chosen': 2, 'warnings': ['far']}
    """
    facts: dict[str, Any] = {
        key: float(prediction[key].double().mean()) for key in ("score", "spread") if key in prediction
    }
    if "chosen" in prediction:
        chosen = prediction["chosen"].tolist()
        facts["chosen"] = chosen[0] if len(set(chosen)) == 1 else chosen
    if "neighbours" in prediction:
        facts["neighbours"] = "; ".join(prediction["neighbours"])
    if "warnings" in prediction:
        facts["warnings"] = [text for text in dict.fromkeys(prediction["warnings"]) if text]
    return facts


def stem(name: str) -> str:
    """``a/b.nii.gz`` -> ``a/b``; several files joined as channels -> the first."""
    first = name.split(";")[0]
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if first.lower().endswith(suffix):
            return first[: -len(suffix)]
    return first
