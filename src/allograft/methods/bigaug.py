"""BigAug: nine stacked transformations, so that images of one site look like those of many (Zhang
et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Generator as Running
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Le
from torch import Generator, Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints
from allograft.transforms.augmentation import Draw, blur, gamma_corrected
from allograft.transforms.free_form import deform
from allograft.transforms.sample import Sample

NINE: Mapping[str, tuple[float, float]] = {
    "sharpness": (10.0, 30.0),
    "blurriness": (0.25, 1.5),
    "noise": (0.1, 1.0),
    "brightness": (-0.1, 0.1),
    "contrast": (0.5, 4.5),
    "perturbation": (-0.1, 0.1),
    "rotation": (-20.0, 20.0),
    "scale": (0.4, 1.6),
    "deformation": (0.0, 1000.0),
}
"""The paper's transformations in its order, and between which numbers each is drawn (section III):
the strength of unsharp masking; the sigma of a Gaussian blur in pixels; the standard deviation of
the noise; a shift; the exponent gamma; scale and shift of the intensities; degrees; magnification;
the factor of the displacements. Taken from two public re-implementations; the paper itself was not
at hand."""
SMOOTHING = (10.0, 13.0)
"""Sigma, in pixels, of the Gaussian that smooths the displacements."""


@dataclass(frozen=True)
class Drawn:
    """The parameters of one image's transformations; the defaults change nothing.

    Args:
        sharpness: alpha, and the two sigmas in pixels, of ``sharpened``.
        blurriness: sigma of a Gaussian blur in pixels.
        noise: standard deviation, as brightness and the shift in units of the channel's own.
        brightness: added.
        contrast: gamma, on each channel mapped to [0, 1].
        perturbation: what the deviation from the mean grows by, and a shift.
        angles: degrees, one in 2-D, three in 3-D.
        scale: magnification.
        deformation: alpha and sigma of ``displacement``.
    """

    sharpness: tuple[float, float, float] | None = None
    blurriness: float = 0.0
    noise: float = 0.0
    brightness: float = 0.0
    contrast: float = 1.0
    perturbation: tuple[float, float] = (0.0, 0.0)
    angles: tuple[float, ...] = ()
    scale: float = 1.0
    deformation: tuple[float, float] | None = None


def draw_nine(dims: int, probability: float, rng: Generator) -> Drawn:
    """Each transformation with this probability, its numbers uniform in ``NINE``; ``rng`` advances
    by the same amount whatever the outcome.

    >>> draw_nine(2, 0.0, torch.Generator()) == Drawn()
    True
    """
    gates = dict(zip(NINE, (torch.rand(len(NINE), generator=rng) < probability).tolist(), strict=True))
    shares = torch.rand(15, generator=rng, dtype=torch.float64).tolist()

    def between(limits: tuple[float, float]) -> float:
        return limits[0] + (limits[1] - limits[0]) * float(shares.pop())

    drawn = {name: between(limits) for name, limits in NINE.items()}
    angles = [drawn["rotation"], between(NINE["rotation"]), between(NINE["rotation"])]
    values: dict[str, object] = {
        **drawn,
        "sharpness": (drawn["sharpness"], between(NINE["blurriness"]), between(NINE["blurriness"])),
        "perturbation": (drawn["perturbation"], between(NINE["perturbation"])),
        "angles": tuple(angles[: 1 if dims == 2 else 3]),
        "deformation": (drawn["deformation"], between(SMOOTHING)),
    }
    gates["angles"] = gates.pop("rotation")
    return Drawn(**{name: values[name] for name, is_open in gates.items() if is_open})  # type: ignore[arg-type]


def sharpened(image: Tensor, alpha: float, first: float, second: float) -> Tensor:
    """Unsharp masking: ``b + alpha (b - G(b))`` with b the image blurred by ``first`` pixels and G
    a blur of ``second``: (C, *spatial)."""
    base = blur(image, first)
    return base + alpha * (base - blur(base, second))


def displacement(noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """``alpha`` times noise in [-1, 1] smoothed by a Gaussian: (D, *spatial) in pixels."""
    return alpha * blur(noise, sigma)


def changed(image: Tensor, drawn: Drawn, rng: Generator) -> Tensor:
    """The image's intensities under the first six transformations, in the paper's order: (C,
    *spatial)."""
    axes = tuple(range(1, image.ndim))
    unit = image.std(axes, keepdim=True, correction=0)
    if drawn.sharpness is not None:
        image = sharpened(image, *drawn.sharpness)
    if drawn.blurriness:
        image = blur(image, drawn.blurriness)
    if drawn.noise:
        image = image + drawn.noise * unit * torch.randn(image.shape, generator=rng, dtype=image.dtype)
    image = image + drawn.brightness * unit
    if drawn.contrast != 1:
        image = gamma_corrected(image, drawn.contrast)
    growth, shift = drawn.perturbation
    mean = image.mean(axes, keepdim=True)
    return image + growth * (image - mean) + shift * unit


@dataclass(frozen=True)
class Stacked:
    """A random crop of ``patch`` (the whole image when None) under the nine transformations.

    Args:
        probability: of each.
        patch: size of the crop.
    """

    probability: float
    patch: tuple[int, ...] | None = None

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1. Masks, made images and the region move with the image."""
        dims = case.image.ndim - 2
        return self.of(case, draw_nine(dims, self.probability, rng), rng)

    def of(self, case: Batch, drawn: Drawn, rng: Generator) -> Batch:
        """The crop under these parameters."""
        moved = Sample(patch=self.patch).drawn(case, Draw(drawn.angles, math.log(drawn.scale)), rng)
        image, size = moved.image[0], moved.image.shape[2:]
        maps = {key: value[0] for key, value in moved.labels.items() if isinstance(value, Tensor) and value.ndim > 2}
        if moved.region is not None:
            maps["region"] = moved.region[0]
        if drawn.deformation is not None:
            noise = 2 * torch.rand(len(size), *size, generator=rng) - 1
            image, maps = deform(image, maps, displacement(noise, *drawn.deformation))
        region = maps.pop("region", None)
        return replace(
            moved,
            image=changed(image, drawn, rng)[None],
            labels={**moved.labels, **{key: value[None] for key, value in maps.items()}},
            region=None if region is None else region[None],
        )


@dataclass(frozen=True)
class BigAug:
    """Train on the source sites with nine transformations stacked on each image, in the place of
    the study's augmentation (deep stacked transformation).

    Each is applied with ``probability``, in the paper's order and ranges (``NINE``): sharpness,
    blurriness, noise; brightness, contrast, perturbation of the intensities; rotation, scale,
    deformation. ``docs/howto/augmentation.md`` compares them with ``augmentation: strong`` and with
    nnU-Net's.

    Where we differ: pixels are moved first, rotation and scale in one resampling, so that noise is
    not interpolated; what the paper adds to images of unit spread is in units of the channel's own
    standard deviation, so that it means the same whatever ``preprocessing.intensity``;
    displacements are drawn for the crop.

    Args:
        probability: of each transformation; at 0 nothing is left but the crop.
        first: what the training begins with; None = the study's start.
    """

    probability: Annotated[float, Ge(0), Le(1)] = 0.5
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="zhang2020generalizing",
        authors="Zhang, L. and Wang, X. and Yang, D. and Sanford, T. and Harmon, S. and Turkbey, B. and Wood, B. J. "
        "and Roth, H. and Myronenko, A. and Xu, D. and Xu, Z.",
        title="Generalizing Deep Learning for Medical Image Segmentation to Unseen Domains via Deep Stacked "
        "Transformation",
        venue="IEEE Transactions on Medical Imaging",
        year=2020,
        doi="10.1109/TMI.2020.2973595",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a detector: a box does not follow a deformation."""
        if "boxes" in context.supervised_task.outputs:
            raise SpecError(
                "bigaug: deforms images, which boxes cannot follow; use {supervised: {augmentation: strong}}"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Running[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        stacked = Stacked(self.probability, context.settings.patch)
        batches = context.loader(scenario.source, "source", transform=stacked)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
