"""Histogram matching at test time: a target image takes the distribution of grey values of a source
donor."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.donors import place_of
from allograft.predictor import Direct, Prediction, Predictor
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage

POINTS = 4096
"""Points of a donor's distribution that are kept; one with no more distinct values is kept
exactly."""


@dataclass(frozen=True)
class Histogram:
    """At test time, give each image the grey-value distribution of one source image; nothing is
    trained.

    The donor is drawn once a run from the source training images. Of it only the distribution of
    each channel is kept, from which no image can be shown; of a scan cut into slices that of each
    slice, which goes to the target's slice of the same number. Padding is no part of an image: it
    counts on neither side, and takes the least value that matching gives.

    Args:
        first: what is adapted.
    """

    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="gonzalez2008digital",
        authors="Gonzalez, R. C. and Woods, R. E.",
        title="Digital Image Processing, section 3.3.2",
        venue="Prentice Hall, third edition",
        year=2008,
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Draw the donor, keep its distribution, and match every image to it."""
        network = (yield from context.run(self.first, scenario, network)).network
        donor, sliced = drawn_scan(scenario.source, context.seeds.rng("donor"))
        inside = donor.inside()[:, 0]
        kept = [image[:, own] if own.any() else image for image, own in zip(donor.image, inside, strict=True)]
        values, levels = zip(*map(distribution, kept), strict=True)
        matched = HistogramPredictor(Direct(network), torch.stack(values), torch.stack(levels), sliced)
        yield Stage("adapted", matched, scenario.sites)
        return Carry(network)


def drawn_scan(source: tuple[Cohort, ...], rng: torch.Generator) -> tuple[Batch, bool]:
    """One source case, images (1, C, *spatial) or its slices (D, C, H, W), and whether it was cut
    into slices."""
    places = [(cohort, case_index) for cohort in source for case_index in range(len(cohort.cases))]
    cohort, case_index = places[int(torch.randint(len(places), (), generator=rng))]
    return cohort.whole(case_index).batch, cohort.slices is not None


def distribution(image: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of each channel in ascending order, and the share of pixels up to each: (C,
    *spatial) -> two (C, ``POINTS``).

    Fewer are filled up with the last; of more, evenly spaced ones are kept, the least and the
    greatest among them.
    """
    rows = []
    for channel in image.flatten(1):
        values, counts = channel.unique(return_counts=True)
        levels = (counts.cumsum(0).double() / counts.sum()).to(values)
        kept = torch.linspace(0, len(values) - 1, min(POINTS, len(values)), dtype=torch.float64).round().long()
        kept = torch.cat([kept, kept[-1:].expand(POINTS - len(kept))])
        rows.append((values[kept], levels[kept]))
    return torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])


def match(image: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    """Give one channel another's distribution: a value at which a share q of the pixels ends
    becomes the donor's value at that share.

    Between the donor's values it is linear, as in scikit-image's ``match_histograms``. An image of
    a single value has no distribution to match and stays as it is (there it would become the
    donor's greatest value).

    Args:
        image: any shape.
        values, levels: (P,), a row of ``distribution``.

    Example:
        >>> values, levels = distribution(torch.tensor([[10.0, 20.0, 20.0, 40.0]]))
        >>> match(torch.tensor([3.0, 1.0, 2.0, 2.0]), values[0], levels[0])
        tensor([40., 10., 20., 20.])
    """
    grey, rank, counts = image.unique(return_inverse=True, return_counts=True)
    if len(grey) == 1:
        return image
    share = (counts.cumsum(0).double() / counts.sum()).to(levels)
    above = torch.searchsorted(levels, share).clamp(1, len(levels) - 1)
    low, high = levels[above - 1], levels[above]
    part = ((share - low) / torch.where(high > low, high - low, torch.ones_like(high))).clamp(0, 1)
    matched: Tensor = (values[above - 1] + part * (values[above] - values[above - 1]))[rank]
    return matched


@dataclass(frozen=True)
class HistogramPredictor:
    """Predicts the matched image.

    Args:
        inner: what predicts.
        values, levels: (D, C, P), the donor's distribution; D = 1, or of each of its slices.
        sliced: whether cases are slices, ``NAME#PLACE``; beyond the donor's last slice its
            distribution is used.
    """

    inner: Predictor
    values: Tensor
    levels: Tensor
    sliced: bool = False

    sees_whole_images: ClassVar[bool] = True  # their own distribution is that of all their pixels

    def __call__(self, batch: Batch) -> Prediction:
        if batch.image.shape[1] != self.values.shape[1]:
            raise SpecError(
                f"histogram: images have {batch.image.shape[1]} channels, the donor {self.values.shape[1]}; convert "
                "the images"
            )
        values, levels = self.values.to(batch.image), self.levels.to(batch.image)
        places = [min(place_of(name, self.sliced), len(values) - 1) for name in batch.cases]
        matched = [
            torch.stack(
                [
                    _matched(channel, own, *donor)
                    for channel, *donor in zip(image, values[drawn], levels[drawn], strict=True)
                ]
            )
            for image, own, drawn in zip(batch.image, batch.inside()[:, 0], places, strict=True)
        ]
        return self.inner(replace(batch, image=torch.stack(matched)))


def _matched(channel: Tensor, inside: Tensor, values: Tensor, levels: Tensor) -> Tensor:
    """One channel, (*spatial), matched where it is ``inside``; what is all padding stays as it
    is."""
    if not inside.any():
        return channel
    mapped = match(channel[inside], values, levels)
    return torch.full_like(channel, float(mapped.min())).masked_scatter(inside, mapped)
