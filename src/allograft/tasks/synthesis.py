"""Synthesis: one image made from another, on the same grid."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Coding, Whole
from allograft.errors import SpecError
from allograft.metrics.synthesis import mean_absolute_error, median_absolute_error, structural_similarity
from allograft.nn.processes import count_over_processes
from allograft.tasks.segmentation import mean_over_subjects
from allograft.tasks.task import Answer, Forward, Outputs, Value, check_weights, defined, weighted


def absolute_error(made: Tensor, paired: Tensor, region: Tensor | None = None) -> Tensor:
    """Mean absolute error over the pixels that count of each image, mean over the images that have
    any; 0 when none has.

    Args:
        made: (B, C, *spatial).
        paired: the same shape; nan = not known: an image without a pair, or pixels that an
            augmentation moved in from outside.
        region: (B, 1, *spatial) bool, or None.

    Returns:
        ().

    Example:
        >>> absolute_error(torch.zeros(2, 1, 2), torch.tensor([[[1.0, 3.0]], [[math.nan, math.nan]]])).item()
        2.0
    """
    counts = ~paired.isnan()
    if region is not None:
        counts = counts & region
    apart = (made - paired.where(counts, 0.0).to(made.dtype)).abs().where(counts, 0.0)
    number = counts.flatten(1).sum(1)
    return (apart.flatten(1).sum(1) / number.clamp_min(1)).sum() / count_over_processes(number > 0)


@dataclass(frozen=True)
class Synthesis:
    """The image of the manifest's column ``paired`` from the one of ``image``; both lie on one
    grid.

    The network sees the paired image as shares of a range, so that 0 and 1 are its ends: it is not
    scaled as the study scales its images (``preprocessing: intensity``), because a made image has
    no mean and deviation to be brought back by, and SSIM needs a range. All else is alike:
    orientation, spacing, size, cropping, rotation; an augmentation's changes of intensity touch the
    image alone. What is made is cut to the range and brought back to the image's own grid, where it
    is evaluated. Volumes are written in the unit of the range, photographs as shares of it.

    Args:
        channels: of the paired image.
        range: the values of the paired image that become 0 and 1, ``[-1000, 2000]`` HU say; the
            absolute error is in their unit. None = the smallest and largest value of each channel
            of each paired image, for images without a unit such as MRI; the absolute error is a
            share of that range.
        weights: a factor on the loss's one term, ``absolute_error``.
    """

    key: ClassVar[str] = "paired"
    headline: ClassVar[str] = "ssim"
    terms: ClassVar[tuple[str, ...]] = ("absolute_error",)

    channels: int = 1
    range: tuple[float, float] | None = None
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise SpecError(f"task: synthesis: channels is {self.channels}; expected at least 1")
        if self.range is not None and not (self.range[0] < self.range[1] and all(map(math.isfinite, self.range))):
            raise SpecError(
                f"task: synthesis: range is {list(self.range)}; expected [low, high], two finite numbers with low "
                "below high"
            )
        check_weights(self.weights, self.terms, "synthesis")

    @property
    def coding(self) -> Coding:
        """Values to shares of the range."""
        return Coding(paired=self.channels, paired_range=self.range)

    @property
    def outputs(self) -> Mapping[str, int]:
        """The paired image's channels."""
        return {"paired": self.channels}

    def loss(self, output: Outputs, batch: Batch) -> Mapping[str, Tensor]:
        """Absolute error (L1), mean over the images that have a pair, so that processes may share a
        batch."""
        paired = batch.labels["paired"]
        assert isinstance(paired, Tensor)
        return weighted({"absolute_error": absolute_error(output["paired"], paired, batch.region)}, self.weights)

    def objective(self, network: Forward, batch: Batch) -> Mapping[str, Tensor]:
        """``loss`` of the network's output."""
        return self.loss(network(batch.image), batch)

    def made(self, prediction: Outputs, whole: Whole) -> Tensor:
        """The made image (C, *shape) on the image's own grid, shares of the range from 0 to 1; 0
        where the study's grid does not reach."""
        channels = prediction["paired"].float().cpu().split(1, dim=1)  # several would be taken for classes
        return torch.cat([whole.on_image(channel) for channel in channels]).clamp(0, 1)

    def answer(self, prediction: Outputs, whole: Whole) -> Answer:
        """The made image as the map ``paired``, or a map a channel; no numbers."""
        made = self.made(prediction, whole)
        names = ["paired"] if len(made) == 1 else [f"paired-{number}" for number, _ in enumerate(made)]
        return Answer({}, maps=dict(zip(names, made, strict=True)), span=self.range or (0.0, 1.0))

    def truth(self, whole: Whole) -> Tensor:
        """The stored paired image, (C, *shape) float32 shares of the range."""
        return whole.paired

    def measure(self, prediction: Outputs, whole: Whole) -> Mapping[str, Value]:
        """Mean absolute error (``mae``), its median over pixels and the median absolute deviation
        from that, and ``ssim``, on the image's own grid, inside the region."""
        made, truth, region = self.made(prediction, whole), self.truth(whole), whole.region
        unit = 1.0 if self.range is None else self.range[1] - self.range[0]
        mae = unit * mean_absolute_error(made, truth, region)
        median, deviation = (unit * value for value in median_absolute_error(made, truth, region))
        errors = {"mae": mae, "median_error": median, "mad_error": deviation}
        return defined({"ssim": structural_similarity(made, truth, region=region), **errors})

    def aggregate(self, cases: Sequence[Mapping[str, Value]]) -> dict[str, float | None]:
        """Means over subjects of each subject's mean; undefined cases are left out and counted in
        ``undefined/METRIC``."""
        return mean_over_subjects(cases)
