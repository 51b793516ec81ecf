"""Feather-light Fourier domain adaptation: a test image borrows the low-frequency amplitude of source images (Zakazov et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.methods.supervised import Supervised
from allograft.predictor import Direct, Prediction, Predictor
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.transforms.fourier import crop_or_pad, low_amplitude, swap_amplitude, swap_low_amplitude


@dataclass(frozen=True)
class Fourier:
    """At test time, lend each image the low-frequency amplitude of source donors and average the predictions; nothing is trained.

    The donors are drawn once a run, without replacement, from all source training images. Where the study sets one size for all images
    (``preprocessing: {size: ...}``), only the donors' low-frequency amplitudes are kept, from which no image can be shown. Else the
    donors themselves are, cropped or padded to each image, and the model's card says ``contains_images``.

    Args:
        beta: radius of the swapped disc as a fraction of the image's short side; 0 does nothing. The paper's best averages are 0.01 and
            0.015; below ``1 / short side`` the disc holds the mean alone.
        donors: how many source images lend their style.
        first: what is adapted.
    """

    beta: Annotated[float, Ge(0), Le(0.5)] = 0.01
    donors: Annotated[int, Ge(1)] = 7
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="zakazov2022feather",
        authors="Zakazov, I. and Shaposhnikov, V. and Bespalov, I. and Dylov, D. V.",
        title="Feather-Light Fourier Domain Adaptation in Magnetic Resonance Imaging",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_9",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """Section 3 of the paper with random donors (multi-source transfer)."""
        network = (yield from context.run(self.first, scenario, network)).network
        style = draw_donors(scenario.source, self.donors, context.seeds.rng("donors"))
        one_size = scenario.source[0].shelf.preprocessing.size is not None
        kept = low_amplitude(style, self.beta) if one_size else style
        yield Stage("adapted", FourierPredictor(Direct(network), kept, self.beta, contains_images=not one_size), scenario.sites)
        return Carry(network)


def draw_donors(source: tuple[Cohort, ...], count: int, rng: torch.Generator) -> Tensor:
    """``count`` images of the source cohorts, drawn without replacement: (count, C, *spatial), of the first one's size."""
    places = [(cohort, index) for cohort in source for index in range(len(cohort))]
    chosen = torch.randperm(len(places), generator=rng)[:count].tolist()
    images = [places[i][0].unlabelled().case(places[i][1]).image[0] for i in chosen]
    return torch.stack([crop_or_pad(image, images[0].shape[-2:]) for image in images])


@dataclass(frozen=True)
class FourierPredictor:
    """The mean prediction over versions of an image, one a donor; channels are treated one by one.

    Args:
        inner: what predicts.
        style: (donors, C, ..., rows, columns), the donors' low-frequency amplitudes; with ``contains_images`` the donors themselves,
            (donors, C, ..., H, W), because images of many sizes need them.
        beta: radius of the disc as a fraction of the short side.
        contains_images: whether ``style`` holds patients' images.
    """

    inner: Predictor
    style: Tensor
    beta: float
    contains_images: bool = False

    def __call__(self, batch: Batch) -> Prediction:
        """Probabilities are averaged, as the paper does; what is returned is their logarithm."""
        if self.beta == 0:
            return self.inner(batch)
        total: dict[str, Tensor] = {}
        for style in self.style.to(batch.image.device):
            for key, logits in self.inner(replace(batch, image=self._swapped(batch.image, style))).items():
                total[key] = total.get(key, torch.zeros(())) + logits.float().softmax(1) / len(self.style)
        return {key: probabilities.clamp_min(1e-12).log() for key, probabilities in total.items()}

    def _swapped(self, image: Tensor, style: Tensor) -> Tensor:
        if self.contains_images:
            return swap_amplitude(image, crop_or_pad(style, image.shape[-2:]), self.beta)
        return swap_low_amplitude(image, style, self.beta)
