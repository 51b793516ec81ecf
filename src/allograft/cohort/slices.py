"""Volumes as 2-D slices."""

from __future__ import annotations

from dataclasses import dataclass

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
