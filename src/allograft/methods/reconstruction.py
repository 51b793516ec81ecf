"""Reconstruction: pre-train a network to give back its input (Mamalakis et al. 2024)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.networks import AnyNetwork, reheaded
from allograft.nn.ssim import Ssim
from allograft.parts.pool import steps_of
from allograft.parts.pretexts import (
    PAPER,
    Ranged,
    check_pool,
    dropping_step,
    held_out,
    restoration_loss,
    restored_by,
    restored_stage,
    restorer,
)
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.sample import Sample


@dataclass(frozen=True)
class Reconstruction:
    """Pre-train on the images of the pool: the network's image is to be its input by 1 - SSIM.

    No label is seen, and nothing is evaluated: what is left are the weights of encoder and decoder,
    for a recipe that has this one as its ``first``. Some subjects of the pool are held out; how
    well their images are restored is written into the stage's record and shown.

    The paper trains Swin-UNETR of 24 or 12 features on patches of 64^3 for 600 epochs, Adam with a
    learning rate of 5e-3 and a weight decay of 1e-4; here network, patch, optimizer and budget are
    the study's. Its eq. 1 names neither the window nor the constants of SSIM, nor the range. SSIM
    is meant for intensities from 0 on: ``preprocessing: {intensity: minmax}``.

    Args:
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        drop: the learning rate is divided by 10 after this share of the steps; 1 keeps it. Where
            the study names a schedule, that is followed instead.
        held_out: share of the pool's subjects that validate. The paper splits 70 / 20 / 10 %; of
            the 90 % that are not tested, 2 / 9 validate.
        ssim: window and constants of SSIM, ours; its range is that of each complete image.
    """

    epochs: Annotated[int, Ge(1)] | None = None
    drop: Annotated[float, Gt(0), Le(1)] = 0.5
    held_out: Annotated[float, Ge(0), Lt(1)] = 2 / 9
    ssim: Ssim = field(default_factory=Ssim)

    paper: ClassVar[Paper | None] = PAPER
    needs: ClassVar[Needs] = Needs(pool=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a pool or a network that this cannot be done with; see
        ``check_pool``."""
        check_pool("reconstruction", scenario, network, context, share=self.held_out, settings=self.ssim)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Eq. 3 on batches of the pool."""
        training, validating = held_out(scenario.pool, self.held_out, context.seeds.seed)
        restoring = restorer(network, training, context)
        sample = Sample(context.settings.augmentation, context.settings.patch)
        batches = context.loader(training, "pool", transform=Ranged(sample))
        steps = steps_of(context, self.epochs, batches.epoch)
        step = dropping_step(restoring, self.objective, context, steps, self.drop)
        train(step, batches, steps=steps, context=context)

        def restore(batch: Batch) -> Tensor:
            return restored_by(restoring, batch.image)

        lengths = steps, batches.epoch
        yield restored_stage(restore, validating, context, self.ssim, lengths, sites=scenario.sites)
        return Carry(reheaded(restoring, {})[0])

    def objective(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Eq. 2: 1 - SSIM of what the network makes of an image and the image."""
        return {"restoration": restoration_loss(network(batch.image)["paired"], batch.image, batch, self.ssim)}
