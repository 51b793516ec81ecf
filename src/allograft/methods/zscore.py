"""Standardisation at test time: every target image gets the source's mean and spread; the plainest answer to another scanner's scale."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.predictor import Direct, Prediction, Predictor
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage


@dataclass(frozen=True)
class ZScore:
    """At test time, standardise each image by itself and give it the source's mean and standard deviation; nothing is trained.

    The network was trained on images prepared as the study says, so the standard score is brought to their scale:
    ``(x - mean) / sd * sd_source + mean_source`` for each channel. Where the study standardises every image already (``intensity:
    zscore``) nothing changes: the row says that the scale is not what the shift is about. Of a sliced volume each slice is an image.

    Args:
        first: what is adapted.
    """

    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """One pass over the source for its statistics."""
        network = (yield from context.run(self.first, scenario, network)).network
        mean, spread = source_statistics(scenario.source)
        yield Stage("adapted", ZScorePredictor(Direct(network), mean, spread), scenario.sites)
        return Carry(network)


def source_statistics(source: Iterable[Cohort]) -> tuple[Tensor, Tensor]:
    """Means over images of each image's mean and standard deviation: (C,) and (C,), float64."""
    each = []
    for cohort in source:
        hidden = cohort.unlabelled()
        each += [statistics(hidden.case(index).image) for index in range(len(hidden))]
    mean, spread = (torch.cat(values).mean(0) for values in zip(*each, strict=True))
    return mean, spread


def statistics(image: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (of the pixels at hand, 1/n) of (B, C, *spatial): (B, C) each, float64."""
    pixels = image.double().flatten(2)
    return pixels.mean(2), pixels.std(2, correction=0)


def standardised(image: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """(B, C, *spatial) with ``mean`` and ``spread`` (C,) in every image; one of a single value becomes the mean.

    Example:
        >>> standardised(torch.tensor([[[1.0, 3.0]]]), torch.tensor([10.0]), torch.tensor([2.0]))
        tensor([[[ 8., 12.]]])
    """
    if image.shape[1] != len(mean):
        raise SpecError(f"zscore: images have {image.shape[1]} channels, the source {len(mean)}; convert the images")
    own, own_spread = statistics(image)
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

    def __call__(self, batch: Batch) -> Prediction:
        return self.inner(replace(batch, image=standardised(batch.image, self.mean, self.spread)))
