"""pix2pix: an image of one modality is made of another's, as near as L1 has it and as sharp as a
critic wants it (Isola et al. 2017)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import OptimizerRequest, check_optimizer
from allograft.networks import AnyNetwork, rebuildable
from allograft.nn.gan import critic_loss, generator_loss
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule
from allograft.step import Terms, average_buffers, descend, named_state
from allograft.tasks.synthesis import Synthesis
from allograft.train import train_with_checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric

PAPERS: OptimizerRequest = {"adam": {"lr": 2e-4, "betas": [0.5, 0.999]}}
"""The optimizer of the paper (appendix 6.2)."""


class PatchCritic(nn.Module):
    """Pairs (B, C, *spatial) -> a logit for each patch, (B, 1, *patches): above 0 for a real one.

    The paper's PatchGAN (section 3.2.2, appendix 6.1.2): convolutions of 4 with a step of 2, the
    last two with a step of 1, leaky rectifiers of 0.2, and normalisation after all but the first
    and last. Four widths see patches of 70 pixels. Normalisation is that of each image alone, as
    the paper's batches of one have it.

    Args:
        channels: of the seen and the made image together.
        spatial_dims: 2 or 3.
        widths: channels of the convolutions before the last.

    Raises:
        SpecError: no width, or images (``forward``) that leave no patch.

    Example:
        >>> PatchCritic(2, spatial_dims=2, widths=[4, 8])(torch.zeros(1, 2, 16, 16)).shape
        torch.Size([1, 1, 6, 6])
    """

    def __init__(self, channels: int, spatial_dims: int, widths: list[int]) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or not widths or min(widths) < 1:
            raise SpecError(
                f"pix2pix: found {spatial_dims} dimensions and widths {widths}; expected 2 or 3, and channels of at "
                "least one convolution"
            )
        convolution = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
        norm = nn.InstanceNorm2d if spatial_dims == 2 else nn.InstanceNorm3d
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            layers.append(convolution(before, after, 4, stride=1 if number == len(widths) - 1 else 2, padding=1))
            layers += [norm(after)] if number else []
            layers.append(nn.LeakyReLU(0.2))
        self.layers = nn.Sequential(*layers, convolution(widths[-1], 1, 4, stride=1, padding=1))
        self.smallest = 2 ** (len(widths) - 1) * 4

    def forward(self, pair: Tensor) -> Tensor:
        if min(pair.shape[2:]) < self.smallest:
            size = "x".join(map(str, pair.shape[2:]))
            raise SpecError(
                f"pix2pix: an image of {size} leaves the critic no patch; expected {self.smallest} pixels or more "
                "along each axis; make images larger (preprocessing.size, or patch), or give fewer widths"
            )
        logits: Tensor = self.layers(pair)
        return logits


def known_alone(made: Tensor, paired: Tensor, region: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Made and true images that are 0 where the truth is not known (nan) or outside the region, so
    that a critic cannot tell them apart by that: both (B, C, *spatial)."""
    known = ~paired.isnan()
    if region is not None:
        known = known & region
    return made.where(known, 0.0), paired.where(known, 0.0).to(made.dtype)


@dataclass
class Pix2PixStep:
    """An update of the critic, then one of the generator (section 3.3).

    Args:
        network, critic: what is trained.
        optimizers, schedules: of the network and of the critic.
        task: whose L1 is minimised.
        weight: lambda, of the L1.
        fabric: autocast and backward.
        clip: the largest gradient norm of either.
    """

    network: AnyNetwork
    critic: nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    schedules: tuple[Schedule | None, Schedule | None]
    task: Synthesis
    weight: float
    fabric: Fabric
    clip: float | None

    def __call__(self, batch: Batch) -> Terms:
        paired = batch.labels["paired"]
        assert isinstance(paired, Tensor)
        with self.fabric.autocast():
            output = self.network(batch.image)
        made, true = known_alone(output["paired"].float(), paired, batch.region)
        seen = batch.image.float()
        with self.fabric.autocast():
            real, fake = (self.critic(torch.cat([seen, image], 1)).float() for image in (true, made.detach()))
        caught = critic_loss(real, fake, "log") / 2  # "we divide the objective by 2", section 3.3
        descend(caught, self.optimizers[1], self.fabric, schedule=self.schedules[1], clip=self.clip)
        with self.fabric.autocast():
            fooled = generator_loss(self.critic(torch.cat([seen, made], 1)).float(), "log")
        apart = {name: self.weight * value for name, value in self.task.loss(output, batch).items()}
        loss = torch.stack([fooled, *apart.values()]).sum()
        descend(loss, self.optimizers[0], self.fabric, schedule=self.schedules[0], clip=self.clip)
        average_buffers(self.network)
        return {"critic": caught.detach(), "fooled": fooled.detach(), **{name: v.detach() for name, v in apart.items()}}


@dataclass(frozen=True)
class Pix2Pix:
    """Train the study's network on source pairs to make the paired image, by ``weight`` times the
    L1 distance and so that a critic, which sees both images, takes it for real (eq. 4).

    The network is the generator; the paper's is a U-Net, as ``supervised``, the same without a
    critic, has it: the two rows show what the critic adds. Cases without a paired image are left
    out; pixels whose truth is unknown are 0 for the critic.

    The paper trains 200 epochs with batches of one. Where we differ: the weights start as the
    study's do (theirs: normal, 0.02); the answer for an image is one, without the dropout that is
    the paper's noise.

    Args:
        weight: lambda.
        widths: channels of the critic's convolutions; four see patches of 70 pixels.
        optimizer: one ``{name: arguments}``, for network and critic alike; null for the study's.
    """

    weight: Annotated[float, Ge(0)] = 100.0
    widths: tuple[int, ...] = (64, 128, 256, 512)
    optimizer: OptimizerRequest | None = field(
        default_factory=lambda: {name: dict(settings) for name, settings in PAPERS.items()}
    )

    paper: ClassVar[Paper | None] = Paper(
        key="isola2017image",
        authors="Isola, P. and Zhu, J.-Y. and Zhou, T. and Efros, A. A.",
        title="Image-to-Image Translation with Conditional Adversarial Networks",
        venue="Conference on Computer Vision and Pattern Recognition",
        year=2017,
        doi="10.1109/CVPR.2017.632",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, "pix2pix")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task that is no synthesis, a source without pairs, or images
        that leave the critic no patch."""
        if not isinstance(context.task, Synthesis):
            raise SpecError(
                "pix2pix: makes images; expected task: {synthesis: {...}} and a column paired in the manifest"
            )
        if not any(len(cohort) for cohort in _paired(scenario)):
            raise SpecError("pix2pix: no source case has both modalities; fill the column paired")
        case = _paired(scenario)[0].case(0)
        size = context.settings.patch or tuple(case.image.shape[2:])
        channels = case.image.shape[1] + context.task.channels
        self._critic(channels, len(size))(torch.zeros(1, channels, *size))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates of each."""
        task = context.task
        assert isinstance(task, Synthesis)
        network.train()
        pairs = _paired(scenario)
        batches = context.loader(pairs, "source")
        steps = context.settings.budget.training(batches.epoch)
        image = pairs[0].case(0).image
        critic = self._critic(image.shape[1] + task.channels, image.ndim - 2).to(context.fabric.device).train()
        own, critics = (context.optimizer(each.parameters(), self.optimizer) for each in (network, critic))
        schedules = context.schedule(own, steps), context.schedule(critics, steps)
        clip, fabric = context.settings.clip, context.fabric
        step = Pix2PixStep(network, critic, (own, critics), schedules, task, self.weight, fabric, clip)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(own, network), {"critic": critic})

    def _critic(self, channels: int, spatial_dims: int) -> PatchCritic:
        return rebuildable(PatchCritic, channels=channels, spatial_dims=spatial_dims, widths=list(self.widths))


def _paired(scenario: Scenario) -> list[Cohort]:
    """The source cases that have both modalities."""
    return [made for cohort in scenario.source if len(made := cohort.labelled("paired"))]
