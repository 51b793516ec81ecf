"""A few numbers that stand for many: another result has others, and another processor the same."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from allograft.batch import Boxes

Summary = tuple[float, ...]
DIRECTIONS = 3
ROUNDING = 1e-7
"""Numbers that are no larger have no direction."""
LEAST, TIMES, MOST = 5e-4, 10, 0.3
"""How far a summary may be from the one that is pinned: so much, or so many times as far as on
another processor; with more than the last it is not pinned."""


def summary(thing: Any) -> Summary:
    """The root mean square of all numbers in tensors, figures and their like, and the coordinates
    of their vector, scaled to unit mean square, along fixed random directions.

    >>> summary({"a": torch.tensor([3.0, -4.0]), "b": ["no number"]})[0] == math.sqrt(12.5)
    True
    """
    parts = [np.nan_to_num(part, nan=-1.0, posinf=1e6, neginf=-1e6) for part in _numbers(thing)]
    values = np.concatenate([*parts, np.zeros(0)])
    size = math.sqrt(float(np.mean(values**2))) if len(values) else 0.0
    if size <= ROUNDING:
        return (0.0,) * (1 + DIRECTIONS)
    return size, *(float(signs @ values) / size / math.sqrt(len(values)) for signs in _directions(len(values)))


def pinned(made: Summary, older: Summary, least: float = LEAST) -> Summary:
    """A summary to six digits, and behind it how far another may be; () where that says nothing.

    Args:
        older: of the same numbers, made on an older processor.
        least: how far another may be where both are alike.
    """
    slack = max(least, TIMES * _apart(older, made))
    return () if slack > MOST else tuple(float(f"{value:.6g}") for value in (*made, slack))


def agrees(made: Summary, kept: Summary) -> bool:
    """Whether a summary is that of the same numbers, but for rounding.

    >>> agrees((2.0, 0.5), (2.001, 0.5, 0.001)), agrees((2.0, 0.5), (2.0, -0.5, 0.001))
    (True, False)
    """
    *summary_, slack = kept
    return _apart(made, tuple(summary_)) <= slack


def _apart(made: Summary, other: Summary) -> float:
    """The largest difference, that of the sizes as a share."""
    if len(made) != len(other):
        return math.inf
    size, *along = (abs(mine - its) for mine, its in zip(made, other, strict=True))
    return max(size / max(made[0], other[0], ROUNDING), *along)


@cache
def _directions(count: int) -> NDArray[np.int8]:
    """(3, count) of -1 and 1."""
    return (2 * np.random.default_rng(count).integers(0, 2, (DIRECTIONS, count)) - 1).astype(np.int8)


def _numbers(thing: Any) -> Iterator[NDArray[np.float64]]:
    if isinstance(thing, Tensor):
        yield thing.detach().cpu().to(torch.float64).flatten().numpy()
    elif isinstance(thing, Boxes):
        yield from _numbers((thing.xyxy, thing.label, thing.score))
    elif isinstance(thing, Mapping):
        for key in sorted(thing, key=str):
            yield from _numbers(thing[key])
    elif isinstance(thing, (list, tuple)):
        for part in thing:
            yield from _numbers(part)
    elif isinstance(thing, (bool, int, float)):
        yield np.array([float(thing)])
    elif isinstance(thing, str) and thing.startswith("iVBORw0KGgo"):
        yield np.asarray(Image.open(io.BytesIO(base64.b64decode(thing))).convert("RGB"), np.float64).flatten()
