"""Wrong boxes on purpose: missing, moved, merged and invented ones, for experiments with imperfect
labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allograft.errors import SpecError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class BoxNoise:
    """How wrong boxes are.

    Args:
        drop: share of the boxes that are missing.
        jitter: standard deviation of each side's place, as a share of the box's own length.
        merge: share of the remaining boxes that are replaced, together with their nearest
            neighbour, by one box around both.
        invent: boxes that are made up, as a share of those that there were.
    """

    drop: float = 0.0
    jitter: float = 0.0
    merge: float = 0.0
    invent: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("drop", 1.0), ("jitter", np.inf), ("merge", 1.0), ("invent", np.inf)):
            value = getattr(self, name)
            if not 0 <= value <= most or not np.isfinite(value):
                raise SpecError(
                    f"box noise: {name} is {value}; expected a share from 0" + (" to 1" if most == 1 else "")
                )

    def __call__(self, boxes: Sequence[Sequence[float]], size: tuple[int, int], rng: np.random.Generator) -> Array:
        """The boxes as a careless reader would have drawn them.

        Args:
            boxes: (N, 4) xyxy in pixels.
            size: (rows, columns) of the image; what is drawn stays inside.

        Returns:
            (M, 4); boxes of less than a pixel are left out.

        Example:
            >>> BoxNoise()([[1, 2, 5, 6]], (10, 10), np.random.default_rng(0)).tolist()
            [[1.0, 2.0, 5.0, 6.0]]
        """
        given = np.asarray(boxes, np.float64).reshape(-1, 4)
        kept = given[rng.random(len(given)) >= self.drop]
        lengths = np.tile(kept[:, 2:] - kept[:, :2], 2)
        moved = kept + self.jitter * lengths * rng.standard_normal(kept.shape)
        made = np.concatenate([self._merged(moved, rng), self._invented(given, size, rng)])
        made = made.clip(0, np.tile([size[1], size[0]], 2))
        return made[(made[:, 2:] - made[:, :2] >= 1).all(1)]

    def _merged(self, boxes: Array, rng: np.random.Generator) -> Array:
        chosen = rng.random(len(boxes)) < self.merge
        centres, free, made = (boxes[:, :2] + boxes[:, 2:]) / 2, np.ones(len(boxes), bool), []
        for index in np.flatnonzero(chosen):
            others = free.copy()
            others[index] = False
            if not free[index] or not others.any():
                continue
            far = np.where(others, np.linalg.norm(centres - centres[index], axis=1), np.inf)
            both = np.array([index, far.argmin()])
            pair, free[both] = boxes[both], False
            made.append([*pair[:, :2].min(0), *pair[:, 2:].max(0)])
        return np.concatenate([boxes[free], np.asarray(made, np.float64).reshape(-1, 4)])

    def _invented(self, boxes: Array, size: tuple[int, int], rng: np.random.Generator) -> Array:
        count = round(self.invent * len(boxes))
        if not count:
            return np.zeros((0, 4))
        lengths = (boxes[:, 2:] - boxes[:, :2])[rng.integers(len(boxes), size=count)]
        low = rng.random((count, 2)) * np.maximum(np.array([size[1], size[0]]) - lengths, 0)
        return np.concatenate([low, low + lengths], 1)
