"""Standardisation at test time: every target image gets the source's mean and spread; the plainest
answer to another scanner's scale."""

from __future__ import annotations

from collections.abc import Generator, Iterable
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
from allograft.predictor import Direct, Prediction, Predictor
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage


@dataclass(frozen=True)
class ZScore:
    """At test time, standardise each image on its own and give it the source's mean and standard
    deviation; nothing is trained.

    The network was trained on images prepared as the study says, so the standard score is brought
    to their scale: ``(x - mean) / sd * sd_source + mean_source`` for each channel. Where the study
    standardises every image already (``intensity: zscore``) nothing changes but what a resize
    afterwards took of the spread: the row says that the scale is not what the shift is about. Of a
    sliced volume each slice is an image. Padding is no part of an image: it counts in no mean, and
    moves with the rest.

    Args:
        first: what is adapted.
    """

    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One pass over the source for its statistics."""
        network = (yield from context.run(self.first, scenario, network)).network
        mean, spread = source_statistics(scenario.source)
        yield Stage("adapted", ZScorePredictor(Direct(network), mean, spread), scenario.sites)
        return Carry(network)


def source_statistics(source: Iterable[Cohort]) -> tuple[Tensor, Tensor]:
    """Means over images of each image's mean and standard deviation: (C,) and (C,), float64."""
    each = []
    for cohort in source:
        for whole in cohort.wholes():
            inside = whole.batch.inside()
            seen = inside.flatten(1).any(1)  # not the slices that are all padding
            each.append(statistics(whole.batch.image[seen], inside[seen]))
    mean, spread = (torch.cat(values).mean(0) for values in zip(*each, strict=True))
    return mean, spread


def statistics(image: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1/n) of the pixels ``inside``, (B, 1, *spatial), of (B, C,
    *spatial): (B, C) each, float64."""
    pixels, weight = image.double().flatten(2), inside.double().flatten(2)
    count = weight.sum(2).clamp_min(1)
    mean = (pixels * weight).sum(2) / count
    return mean, ((((pixels - mean[..., None]) ** 2) * weight).sum(2) / count).sqrt()


def standardised(image: Tensor, mean: Tensor, spread: Tensor, inside: Tensor | None = None) -> Tensor:
    """(B, C, *spatial) with ``mean`` and ``spread`` (C,) in every image; one of a single value
    becomes the mean.

    Args:
        inside: (B, 1, *spatial) bool, what counts in an image's own mean and spread; None = all.

    Example:
        >>> standardised(torch.tensor([[[1.0, 3.0]]]), torch.tensor([10.0]), torch.tensor([2.0]))
        tensor([[[ 8., 12.]]])
    """
    if image.shape[1] != len(mean):
        raise SpecError(f"zscore: images have {image.shape[1]} channels, the source {len(mean)}; convert the images")
    own, own_spread = statistics(image, torch.ones_like(image[:, :1], dtype=torch.bool) if inside is None else inside)
    factor = torch.where(own_spread > 0, spread.to(own) / torch.where(own_spread > 0, own_spread, 1.0), 0.0)
    space = (..., *(None,) * (image.ndim - 2))
    moved: Tensor = (image.double() - own[space]) * factor[space] + mean.to(own)[space]
    return moved.to(image.dtype)


@dataclass(frozen=True)
class ZScorePredictor:
    """Predicts the standardised image.

    Args:
        inner: what predicts.
        mean, spread: (C,), the source's.
    """

    inner: Predictor
    mean: Tensor
    spread: Tensor

    sees_whole_images: ClassVar[bool] = True  # their own mean and spread are those of all their pixels

    def __call__(self, batch: Batch) -> Prediction:
        return self.inner(replace(batch, image=standardised(batch.image, self.mean, self.spread, batch.inside())))
