"""Contrastive pre-training: restore two views of an image, and tell it from others (Mamalakis et
al. 2024)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort.orders import OnePerSubject, by_subject
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, reheaded
from allograft.nn.contrastive import nt_xent
from allograft.nn.ssim import Ssim
from allograft.parts.paired_batches import gathered, of_all
from allograft.parts.pool import steps_of
from allograft.parts.pretexts import (
    PAPER,
    check_pool,
    dropping_step,
    held_out,
    restoration_loss,
    restored_by,
    restored_stage,
    restorer,
    with_range,
)
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.sample import Sample, crop_centre

SECOND = "second view"
"""The other view of each image of a batch."""


@dataclass(frozen=True)
class TwoViews:
    """Two random views of one crop of a case: as the batch's image, and under ``SECOND``.

    Args:
        strength: of the augmentation: light or strong.
        patch: size of the crop; None = the whole image.
    """

    strength: str
    patch: tuple[int, ...] | None

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        sample = Sample(self.strength, self.patch, centre=crop_centre(case.image.shape[2:], self.patch, rng))
        first, second = sample(case, rng), sample(case, rng)
        return with_range(replace(first, views={**first.views, SECOND: second.image}), case)


@dataclass(frozen=True)
class Contrastive:
    """Pre-train on the images of the pool: restore two views of each by 1 - SSIM, and have their
    pooled bottlenecks alike and unlike those of other images by NT-Xent (eqs. 7 and 8).

    Both views go through the network, so that a step costs two of ``reconstruction``; the paper
    halves the batch to 4 for that. Views are of one crop, drawn in the loader. A batch shows each
    subject once, but where two passes over the pool meet. The paper names neither how views are
    made, nor the temperature, nor where the embedding is taken: all three are ours.

    Args:
        temperature: t of eq. 7.
        augmentation: light or strong, of the views; other rows have the study's.
        epochs, drop, held_out, ssim: as of ``reconstruction``.
    """

    temperature: Annotated[float, Gt(0)] = 0.5
    augmentation: Literal["light", "strong"] = "strong"
    epochs: Annotated[int, Ge(1)] | None = None
    drop: Annotated[float, Gt(0), Le(1)] = 0.5
    held_out: Annotated[float, Ge(0), Lt(1)] = 2 / 9
    ssim: Ssim = field(default_factory=Ssim)

    paper: ClassVar[Paper | None] = PAPER
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` as ``check_pool``, and for a batch that has no negatives or repeats a
        subject."""
        check_pool("contrastive", scenario, network, context, share=self.held_out, settings=self.ssim)
        training, _ = held_out(scenario.pool, self.held_out, context.seeds.seed)
        subjects, size = len(by_subject(training)), context.batch_size
        if not 2 <= size <= subjects:
            raise SpecError(
                f"contrastive: a batch of {size} from {subjects} subjects; expected 2 to {subjects}, so that an image "
                "has negatives and none of them shows its own subject; set budget.batch_size"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Eq. 8 on batches of the pool, in two views each."""
        training, validating = held_out(scenario.pool, self.held_out, context.seeds.seed)
        restoring = restorer(network, training, context)
        order = OnePerSubject(by_subject(training), context.batch_size, context.loader_seeds("pool"))
        views = TwoViews(self.augmentation, context.settings.patch)
        batches = context.loader(training, "pool", order=order, transform=views)
        steps = steps_of(context, self.epochs, batches.epoch)
        step = dropping_step(restoring, self.objective, context, steps, self.drop)
        train(step, batches, steps=steps, context=context)

        def restore(batch: Batch) -> Tensor:
            return restored_by(restoring, batch.image)

        lengths = steps, batches.epoch
        yield restored_stage(restore, validating, context, self.ssim, lengths, sites=scenario.sites)
        return Carry(reheaded(restoring, {})[0])

    def objective(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Eq. 8; 1 - SSIM is the mean of both views'."""
        assert isinstance(network, Network)
        assert network.decoder is not None
        images = torch.cat([batch.image, batch.views[SECOND]])
        features = network.encoder(images)
        restored = network.heads["paired"](features, network.decoder(features)).chunk(2)
        missed = [
            restoration_loss(made, image, batch, self.ssim)
            for made, image in zip(restored, images.chunk(2), strict=True)
        ]
        first, second = features[-1].float().flatten(2).mean(2).chunk(2)
        return {
            "restoration": (missed[0] + missed[1]) / 2,
            "contrast": of_all(nt_xent(gathered(first), gathered(second), self.temperature)),
        }
