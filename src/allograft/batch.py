"""What one step sees: images, sites, case names, and labels that are absent when they are
hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allograft.errors import SpecError


@dataclass(frozen=True, slots=True)
class Boxes:
    """Boxes of one image: ``xyxy`` (N, 4) float in pixels, end exclusive; ``label`` (N,) int64,
    from 1; ``score`` (N,) float in [0, 1], of boxes that a network found.

    >>> len(Boxes(torch.zeros(2, 4), torch.ones(2).long())[torch.tensor([True, False])])
    1
    """

    xyxy: Tensor
    label: Tensor
    score: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, chosen: Tensor) -> Boxes:
        """Some of the boxes, by a mask or by indices."""
        return self.each(lambda tensor: tensor[chosen])

    def each(self, change: Callable[[Tensor], Tensor]) -> Boxes:
        """The same boxes with every tensor changed."""
        return Boxes(change(self.xyxy), change(self.label), None if self.score is None else change(self.score))


Labels = Mapping[str, "Tensor | tuple[Boxes | None, ...]"]

IGNORED: dict[torch.dtype, float | int | bool] = {
    torch.int64: -100,
    torch.float32: float("nan"),
    torch.float64: float("nan"),
    torch.bool: False,
}
"""The value that says "not labelled" for each kind of label tensor; boxes say it by None."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Cases side by side; a single case is a Batch with B = 1.

    Args:
        image: (B, C, *spatial) float.
        site: (B,) int64, the index into the study's sites; -1 = unknown or mixed.
        cases: B names.
        subjects: B patients; () where nobody requested them.
        labels: keyed like the manifest's columns and the network's output: "mask" (B, 1, *spatial)
            int64, "label" (B,) int64 or (B, K) float, "boxes" B ``Boxes`` or None, "paired" (B, C,
            *spatial). An absent key = hidden for all; a case without a label among labelled ones
            carries the ignore value (-100, nan, None).
        attributes: (B,) or (B, K) tensors: skin type, timepoint, annotated classes.
        region: (B, 1, *spatial) bool, the pixels that count.
        spacing: (B, D) mm of the image's grid.
        extent: (B, D) int64, the true size where a whole image was padded about its centre; 0 of a
            slice that is all padding.
        views: further views of each image by name, (B, C, *spatial): another augmentation, the
            image before it was distorted.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("a", "b"),
        ...     {"mask": torch.ones(2, 1, 4, 4).long()})
        >>> len(batch), batch.unlabelled().labels
        (2, {})
    """

    image: Tensor
    site: Tensor
    cases: tuple[str, ...]
    labels: Labels = field(default_factory=dict)
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    region: Tensor | None = None
    spacing: Tensor | None = None
    extent: Tensor | None = None
    subjects: tuple[str, ...] = ()
    views: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cases)

    def unlabelled(self) -> Batch:
        """The same cases with every label absent."""
        return replace(self, labels={})

    def inside(self) -> Tensor:
        """(B, 1, *spatial) bool: the pixels that are no padding; an odd pixel of padding lies
        before the image, as preprocessing has it.

        >>> Batch(torch.zeros(1, 1, 4), torch.tensor([0]), ("a",), extent=torch.tensor([[1]])).inside().int().tolist()
        [[[0, 0, 1, 0]]]
        """
        size = self.image.shape[2:]
        inside = torch.ones(len(self), 1, *size, dtype=torch.bool, device=self.image.device)
        for axis, true in enumerate(() if self.extent is None else self.extent.unbind(1)):
            before = (size[axis] - true + 1) // 2
            coordinate = torch.arange(size[axis], device=self.image.device)
            line = (coordinate >= before[:, None]) & (coordinate < (before + true)[:, None])
            inside &= line.view(len(self), *(1 if other != axis else -1 for other in range(-1, len(size))))
        return inside

    def to(self, device: Any, **options: Any) -> Batch:
        """A copy on a device; Fabric calls this."""
        return _each(self, lambda tensor: tensor.to(device, **options))

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory; the loader's workers call this."""
        return _each(self, lambda tensor: tensor.pin_memory())

    def __getitem__(self, index: slice) -> Batch:
        """A part of the batch: ``batch[2:4]``."""
        part = _each(self, lambda tensor: tensor[index], lambda boxes: boxes[index])
        return replace(part, cases=self.cases[index], subjects=self.subjects[index])


def _each(
    batch: Batch,
    tensors: Callable[[Tensor], Tensor],
    boxes: Callable[[tuple[Boxes | None, ...]], tuple[Boxes | None, ...]] | None = None,
) -> Batch:
    def label(value: Tensor | tuple[Boxes | None, ...]) -> Tensor | tuple[Boxes | None, ...]:
        if isinstance(value, Tensor):
            return tensors(value)
        if boxes is not None:
            return boxes(value)
        return tuple(None if image is None else image.each(tensors) for image in value)

    def perhaps(value: Tensor | None) -> Tensor | None:
        return None if value is None else tensors(value)

    return replace(
        batch,
        image=tensors(batch.image),
        site=tensors(batch.site),
        labels={key: label(value) for key, value in batch.labels.items()},
        attributes={key: tensors(value) for key, value in batch.attributes.items()},
        region=perhaps(batch.region),
        spacing=perhaps(batch.spacing),
        extent=perhaps(batch.extent),
        views={key: tensors(value) for key, value in batch.views.items()},
    )


def collate(items: Sequence[Batch]) -> Batch:
    """Join batches along B. A label that only some of them have gets the ignore value in the
    others.

    Images of several sizes are padded with 0 about their centres where there are boxes, and
    ``extent`` says what is theirs; everywhere else they are refused.

    >>> case = Batch(torch.zeros(1, 1, 2, 2), torch.tensor([0]), ("a",))
    >>> both = collate([replace(case, labels={"label": torch.tensor([3])}), case])
    >>> both.labels["label"].tolist()
    [3, -100]
    """
    sizes = {tuple(item.image.shape[1:]) for item in items}
    if len(sizes) > 1 and any("boxes" in item.labels for item in items):
        items = _padded(items)
        sizes = {tuple(item.image.shape[1:]) for item in items}
    if len(sizes) > 1:
        raise SpecError(
            f"images of {' and '.join(str(size) for size in sorted(sizes))} cannot share a batch (channels, size); "
            "set preprocessing: {size: [...]}, or train on crops by patch: [...]"
        )
    return Batch(
        image=torch.cat([item.image for item in items]),
        site=torch.cat([item.site for item in items]),
        cases=tuple(case for item in items for case in item.cases),
        labels={
            key: _join([item.labels.get(key) for item in items], items) for key in _keys(item.labels for item in items)
        },
        attributes={
            key: _join([item.attributes.get(key) for item in items], items)  # type: ignore[misc]
            for key in _keys(item.attributes for item in items)
        },
        region=_join_all([item.region for item in items], items),
        spacing=_join_all([item.spacing for item in items], items),
        extent=_join_all([item.extent for item in items], items),
        subjects=tuple(subject for item in items for subject in item.subjects),
        views={key: torch.cat([item.views[key] for item in items]) for key in items[0].views},
    )


def _padded(items: Sequence[Batch]) -> list[Batch]:
    """Every image in the middle of the largest height and width; boxes move with it, and pixels of
    a mask that are padding are not labelled."""
    height, width = (max(item.image.shape[axis] for item in items) for axis in (-2, -1))
    return [_in_the_middle(item, (height, width)) for item in items]


def _in_the_middle(item: Batch, size: tuple[int, int]) -> Batch:
    true = item.image.shape[-2:]
    top, left = ((wanted - given + 1) // 2 for wanted, given in zip(size, true, strict=True))
    pads = (left, size[1] - true[1] - left, top, size[0] - true[0] - top)
    shift = torch.tensor([left, top, left, top])

    def padded(value: Tensor) -> Tensor:
        is_map = value.ndim == 4 and value.shape[-2:] == true
        return F.pad(value, pads, value=IGNORED.get(value.dtype, 0)) if is_map else value

    def moved(value: Tensor | tuple[Boxes | None, ...]) -> Tensor | tuple[Boxes | None, ...]:
        if isinstance(value, Tensor):
            return padded(value)
        return tuple(None if boxes is None else replace(boxes, xyxy=boxes.xyxy + shift) for boxes in value)

    return replace(
        item,
        image=F.pad(item.image, pads),
        labels={key: moved(value) for key, value in item.labels.items()},
        region=None if item.region is None else F.pad(item.region, pads),
        extent=torch.tensor([tuple(true)] * len(item)) if item.extent is None else item.extent,
        views={key: F.pad(value, pads) for key, value in item.views.items()},
    )


def _keys(mappings: Any) -> list[str]:
    return sorted({key for mapping in mappings for key in mapping})


def _join(values: Sequence[Any], items: Sequence[Batch]) -> Tensor | tuple[Boxes | None, ...]:
    like = next(value for value in values if value is not None)
    if isinstance(like, tuple):
        return tuple(
            part
            for value, item in zip(values, items, strict=True)
            for part in (value if value is not None else (None,) * len(item))
        )
    filled = []
    for value, item in zip(values, items, strict=True):
        absent = torch.full((len(item), *like.shape[1:]), IGNORED.get(like.dtype, 0), dtype=like.dtype)
        filled.append(absent if value is None else value)
    return torch.cat(filled)


def _join_all(values: Sequence[Tensor | None], items: Sequence[Batch]) -> Tensor | None:
    """Regions and sizes: where only some cases state a region, the others count whole."""
    stated = [value for value in values if value is not None]
    if not stated:
        return None
    if len(stated) == len(values):
        return torch.cat(stated)
    if stated[0].dtype is torch.bool:
        whole = [
            torch.ones(len(item), 1, *item.image.shape[2:], dtype=torch.bool) if value is None else value
            for value, item in zip(values, items, strict=True)
        ]
        return torch.cat(whole)
    return None
