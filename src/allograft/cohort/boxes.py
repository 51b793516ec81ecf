"""Boxes of an image: read from their file, and brought from the image's own grid to the study's and
back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from allograft.batch import Boxes
from allograft.cohort.geometry import Geometry
from allograft.errors import ImageError, ManifestError, SpecError, nearest


def read_boxes(path: Path, names: Sequence[str], shape: Sequence[int]) -> Boxes:
    """The boxes of one image, in its own pixels.

    Args:
        path: JSON, ``{"boxes": [[x0, y0, x1, y1], ...], "labels": [...]}``, end exclusive; x counts
            columns, y rows. An image without any has two empty lists.
        names: the classes; label i + 1 is the i-th (0 is the background).
        shape: (rows, columns) of the image.

    Raises:
        ImageError: no such file, no boxes file, a box that leaves the image or has no area.
        ManifestError: a class that the study does not name.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        numbers, labels = (
            [[float(side) for side in box] for box in tree["boxes"]],
            [str(name) for name in tree["labels"]],
        )
        if len(labels) != len(numbers):
            raise ValueError(f"{len(numbers)} boxes and {len(labels)} labels")
        if wrong_length := [box for box in numbers if len(box) != 4]:
            raise ValueError(f"a box of {len(wrong_length[0])} numbers")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(
            f"{path}: cannot be read as boxes ({type(error).__name__}: {error}); expected JSON of the form "
            '{"boxes": [[x0, y0, x1, y1], ...], "labels": ["cell", ...]}; export it again'
        ) from error
    xyxy = torch.tensor(numbers, dtype=torch.float32).reshape(-1, 4)
    rows, columns = shape
    limits = torch.tensor([columns, rows, columns, rows], dtype=torch.float32)
    wrong = ~xyxy.isfinite().all(1) | (xyxy < 0).any(1) | (xyxy > limits).any(1) | (xyxy[:, :2] >= xyxy[:, 2:]).any(1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        raise ImageError(
            f"{path}: box {first} is {xyxy[first].tolist()}; expected x0 < x1 and y0 < y1 inside an image of "
            f"{columns} x {rows} pixels ({int(wrong.sum())} such boxes); correct or remove it"
        )
    for label in labels:
        if label not in names:
            raise ManifestError(f"{path}: {nearest(label, names, 'class')}")
    return Boxes(xyxy, torch.tensor([1 + list(names).index(label) for label in labels], dtype=torch.int64))


def boxes_to_grid(boxes: Boxes, geometry: Geometry) -> Boxes:
    """From the pixels of the stored image to those of the study's grid. What lies outside the grid
    is cut off; boxes without area there are left out.

    >>> wide = Geometry((4, 4), (0, 1), (), (8, 4), (0, 0), (8, 4), (1.0, 1.0), (1.0, 1.0))
    >>> boxes_to_grid(Boxes(torch.tensor([[0.0, 1.0, 2.0, 3.0]]), torch.tensor([1])), wide).xyxy.tolist()
    [[0.0, 2.0, 2.0, 6.0]]
    """
    low, high = _sides(boxes, geometry)
    oriented = torch.tensor(geometry.oriented, dtype=torch.float32)
    low, high = low[:, list(geometry.axes)], high[:, list(geometry.axes)]
    low, high = _flipped(low, high, geometry.flips, oriented)
    scale, start = torch.tensor(geometry.resampled) / oriented, torch.tensor(geometry.start)
    return inside(replace(boxes, xyxy=_xyxy(low * scale - start, high * scale - start)), geometry.size)


def boxes_from_grid(boxes: Boxes, geometry: Geometry) -> Boxes:
    """From the study's grid back to the pixels of the stored image, and cut to it; the inverse of
    ``boxes_to_grid`` for boxes that it did not cut."""
    low, high = _sides(boxes, geometry)
    oriented = torch.tensor(geometry.oriented, dtype=torch.float32)
    scale, start = oriented / torch.tensor(geometry.resampled), torch.tensor(geometry.start)
    low, high = _flipped((low + start) * scale, (high + start) * scale, geometry.flips, oriented)
    back = sorted(range(2), key=geometry.axes.__getitem__)
    return inside(replace(boxes, xyxy=_xyxy(low[:, back], high[:, back])), geometry.shape)


def inside(boxes: Boxes, shape: Sequence[int]) -> Boxes:
    """Boxes cut to an image of (rows, columns); those of no area there are left out.

    >>> inside(Boxes(torch.tensor([[-1.0, 0, 2, 2], [5, 0, 7, 2]]), torch.tensor([1, 1])), (4, 4)).xyxy.tolist()
    [[0.0, 0.0, 2.0, 2.0]]
    """
    rows, columns = shape
    limits = boxes.xyxy.new_tensor([columns, rows, columns, rows])
    xyxy = boxes.xyxy.clamp_min(0).minimum(limits)
    return replace(boxes, xyxy=xyxy)[(xyxy[:, :2] < xyxy[:, 2:]).all(1)]


def _sides(boxes: Boxes, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """(N, 2) first and last place along (rows, columns)."""
    if len(geometry.shape) != 2:
        raise SpecError(
            f"boxes: lie in 2-D images, this one has {len(geometry.shape)} axes; detection works on photographs and "
            "planes"
        )
    return boxes.xyxy[:, [1, 0]], boxes.xyxy[:, [3, 2]]


def _flipped(low: Tensor, high: Tensor, flips: Sequence[int], length: Tensor) -> tuple[Tensor, Tensor]:
    reverse = torch.tensor([axis in flips for axis in range(2)])
    return torch.where(reverse, length - high, low), torch.where(reverse, length - low, high)


def _xyxy(low: Tensor, high: Tensor) -> Tensor:
    return torch.stack([low[:, 1], low[:, 0], high[:, 1], high[:, 0]], dim=1)
