"""Denoising diffusion as a pretext: a U-Net learns to take noise from images (Mamalakis et al.
2024)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort.loader import Transform
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, reheaded
from allograft.networks.diffusion_unet import DiffusionDecoder, DiffusionEncoder
from allograft.nn.ssim import Ssim
from allograft.parts.pool import steps_of
from allograft.parts.pretexts import (
    PAPER,
    Ranged,
    check_pool,
    dropping_step,
    held_out,
    restoration_loss,
    restored_stage,
    restorer,
)
from allograft.predictor import evaluation_mode
from allograft.predictor.noise import content_noise
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.train import train
from allograft.transforms.sample import Sample

NOISE, TIME = "noise", "diffusion step"
"""View and attribute of a batch: what is added to each image, and how far it is diffused."""
PROBED = 4
"""Time steps, evenly spread, over which the validation loss is averaged."""


def kept_share(steps: int, start: float, end: float) -> Tensor:
    """alpha_bar of every time step of a scaled-linear schedule (MONAI's): (steps,) float64, from
    near 1 down.

    sqrt(beta) rises evenly from sqrt(start) to sqrt(end); alpha_bar_t is the product of 1 - beta up
    to t, the share of the image's variance that is kept.

    >>> kept_share(2, 0.5, 0.5).round(decimals=6).tolist()
    [0.5, 0.25]
    """
    betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
    return (1 - betas).cumprod(0)


def noised(image: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """sqrt(kept) image + sqrt(1 - kept) noise: (B, C, *spatial) twice, (B,) alpha_bar of each
    image (Ho et al. 2020, eq. 4)."""
    kept = _spread(kept, image)
    return kept.sqrt() * image + (1 - kept).sqrt() * noise


def denoised(image: Tensor, noise: Tensor, kept: Tensor) -> Tensor:
    """The image that ``noised`` was given, from its result and the noise."""
    kept = _spread(kept, image)
    return (image - (1 - kept).sqrt() * noise) / kept.sqrt()


def reverse_step(image: Tensor, estimate: Tensor, noise: Tensor, kept: tuple[Tensor, Tensor]) -> Tensor:
    """One step back: a draw of x_s given x_t and x_0 (Ho et al. 2020, eqs. 6 and 7), s any earlier
    step.

    MONAI's scheduler steps back to t - 1 however far apart the inference steps are, so that few of
    them leave most of the noise.

    Args:
        image: x_t, (B, C, *spatial).
        estimate: x_0.
        noise: standard normal.
        kept: alpha_bar of t and of s, scalars; that of s is 1 at the end, where the result is the
            estimate.
    """
    now, before = kept
    beta = 1 - now / before
    mean = before.sqrt() * beta / (1 - now) * estimate + (now / before).sqrt() * (1 - before) / (1 - now) * image
    return mean + ((1 - before) / (1 - now) * beta).sqrt() * noise


def _spread(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class Noisy:
    """A sample with the noise and the time step of one training step, drawn in the loader.

    Args:
        sample: crop and augmentation.
        steps: of the diffusion.
    """

    sample: Transform
    steps: int

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1."""
        made = self.sample(case, rng)
        noise = torch.randn(made.image.shape, generator=rng)
        time = torch.randint(self.steps, (1,), generator=rng)
        return replace(made, views={**made.views, NOISE: noise}, attributes={**made.attributes, TIME: time})


@dataclass(frozen=True)
class DenoisingDiffusion:
    """Pre-train a diffusion U-Net on the images of the pool, for networks that are given a time
    step: ``diffusion_unet``.

    Each image is diffused to a random step, and the network says what noise was added. By default
    the loss is 1 - SSIM of the image and the one that follows from that noise in one step: the
    paper says that its cost is eq. 2. The ``inference_steps`` are for the restorations that are
    measured and shown: a held-out image is diffused to the last step, where next to nothing of it
    is left, and brought back. Estimates are kept within the image's own range there. The paper does
    not give the number of training steps; 1000 is MONAI's.

    Args:
        loss: ``ssim``, as above, or ``noise``: the mean square of the error of the noise.
        train_steps: of the diffusion.
        inference_steps: of a restoration.
        beta_start, beta_end: of the scaled-linear schedule.
        epochs, drop, held_out, ssim: as of ``reconstruction``.
    """

    loss: Literal["ssim", "noise"] = "ssim"
    train_steps: Annotated[int, Ge(1)] = 1000
    inference_steps: Annotated[int, Ge(1)] = 25
    beta_start: Annotated[float, Gt(0), Lt(1)] = 5e-3
    beta_end: Annotated[float, Gt(0), Lt(1)] = 2e-2
    epochs: Annotated[int, Ge(1)] | None = None
    drop: Annotated[float, Gt(0), Le(1)] = 0.5
    held_out: Annotated[float, Ge(0), Lt(1)] = 2 / 9
    ssim: Ssim = field(default_factory=Ssim)

    paper: ClassVar[Paper | None] = PAPER
    needs: ClassVar[Needs] = Needs(pool=True)

    def __post_init__(self) -> None:
        if self.inference_steps > self.train_steps:
            raise SpecError(
                f"denoising_diffusion: inference_steps is {self.inference_steps}, of {self.train_steps} train_steps; "
                "expected at most as many"
            )
        if self.beta_start > self.beta_end:
            raise SpecError(
                f"denoising_diffusion: beta_start is {self.beta_start}, above beta_end {self.beta_end}; noise grows "
                "with the step, so exchange them"
            )

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` as ``check_pool``, and for a network that is given no time step."""
        check_pool("denoising_diffusion", scenario, network, context, share=self.held_out, settings=self.ssim)
        if not isinstance(getattr(network, "encoder", None), DiffusionEncoder):
            name = next(iter(network.spec["build"]))
            raise SpecError(
                f"denoising_diffusion: network '{name}' is given no time step; choose network: {{diffusion_unet: {{}}}}"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1 of Ho et al. 2020 with this paper's loss, on batches of the pool."""
        training, validating = held_out(scenario.pool, self.held_out, context.seeds.seed)
        restoring = restorer(network, training, context)
        sample = Ranged(Sample(context.settings.augmentation, context.settings.patch))
        batches = context.loader(training, "pool", transform=Noisy(sample, self.train_steps))
        steps = steps_of(context, self.epochs, batches.epoch)
        step = dropping_step(restoring, self.objective, context, steps, self.drop)
        train(step, batches, steps=steps, context=context)

        def restore(batch: Batch) -> Tensor:
            return self.sampled(restoring, batch.image)

        def missed(batch: Batch) -> Tensor:
            return self.validation_loss(restoring, batch)

        lengths = steps, batches.epoch
        yield restored_stage(restore, validating, context, self.ssim, lengths, sites=scenario.sites, loss=missed)
        return Carry(reheaded(restoring, {})[0])

    @property
    def kept(self) -> Tensor:
        """alpha_bar of every step."""
        return kept_share(self.train_steps, self.beta_start, self.beta_end)

    def objective(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The loss at each image's own step."""
        time, noise = batch.attributes[TIME], batch.views[NOISE]
        kept = self.kept.to(batch.image)[time]
        diffused = noised(batch.image, noise, kept)
        predicted = predicted_noise(network, diffused, time).float()
        if self.loss == "noise":
            return {"noise": F.mse_loss(predicted, noise)}
        return {"restoration": restoration_loss(denoised(diffused, predicted, kept), batch.image, batch, self.ssim)}

    def validation_loss(self, network: AnyNetwork, batch: Batch) -> Tensor:
        """The loss at ``PROBED`` steps, of noise that each image's content names."""
        losses: list[Tensor] = []
        for number in range(PROBED):
            noise = content_noise(batch.image, batch.image.shape[1:], "validation", number)
            time = torch.full_like(batch.site, (2 * number + 1) * self.train_steps // (2 * PROBED))
            probe = replace(batch, views={NOISE: noise}, attributes={**batch.attributes, TIME: time})
            with evaluation_mode(network):
                losses += self.objective(network, probe).values()
        return torch.stack(losses).mean()

    def sampled(self, network: AnyNetwork, image: Tensor) -> Tensor:
        """The image diffused to the last step and brought back in ``inference_steps``."""
        kept = self.kept.to(image)
        times = torch.linspace(self.train_steps - 1, 0, self.inference_steps).round().long().tolist()
        space = tuple(range(1, image.ndim))
        low, high = image.amin(space, keepdim=True), image.amax(space, keepdim=True)
        made = noised(image, content_noise(image, image.shape[1:], "start"), kept[[times[0]] * len(image)])
        with evaluation_mode(network):
            for time, before in zip(times, [*times[1:], -1], strict=True):
                now = torch.full((len(image),), time, device=image.device)
                guess = denoised(made, predicted_noise(network, made, now).float(), kept[now]).clamp(low, high)
                noise = content_noise(image, image.shape[1:], "step", time)
                made = reverse_step(
                    made, guess, noise, (kept[time], kept[before] if before >= 0 else kept.new_ones(()))
                )
        return made


def predicted_noise(network: AnyNetwork, image: Tensor, time: Tensor) -> Tensor:
    """What a network of ``diffusion_unet`` says is noise: (B, C, *spatial), (B,) -> (B, C,
    *spatial)."""
    assert isinstance(network, Network)
    assert isinstance(network.decoder, DiffusionDecoder)
    features = network.encoder(image, time)
    noise: Tensor = network.heads["paired"](features, network.decoder(features, time))
    return noise
