"""One training sample from one case: crop and augmentation together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from allograft.batch import Batch
from allograft.transforms.augmentation import Draw, apply, draw


@dataclass(frozen=True)
class Sample:
    """A random crop of ``patch`` (the whole image when None), augmented; a case smaller than the patch is padded.

    Args:
        strength: none, light or strong.
        patch: size of the crop, one number a spatial axis.
        intensity: False moves pixels only, by the same draws: no noise, blur, brightness, contrast, gamma or zoom.
    """

    strength: str = "none"
    patch: tuple[int, ...] | None = None
    intensity: bool = True

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1. Dense labels and the region move with the image; all else stays."""
        size = case.image.shape[2:]
        dense: dict[str, Tensor] = {
            key: value[0] for key, value in case.labels.items() if isinstance(value, Tensor) and value.shape[2:] == size
        }
        if case.region is not None:
            dense["region"] = case.region[0]
        drawn = draw(self.strength, len(size), rng)
        if not self.intensity:
            drawn = Draw(drawn.angles, drawn.log_scale, drawn.flips)
        spacing = None if case.spacing is None else case.spacing[0].tolist()
        image, moved = apply(case.image[0], dense, drawn, rng, size=self.patch, centre=_centre(size, self.patch, rng), spacing=spacing)
        region = moved.pop("region")[None] if case.region is not None else None
        labels = {**case.labels, **_batched(moved)}
        return replace(case, image=image[None], labels=labels, region=region)


def _centre(size: torch.Size, patch: tuple[int, ...] | None, rng: Generator) -> tuple[float, ...] | None:
    """Where the crop's centre lies: uniform over the places at which the crop is inside; the middle along an axis it does not fit."""
    place = torch.rand(len(size), generator=rng, dtype=torch.float64).tolist()
    if patch is None:
        return None
    return tuple(
        (wanted - 1) / 2 + int(share * (given - wanted + 1)) if given >= wanted else (given - 1) / 2
        for share, given, wanted in zip(place, size, patch, strict=True)
    )


def _batched(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value[None] for key, value in maps.items()}
