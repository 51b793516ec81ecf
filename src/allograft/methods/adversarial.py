"""Adversarial pre-training: restore images so that a critic takes them for real (Mamalakis et al.
2024)."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, rebuildable, reheaded
from allograft.nn.critic import Critic
from allograft.nn.ssim import Ssim
from allograft.parts.pool import steps_of
from allograft.parts.pretexts import (
    PAPER,
    Ranged,
    check_pool,
    dropped,
    held_out,
    restoration_loss,
    restored_by,
    restored_stage,
    restorer,
)
from allograft.predictor import evaluation_mode
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule
from allograft.step import Terms, average_buffers, descend
from allograft.train import train
from allograft.transforms.sample import Sample

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Turns = Literal["divisible", "alternate"]


def critic_loss(fake: Tensor, real: Tensor) -> Tensor:
    """Eq. 4: the mean of the binary cross-entropies of logits (B, 1) of made images, whose truth is
    0, and of real ones, whose truth is 1.

    >>> critic_loss(torch.zeros(2, 1), torch.zeros(2, 1))  # log 2
    tensor(0.6931)
    """
    return (_cross_entropy(fake, 0.0) + _cross_entropy(real, 1.0)) / 2


def generator_loss(fake: Tensor) -> Tensor:
    """Eq. 5: the binary cross-entropy of logits (B, 1) of made images with the truth 1.

    >>> generator_loss(torch.tensor([[50.0]])).item() < 1e-6
    True
    """
    return _cross_entropy(fake, 1.0)


def _cross_entropy(logits: Tensor, truth: float) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth))


def learns_in(epoch: int, period: int, turns: Turns) -> tuple[bool, bool]:
    """Whether generator and critic are updated in an epoch, counted from 1.

    ``divisible``, the paper's words: the generator where ``period`` divides the epoch, the critic
    where ``period + 1`` does; so both in some epochs, and neither in others where period > 1.
    ``alternate``: of each ``period + 1`` epochs the last is the critic's, the others the
    generator's.

    >>> [learns_in(epoch, 1, "divisible") for epoch in (1, 2, 3)]
    [(True, False), (True, True), (True, False)]
    >>> [learns_in(epoch, 1, "alternate") for epoch in (1, 2, 3)]
    [(True, False), (False, True), (True, False)]
    """
    critic = epoch % (period + 1) == 0
    return (not critic if turns == "alternate" else epoch % period == 0), critic


@dataclass
class TurnsStep:
    """Generator and critic, each updated in its own epochs.

    Args:
        network, critic: what is trained.
        optimizers, schedules: of the network and of the critic.
        recipe: its losses and turns.
        fabric: autocast and backward.
        epoch: steps per epoch.
        clip: the largest gradient norm of either.
        number: steps so far.
    """

    network: AnyNetwork
    critic: nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    schedules: tuple[Schedule | None, Schedule | None]
    recipe: Adversarial
    fabric: Fabric
    epoch: int
    clip: float | None
    number: int = 0

    def __call__(self, batch: Batch) -> Terms:
        generates, criticises = learns_in(self.number // self.epoch + 1, self.recipe.period, self.recipe.turns)
        self.number += 1
        # where it does not learn, its running statistics stay too
        still = nullcontext() if generates else evaluation_mode(self.network, self.critic)
        with still, self.fabric.autocast():
            made = self.network(batch.image)["paired"].float()
            missed = restoration_loss(made, batch.image, batch, self.recipe.ssim)
            fooled = self.recipe.weight * generator_loss(self.critic(made).float())
        if generates:
            descend(missed + fooled, self.optimizers[0], self.fabric, schedule=self.schedules[0], clip=self.clip)
            average_buffers(self.network)
        with torch.set_grad_enabled(criticises), self.fabric.autocast():
            caught = critic_loss(self.critic(made.detach()).float(), self.critic(batch.image).float())
        if criticises:
            descend(caught, self.optimizers[1], self.fabric, schedule=self.schedules[1], clip=self.clip)
        return {"restoration": missed.detach(), "fooled": fooled.detach(), "critic": caught.detach()}


@dataclass(frozen=True)
class Adversarial:
    """Pre-train on the images of the pool: restore them by 1 - SSIM so that a critic, trained in
    turn, takes the restorations for real (eqs. 4 to 6).

    The paper gives neither the critic nor the weight of eq. 5 against eq. 6: the critic is that of
    ``nn.critic``, the weight 1. Its critic "is backpropagated every n + 1 epochs, generator and
    total loss every n": read as the epochs that n + 1 and n divide, counted from 1. A learning rate
    that falls does so over the updates of each. The critic is left in ``Carry.parts``.

    Args:
        period: n.
        turns: ``divisible``, as the paper is read here, or ``alternate``; see ``learns_in``.
        weight: of eq. 5.
        widths: channels of the critic's convolutions.
        epochs, drop, held_out, ssim: as of ``reconstruction``.
    """

    period: Annotated[int, Ge(1)] = 1
    turns: Turns = "divisible"
    weight: Annotated[float, Gt(0)] = 1.0
    widths: tuple[int, ...] = (16, 32, 64)
    epochs: Annotated[int, Ge(1)] | None = None
    drop: Annotated[float, Gt(0), Le(1)] = 0.5
    held_out: Annotated[float, Ge(0), Lt(1)] = 2 / 9
    ssim: Ssim = field(default_factory=Ssim)

    paper: ClassVar[Paper | None] = PAPER
    needs: ClassVar[Needs] = Needs(pool=True)

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1:
            raise SpecError(f"adversarial: widths is {list(self.widths)}; expected channels, each at least 1")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` as ``check_pool``, and for a budget in which the critic never
        learns."""
        check_pool("adversarial", scenario, network, context, share=self.held_out, settings=self.ssim)
        training, _ = held_out(scenario.pool, self.held_out, context.seeds.seed)
        epoch = context.loader(training, "pool").epoch
        reached = -(-steps_of(context, self.epochs, epoch) // epoch)
        if reached <= self.period:
            raise SpecError(
                f"adversarial: the critic first learns in epoch {self.period + 1}, and the budget ends in epoch "
                f"{reached} of {epoch} steps; raise budget.steps, or set budget.steps_per_epoch lower"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Eqs. 4 to 6 in turns, on batches of the pool."""
        training, validating = held_out(scenario.pool, self.held_out, context.seeds.seed)
        restoring = restorer(network, training, context)
        batches = context.loader(
            training, "pool", transform=Ranged(Sample(context.settings.augmentation, context.settings.patch))
        )
        steps = steps_of(context, self.epochs, batches.epoch)
        step = self._step(restoring, training[0].case(0).image, context, (steps, batches.epoch))
        train(step, batches, steps=steps, context=context)

        def restore(batch: Batch) -> Tensor:
            return restored_by(restoring, batch.image)

        lengths = steps, batches.epoch
        yield restored_stage(restore, validating, context, self.ssim, lengths, sites=scenario.sites)
        return Carry(reheaded(restoring, {})[0], parts={"critic": step.critic})

    def _step(self, network: Network, image: Tensor, context: Context, lengths: tuple[int, int]) -> TurnsStep:
        """For images such as this one; ``lengths`` are steps of all and of an epoch."""
        steps, epoch = lengths
        made = rebuildable(Critic, channels=image.shape[1], spatial_dims=image.ndim - 2, widths=list(self.widths))
        critic = made.to(context.fabric.device).train()
        updates = [0, 0]
        for number in range(steps):
            for optimizer_index, learns in enumerate(learns_in(number // epoch + 1, self.period, self.turns)):
                updates[optimizer_index] += learns
        optimizers = context.optimizer(network.parameters()), context.optimizer(critic.parameters())
        schedules = (
            dropped(context, optimizers[0], max(1, updates[0]), self.drop),
            dropped(context, optimizers[1], max(1, updates[1]), self.drop),
        )
        return TurnsStep(network, critic, optimizers, schedules, self, context.fabric, epoch, context.settings.clip)
