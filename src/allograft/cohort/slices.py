"""Volumes as 2-D slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allograft.errors import SpecError


@dataclass(frozen=True)
class Slices:
    """A volume as 2-D slices, with their neighbours as channels.

    Args:
        axis: of the study's grid, across which slices are cut: 0, 1 or 2.
        neighbours: slices on either side that become channels.
    """

    axis: int = 2
    neighbours: int = 0

    def __post_init__(self) -> None:
        if self.axis not in (0, 1, 2) or self.neighbours < 0:
            raise SpecError(
                f"slices: found axis {self.axis}, neighbours {self.neighbours}; expected axis 0, 1 or 2, and "
                "neighbours >= 0"
            )

    def depth(self, size: Sequence[int], name: str) -> int:
        """How many slices a volume of this size has.

        Args:
            name: of the case, for the error.

        Raises:
            SpecError: a plane.
        """
        if len(size) != 3:
            mend = "remove its row from the manifest, or slices from the study where no image is a volume"
            raise SpecError(f"slices: image '{name}' has {len(size)} axes, and slices are cut from volumes; {mend}")
        return size[self.axis]

    def plane(self, values: Sequence[float]) -> tuple[float, ...]:
        """One value per axis of the volume -> those of a slice's axes."""
        return tuple(value for axis, value in enumerate(values) if axis != self.axis)

    def cut(self, array: np.ndarray, places: Sequence[int], neighbours: int = 0) -> Tensor:
        """(C, *size) -> the slices at these places, (B, C * (2 neighbours + 1), *spatial); at the
        ends the last slice is repeated."""
        axis = 1 + self.axis
        cuts = []
        for place in places:
            near = np.clip(np.arange(place - neighbours, place + neighbours + 1), 0, array.shape[axis] - 1)
            cut = np.take(array, near, axis=axis)  # (C, ..., 2n + 1, ...)
            first = np.moveaxis(cut, axis, 1)
            cuts.append(first.reshape(-1, *first.shape[2:]))
        return torch.from_numpy(np.stack(cuts))
