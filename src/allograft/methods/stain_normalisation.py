"""Stain normalisation: every image is recoloured in the stains of one source image, in training and
at test time."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.parts.stain_figure import stained_images
from allograft.parts.white_level import white_level
from allograft.predictor import Direct, Prediction, Predictor
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints
from allograft.transforms.stain_separation import Separation, Stains, find_stains, restain


@dataclass(frozen=True)
class StainNormalisation:
    """Train on source images recoloured to one of them, and recolour each test image likewise
    (Vahadane et al. 2016; Macenko et al. 2009).

    The reference is drawn once a run from the source images that show tissue. An image without
    tissue is left as it is. The network, its loss and its training are those of ``supervised``.
    Colours must be as stored: ``intensity: none``. Normalisers by generative networks (STST and
    DSCSI GAN in the table of Raipuria et al. 2022) are not built.

    Where we differ from Macenko et al.: amounts are not negative, and the direction of a stain
    neither.

    Args:
        method: vahadane (sparse non-negative factors of the optical density) or macenko (extreme
            angles in its main plane).
    """

    method: Separation = "vahadane"

    paper: ClassVar[Paper | None] = Paper(
        key="vahadane2016structure",
        authors="Vahadane, A. and Peng, T. and Sethi, A. and Albarqouni, S. and Wang, L. and Baust, M. and Steiger, K. "
        "and Schlitter, A. M. and Esposito, I. and Navab, N.",
        title="Structure-Preserving Color Normalization and Sparse Stain Separation for Histological Images",
        venue="IEEE Transactions on Medical Imaging",
        year=2016,
        doi="10.1109/TMI.2016.2529665",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for images that are no RGB, or whose colours were changed."""
        white_level(scenario.source, "stain_normalisation")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on recoloured source batches; the stains of each image are found
        once."""
        network.train()
        white = white_level(scenario.source, "stain_normalisation")
        stains = context.once("stains", lambda: source_stains(scenario.source, self.method, white))
        reference = draw_reference(stains, context.seeds.rng("reference"))
        batches = context.loader(scenario.source, "source")
        recoloured = Recoloured(batches.transform, self.method, white, reference, stains)
        batches = replace(batches, transform=recoloured)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, steps=steps)
        predictor = StainNormalised(Direct(network), self.method, reference.vectors, reference.most, white)
        stage = Stage("trained", predictor, scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        views = {str(self.method): lambda cases: [recoloured.recoloured(case).image for case in cases]}
        context.show("recoloured", stained_images("source images recoloured", scenario.source, views, white))
        yield stage
        return Carry(network, named_state(step.optimizer, network))


def source_stains(cohorts: Sequence[Cohort], method: Separation, white: float) -> dict[str, Tensor]:
    """Case name -> (3, 3): two stains and, below them, their largest amounts and 0; (0, 3) for an
    image without tissue."""
    by_case = {}
    for cohort in cohorts:
        hidden = cohort.unlabelled()
        for index in range(len(hidden)):
            case = hidden.case(index)
            stains = find_stains(case.image[0] / white, method)
            by_case[case.cases[0]] = (
                torch.zeros(0, 3, dtype=torch.float64)
                if stains is None
                else torch.cat([stains.vectors, _row(stains.most)])
            )
    return by_case


def draw_reference(stains: Mapping[str, Tensor], rng: torch.Generator) -> Stains:
    """The stains of one image, drawn from those that have any. ``SpecError`` when none has."""
    names = sorted(name for name, table in stains.items() if len(table))
    if not names:
        raise SpecError(
            "stain_normalisation: no source image shows stained tissue; check that the images are H&E in RGB"
        )
    chosen = _stains(stains[names[int(torch.randint(len(names), (), generator=rng))]])
    assert chosen is not None
    return chosen


@dataclass(frozen=True)
class Recoloured:
    """A loader's transform that recolours a case first.

    Args:
        then: crop and augmentation.
        method, white, reference: as in ``StainNormalised``.
        found: case name -> its stains, as ``source_stains`` has them.
    """

    then: Transform | None
    method: Separation
    white: float
    reference: Stains
    found: Mapping[str, Tensor] = field(repr=False)

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        case = self.recoloured(case)
        return case if self.then is None else self.then(case, rng)

    def recoloured(self, case: Batch) -> Batch:
        """The case in the reference's stains; as it is where it shows no tissue."""
        own = _stains(self.found[case.cases[0]])
        image = (
            restain(case.image[0] / self.white, own, self.reference, self.method) * self.white if own else case.image[0]
        )
        return replace(case, image=image[None])


@dataclass(frozen=True)
class StainNormalised:
    """Recolours each image before it is predicted.

    Args:
        inner: what predicts.
        method: macenko or vahadane.
        vectors, most: the reference's stains, see ``Stains``; no image can be made of them.
        white: the value of white in the images.
    """

    inner: Predictor
    method: Separation
    vectors: Tensor
    most: Tensor
    white: float

    sees_whole_images: ClassVar[bool] = True  # their stains are found in all their pixels

    def __call__(self, batch: Batch) -> Prediction:
        """Images are treated one by one, on the CPU."""
        reference, method = Stains(self.vectors.cpu(), self.most.cpu()), self.method
        images = []
        for image in batch.image.cpu():
            own = find_stains(image / self.white, method)
            images.append(restain(image / self.white, own, reference, method) * self.white if own else image)
        return self.inner(replace(batch, image=torch.stack(images).to(batch.image.device)))


def _row(most: Tensor) -> Tensor:
    return torch.cat([most, most.new_zeros(1)])[None]


def _stains(table: Tensor) -> Stains | None:
    return Stains(table[:2], table[2, :2]) if len(table) else None
