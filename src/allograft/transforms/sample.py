"""One training sample from one case: crop and augmentation together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar

import torch
from torch import Generator, Tensor

from allograft.batch import Batch
from allograft.transforms.augmentation import Draw, apply, draw
from allograft.transforms.boxes import move_boxes


@dataclass(frozen=True)
class Sample:
    """A random crop of ``patch`` (the whole image when None), augmented; a case smaller than the
    patch is padded.

    Args:
        strength: none, light or strong.
        patch: size of the crop, one number a spatial axis.
        intensity: False moves pixels only, by the same draws: no noise, blur, brightness, contrast,
            gamma or zoom.
        centre: of the crop, in voxels; None = drawn.
    """

    takes_narrow: ClassVar[bool] = True
    """A mask of int16 is cut first, and only the crop becomes int64."""

    strength: str = "none"
    patch: tuple[int, ...] | None = None
    intensity: bool = True
    centre: tuple[float, ...] | None = None

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1. Dense labels, boxes and the region move with the image; all else
        stays."""
        drawn = draw(self.strength, case.image.ndim - 2, rng)
        if not self.intensity:
            drawn = Draw(drawn.angles, drawn.log_scale, drawn.flips)
        return self.drawn(case, drawn, rng)

    def drawn(self, case: Batch, drawn: Draw, rng: Generator) -> Batch:
        """The crop under a draw that the caller made."""
        size = case.image.shape[2:]
        dense: dict[str, Tensor] = {
            key: value[0] for key, value in case.labels.items() if isinstance(value, Tensor) and value.shape[2:] == size
        }
        if case.region is not None:
            dense["region"] = case.region[0]
        spacing = None if case.spacing is None else case.spacing[0].tolist()
        place = crop_centre(size, self.patch, rng)  # drawn in any case
        centre = place if self.centre is None else self.centre
        image, moved = apply(case.image[0], dense, drawn, rng, size=self.patch, centre=centre, spacing=spacing)
        region = moved.pop("region")[None] if case.region is not None else None
        labels = {**case.labels, **_batched(moved)}
        if "boxes" in case.labels:
            (boxes,) = case.labels["boxes"]
            if boxes is not None:
                wanted = self.patch or size
                boxes = move_boxes(boxes, drawn, size, size=wanted, centre=centre, spacing=spacing)
            labels["boxes"] = (boxes,)
        return replace(case, image=image[None], labels=labels, region=region)


@dataclass(frozen=True)
class Tile:
    """One of the tiles of an image, drawn at random; its case is named ``NAME@NUMBER``.

    Args:
        patch: size of a tile.
        strength: of the augmentation: none, light or strong.
    """

    takes_narrow: ClassVar[bool] = True

    patch: tuple[int, ...]
    strength: str = "none"

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1."""
        count = len(tiles(case.image.shape[2:], self.patch))
        return self.of(case, int(torch.randint(count, (1,), generator=rng)), rng)

    def of(self, case: Batch, number: int, rng: Generator) -> Batch:
        """The tile of this number."""
        centre = tiles(case.image.shape[2:], self.patch)[number]
        made = Sample(self.strength, self.patch, centre=centre)(case, rng)
        return replace(made, cases=(f"{case.cases[0]}@{number}",))


def tiles(size: Sequence[int], patch: Sequence[int]) -> list[tuple[float, ...]]:
    """Centres of the fewest crops of ``patch`` that cover an image, evenly spread and inside it.

    The middle along an axis that a crop does not fit.

    >>> tiles((8, 3), (4, 4)), tiles((5,), (4,))
    ([(1.5, 1.0), (5.5, 1.0)], [(1.5,), (2.5,)])
    """

    def along(given: int, wanted: int) -> list[float]:
        room, count = given - wanted, -(-given // wanted)
        return [(given - 1) / 2] if room <= 0 else [(wanted - 1) / 2 + room * n // (count - 1) for n in range(count)]

    return list(product(*map(along, size, patch)))


def crop_centre(size: torch.Size, patch: tuple[int, ...] | None, rng: Generator) -> tuple[float, ...] | None:
    """Where the crop's centre lies: uniform over the places at which the crop is inside; the middle
    along an axis it does not fit."""
    centre = torch.rand(len(size), generator=rng, dtype=torch.float64).tolist()
    if patch is None:
        return None
    return tuple(
        (wanted - 1) / 2 + int(share * (given - wanted + 1)) if given >= wanted else (given - 1) / 2
        for share, given, wanted in zip(centre, size, patch, strict=True)
    )


def _batched(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: (value.long() if value.dtype == torch.int16 else value)[None] for key, value in maps.items()}
