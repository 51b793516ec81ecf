"""A prediction for a whole case, part by part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from allograft.batch import Batch, Boxes, collate
from allograft.cohort import Whole
from allograft.cohort.readers import SUFFIXES
from allograft.predictor.direct import Predictor
from allograft.tasks import Task

CHUNK = 16
"""Slices of a volume predicted at a time."""
OVERLAP = 0.25
"""Share of a window that the next one covers too."""
DENSE = frozenset({"mask", "paired"})
"""Outputs with a value for every pixel."""


def case_prediction(
    predictor: Predictor, whole: Whole, task: Task, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """A prediction for one case, on the CPU, as it is judged, written to files and shown: labels
    are not looked at.

    Where preprocessing.size cuts something off, training sees the middle of the image; dense
    outputs are predicted for all of it, in windows of that size (``windowed_prediction``). What is
    no output of a pixel, such as a class, is predicted from the middle, and so is everything by a
    predictor that ``sees_whole_images``: the prediction's warnings then say how much of the image
    was not looked at. A network that ``normalises_by_image`` makes every window alike, empty ones
    too, which trainings on the middle never saw: the warnings say how much it found there.
    """

    def middle() -> dict[str, Any]:
        return whole_prediction(predictor, whole.batch.to(device))

    dense = DENSE.intersection(task.outputs)
    if not whole.is_cut or not dense or sees_whole_images(predictor):
        answer = middle()
        return _with_warning(answer, not_looked_at(whole)) if whole.is_cut else answer
    window = tuple(whole.batch.image.shape[2:])
    answer = windowed_prediction(predictor, whole.make_uncut().to(device), window)
    said = []
    if "mask" in answer and normalises_by_image(predictor) and (share := share_outside(whole, answer["mask"])):
        said.append(found_in_windows(share))
    if others := sorted(set(task.outputs) - dense):
        answer = {**middle(), **{key: value for key, value in answer.items() if key in dense}}
        said.append(f"for {' and '.join(others)} {not_looked_at(whole)}")
    for text in said:
        answer = _with_warning(answer, text)
    return answer


def windowed_prediction(predictor: Predictor, batch: Batch, window: Sequence[int]) -> dict[str, Any]:
    """A prediction for images larger than the predictor was trained on, on the CPU: windows that
    overlap by ``OVERLAP``, their dense outputs averaged with Gaussian weights (MONAI's).

    Logits are averaged, and not probabilities. Of a window's other outputs, scores and warnings
    are kept, one a window.

    Args:
        batch: (B, C, *spatial) images, each side at least as long as the window's.
        window: its size along each spatial axis.
    """
    from monai.inferers.utils import sliding_window_inference

    kept: list[dict[str, Any]] = []

    def predict(_images: Tensor, places: Sequence[Sequence[slice]]) -> dict[str, Tensor]:
        output = predictor(collate([_cut_out(batch, window[0], tuple(window[2:])) for window in places]).unlabelled())
        dense = {key: value for key, value in output.items() if key in DENSE and isinstance(value, Tensor)}
        kept.append({key: value for key, value in output.items() if key not in (*DENSE, "label", "boxes")})
        # a copy, because MONAI weighs it in place
        return {key: value.clone() for key, value in dense.items()}

    together = CHUNK if len(window) == 2 else 1
    merged = sliding_window_inference(
        batch.image, tuple(window), together, predict, OVERLAP, "gaussian", device="cpu", with_coord=True
    )
    assert isinstance(merged, dict)
    return {**merged, **{key: _joined([facts[key] for facts in kept]) for key in kept[0]}}


def _cut_out(batch: Batch, image: slice, window: tuple[slice, ...]) -> Batch:
    """One window of one image."""
    cut = batch[image]
    inside: tuple[EllipsisType | slice, ...] = (..., *window)
    lengths = torch.tensor([each.stop - each.start for each in window], device=batch.image.device)
    return replace(
        cut,
        image=cut.image[inside],
        region=None if cut.region is None else cut.region[inside],
        # an axis that is cut has no padding, and one that has padding is not cut
        extent=None if cut.extent is None else torch.minimum(cut.extent, lengths),
    )


def sees_whole_images(predictor: object) -> bool:
    """Whether a predictor, or one inside it, needs images whole: it changes them by what all of
    their pixels are (``sees_whole_images``), or takes slices of a scan together
    (``sees_whole_cases``)."""
    says = ("sees_whole_images", "sees_whole_cases")
    return any(getattr(part, name, False) for part in parts_of(predictor) for name in says)


def normalises_by_image(predictor: object) -> bool:
    """Whether a network in a predictor normalises by the pixels that it is shown, as instance and
    group normalisation do, so that its output depends on what lies in a window."""
    kinds = (_InstanceNorm, nn.GroupNorm)
    return any(
        isinstance(layer, kinds) and not getattr(layer, "track_running_stats", False)
        for part in parts_of(predictor)
        if isinstance(part, nn.Module)
        for layer in part.modules()
    )


def parts_of(held: object) -> Iterator[object]:
    """A predictor, and the predictors and networks in its fields."""
    if isinstance(held, (list, tuple)):
        for part in held:
            yield from parts_of(part)
    elif isinstance(held, nn.Module):
        yield held
    elif is_dataclass(held) and not isinstance(held, type):
        yield held
        for each in fields(held):
            yield from parts_of(getattr(held, each.name))


def not_looked_at(whole: Whole) -> str:
    """What preprocessing.size cuts off an image, as a warning: ``1200 mm3 (40 %) were not looked
    at: ...``."""
    (amount, unit), share = whole.cut_off, whole.geometry.share_cut_off
    return f"{amount:.6g} {unit} ({share:.1%}) were not looked at: they lie outside preprocessing.size"


def share_outside(whole: Whole, mask: Tensor) -> float:
    """Which share of the foreground of logits (B, K, *spatial) of the uncut case lies outside
    preprocessing.size; 0 where there is none."""
    foreground = whole.restack(mask).max(0).indices > 0
    geometry = whole.geometry
    middle = tuple(
        slice(first - uncut, first - uncut + length)
        for first, uncut, length in zip(geometry.start, geometry.uncut.start, geometry.size, strict=True)
    )
    total = int(foreground.sum())
    return 1 - int(foreground[middle].sum()) / total if total else 0.0


def found_in_windows(share: float) -> str:
    """What a reader should know of foreground where trainings never looked, found by a network that
    ``normalises_by_image``."""
    return (
        f"{share:.0%} of what was found lies outside preprocessing.size; the network normalises each window by its own "
        "pixels, so it may find something where there is nothing: look at the mask, or train with patch instead of size"
    )


def _with_warning(prediction: Mapping[str, Any], text: str) -> dict[str, Any]:
    """The prediction with one more warning, of its first image."""
    count = next(len(value) for value in prediction.values())
    first, *others = prediction.get("warnings", ("",) * count)
    return {**prediction, "warnings": ("; ".join(filter(None, (first, text))), *others)}


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
