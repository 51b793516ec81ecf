"""Feather-light Fourier domain adaptation: a test image borrows the low-frequency amplitude of
source images (Zakazov et al. 2022).

The paper's table 2 compares it (mean surface Dice over six pairs of sites 0.68 to 0.72, do-nothing
0.60) with a CycleGAN (0.60), which is the recipe ``cyclegan`` here, and with StyleSegor (0.60),
StyleGAN (0.54) and fast artistic stylisation (0.14), which are not built.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.figure import Lines
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.parts.beta_search import GRID, averaged_beta, beta_grid, curve, short_side
from allograft.parts.donors import Donors, Search, Spectra, draw_donors, source_scans
from allograft.parts.versions import mean_prediction
from allograft.predictor import Direct, Prediction, Predictor
from allograft.predictor.whole import CHUNK
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage, title, total_needs
from allograft.transforms.fourier import (
    crop_or_pad,
    cut_low_amplitude,
    low_amplitude,
    swap_kept_amplitude,
    swap_low_amplitude,
)


@dataclass(frozen=True)
class Fourier:
    """At test time, lend each image the low-frequency amplitude of source donors and average the
    predictions; nothing is trained.

    Where the study sets one size for all images (``preprocessing: {size: ...}``), of a donor only
    the low-frequency amplitudes are kept, from which no image can be shown; else the donor itself
    is, cropped or padded to each image. A search keeps a saliency and a gradient map of every
    source image besides. The model's card says ``contains_images`` in both cases.

    Args:
        beta: radius of the swapped disc as a fraction of the image's short side, 0 to 0.5; 0 does
            nothing, and below ``1 / short side`` the disc holds the mean alone. The paper's
            averaged optimum is 0.01 for ``2d`` and ``2.5d``, 0.015 for ``3d``, 0.005 for one or
            seven random donors. ``per-pair``: the best of ``beta_grid`` on the target's labelled
            cases, those of the study's label budget. ``averaged``: one beta for all target sites of
            the study, the best mean over them. Equal scores go to the smaller beta.
        donors: how many source images lend their style.
        search: how donors are found, see ``Donors``. ``random`` draws them once a run, without
            replacement. The paper finds ``3d``, ``2d`` and ``2.5d`` alike; its ablation has ``2d``,
            which needs a single slice of the target at a time, where ``3d`` needs all.
        show_images: show training images of the target as they are predicted, next to the source's
            (fig. 3); the recipe then sees the target's training images.
        first: what is adapted.
    """

    beta: float | Literal["per-pair", "averaged"] = 0.01
    donors: Annotated[int, Ge(1)] = 7
    search: Literal["random"] | Search = "2d"
    show_images: bool = False
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="zakazov2022feather",
        authors="Zakazov, I. and Shaposhnikov, V. and Bespalov, I. and Dylov, D. V.",
        title="Feather-Light Fourier Domain Adaptation in Magnetic Resonance Imaging",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_9",
    )

    def __post_init__(self) -> None:
        if not isinstance(self.beta, str) and not 0 <= self.beta <= 0.5:
            raise SpecError(
                f"fourier: beta is {self.beta}; expected a fraction of the short side from 0 to 0.5, per-pair or "
                "averaged"
            )
        tuned = total_needs(self.first)
        if self.beta == "averaged" and (tuned.target_images or tuned.target_labels or tuned.all_target_labels):
            message = f"beta averaged is one model for all targets, and first, '{title(self.first)}', is adapted to one"
            raise SpecError(f"fourier: {message}; choose per-pair, or a first that sees no target")

    @property
    def needs(self) -> Needs:
        """Source images; target labels where beta is chosen on them, those of all targets for one
        beta."""
        return Needs(
            source_images=True,
            target_images=self.show_images,
            target_labels=isinstance(self.beta, str),
            every_target=self.beta == "averaged",
        )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 3 of the paper: f_FDA(s, t) with the donors s of each slice t, and the mean
        prediction over them."""
        network = (yield from context.run(self.first, scenario, network)).network
        labelled = [cohort for cohort in scenario.target if cohort.has_labels] if isinstance(self.beta, str) else []
        grid = beta_grid(short_side(labelled)) if isinstance(self.beta, str) else (self.beta,)
        build = self.style(scenario.source, max(grid), context)

        def adapted(beta: float) -> FourierPredictor:
            return build(Direct(network), beta)

        beta = self.chosen(labelled, grid, adapted, context) if isinstance(self.beta, str) else self.beta
        if self.show_images and beta > 0:
            show_adapted(scenario, adapted(beta), context)
        yield Stage("adapted", adapted(beta), scenario.sites)
        return Carry(network)

    def style(
        self, source: tuple[Cohort, ...], largest: float, context: Context
    ) -> Callable[[Predictor, float], FourierPredictor]:
        """What is kept of the donors, as predictors for any beta up to ``largest``."""
        one_size = source[0].prepared.preprocessing.size is not None
        several = context.supervised_task.coding.several
        donors = None
        if self.search == "random":
            images = draw_donors(source, self.donors, context.seeds.rng("donors"))
        else:
            scans = list(source_scans(source, "fourier"))
            donors = Donors.from_scans(scans, self.search, self.donors, sliced=source[0].slices is not None)
            images = torch.cat([crop_or_pad(scan, donors.compared) if not one_size else scan for scan in scans])
        size = (images.shape[-2], images.shape[-1])
        if 0 < largest * min(size) <= 1:
            message = (
                f"beta {largest} is a radius of {largest * min(size):.2f} pixels of images of {min(size)}, so the "
                "mean alone is swapped"
            )
            warnings.warn(f"fourier: {message}; a beta above {1 / min(size):.3f} swaps more", stacklevel=2)
        kept = low_amplitude(images, largest) if one_size else images

        def build(inner: Predictor, beta: float) -> FourierPredictor:
            style = cut_low_amplitude(kept, size, beta) if one_size else kept
            return FourierPredictor(inner, style, beta, not one_size, several, donors)

        return build

    def chosen(
        self,
        labelled: Sequence[Cohort],
        grid: Sequence[float],
        adapted: Callable[[float], FourierPredictor],
        context: Context,
    ) -> float:
        """The best beta of the grid on labelled target cases; its curve goes into the report."""
        parts = {
            name: cohort.site(name) for cohort in labelled for name in sorted({case.site for case in cohort.cases})
        }
        if self.beta == "per-pair" and len(parts) > 1:
            raise SpecError(
                f"fourier: beta per-pair is for one target, here are {', '.join(parts)}; name one target, or choose "
                "averaged"
            )
        curves = context.once(
            "beta", lambda: {name: curve(adapted, grid, part, context) for name, part in parts.items()}
        )
        headline = context.supervised_task.headline
        mean_alone = (
            f"; up to {1 / side:.3f} only the mean is swapped" if (side := short_side(labelled)) * GRID[1] <= 1 else ""
        )
        figure = Lines(
            f"{headline} on labelled target cases{mean_alone}",
            tuple(grid),
            curves,
            "beta, radius / short side",
            headline,
        )
        context.show("beta", figure)
        return averaged_beta(figure)


def show_adapted(scenario: Scenario, predictor: FourierPredictor, context: Context) -> None:
    """Keep a figure of target training images in the low-frequency amplitude of their first donor,
    found for each slice by itself."""

    def first_version(batch: Batch) -> Tensor:
        return predictor.versions(context.fabric.to_device(batch.unlabelled()))[:, 0]

    changed = ("target", middle_items(scenario.target), first_version)
    title = f"target images in the style of one donor, beta {predictor.beta:g}"
    context.show("adapted", changed_images(title, changed, ("source", middle_items(scenario.source))))


@dataclass(frozen=True)
class FourierPredictor:
    """The mean prediction over versions of an image, one a donor; channels are swapped one by one.

    Args:
        inner: what predicts.
        style: (N, C, ..., rows, columns), low-frequency amplitudes; with ``contains_images`` the
            donors themselves, (N, C, ..., H, W), because images of many sizes need them. With
            ``donors`` those of single slices, without all lend their style to every image.
        beta: radius of the disc as a fraction of the short side.
        contains_images: whether ``style`` holds patients' images.
        several: whether the classes of a label are questions of their own (multi-label).
        donors: finds the slices of ``style`` that lend it to an image; None for all.
    """

    inner: Predictor
    style: Tensor
    beta: float
    contains_images: bool = False
    several: bool = False
    donors: Donors | None = None

    def __call__(self, batch: Batch) -> Prediction:
        """``sum_i net(f_FDA(s_i, t)) / n`` over probabilities; what is returned is their logarithm
        (a log-odds where ``several``).

        Raises:
            SpecError: images with other channels, or another number of slices, than the donors.
        """
        if self.beta == 0:
            return self.inner(batch)
        if self.donors is None:
            return self._styled(batch, self._of(torch.arange(len(self.style))[None], batch))
        nearest, spans = (
            self.donors.nearest(batch),
            [slice(start, start + CHUNK) for start in range(0, len(batch), CHUNK)],
        )
        parts = [self._styled(batch[span], self._of(nearest[span], batch)) for span in spans]
        return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}

    @property
    def sees_whole_cases(self) -> bool:
        """Whether the slices of a scan must come together: their donors are one choice."""
        return self.beta > 0 and self.donors is not None and self.donors.sliced and self.donors.search == "3d"

    @property
    def sees_whole_images(self) -> bool:
        """Whether images must come whole: the amplitude that is swapped is that of all of their
        pixels."""
        return self.beta > 0

    @cached_property
    def _spectra(self) -> Spectra:
        return Spectra(self.style, self.beta)

    def _of(self, donors: Tensor, batch: Batch) -> Tensor:
        """Amplitudes (B, donors, C, ..., rows, columns) of donors (B, donors), or of volumes' (B,
        donors, D), one a slice."""
        device, size = batch.image.device, (batch.image.shape[-2], batch.image.shape[-1])
        amplitude = self._spectra.of(donors, size, device) if self.contains_images else self.style[donors].to(device)
        return amplitude.transpose(2, 3) if donors.ndim == 3 else amplitude

    def versions(self, batch: Batch) -> Tensor:
        """The images in the style of each donor, as predicted: (B, donors, C, *spatial)."""
        every = torch.arange(len(self.style))[None]
        return self._swapped(batch, self._of(every if self.donors is None else self.donors.nearest(batch), batch))

    def _styled(self, batch: Batch, style: Tensor) -> dict[str, Tensor]:
        """The mean prediction under styles (B or 1, donors, C, ..., rows, columns)."""
        return mean_prediction(self.inner, batch, self._swapped(batch, style), several=self.several)

    def _swapped(self, batch: Batch, style: Tensor) -> Tensor:
        if style.shape[2:-2] != batch.image.shape[1:-2]:
            styled = (
                f"images have (channels, slices) {tuple(batch.image.shape[1:-2])}, donors {tuple(style.shape[2:-2])}"
            )
            raise SpecError(f"fourier: {styled}; prepare the images as the donors were")
        swap = swap_kept_amplitude if self.contains_images else swap_low_amplitude
        return swap(batch.image[:, None], style, self.beta)
