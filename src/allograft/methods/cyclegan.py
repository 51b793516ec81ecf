"""CycleGAN: generators turn target images into source images and back, and what they made is
segmented (Zhu et al. 2017)."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from allograft.batch import Batch
from allograft.cohort import Cohort, Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, copied
from allograft.networks.network import operate
from allograft.parts.adapted_images import changed_images, middle_items
from allograft.parts.paired_batches import PairedBatches
from allograft.predictor import Prediction, evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Planned
from allograft.step import Terms, descend
from allograft.train import train_with_checkpoints
from allograft.transforms.sample import Sample

BLOCKS = 6
SIZES = {"small": (64, 16), "paper": (256, 64)}
"""Name -> side of the training crops in pixels, and filters of the first layer."""
SMALLEST = 24
"""Pixels a side below which the discriminator has no patch left to normalise."""


@dataclass(frozen=True)
class CycleGan:
    """Learn to translate target images into the source's style from unpaired images, and segment
    the translation.

    Least-squares adversarial losses, ``cycle`` times the L1 distance of an image that went there
    and back, Adam (2e-4, betas 0.5 and 0.999) whose rate falls to 0 over the second half of
    ``budget.adapt_steps``. A step has ``batch_size`` images of either side. Where we differ from
    the paper: the output is linear, because our images have no fixed range; no buffer of earlier
    translations; six residual blocks at 256 pixels too, where the paper has nine.

    Args:
        size: ``small`` trains on crops of 64 pixels with 16 filters in the first layer, ``paper``
            on 256 pixels with 64, for a GPU. Images that are smaller are not cropped. Complete
            images of any size are translated at test time.
        cycle: weight of the cycle consistency, the paper's lambda.
        first: the segmentation network, which stays as it is.
    """

    size: Literal["small", "paper"] = "small"
    cycle: float = 10.0
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="zhu2017unpaired",
        authors="Zhu, J.-Y. and Park, T. and Isola, P. and Efros, A. A.",
        title="Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
        venue="International Conference on Computer Vision",
        year=2017,
        doi="10.1109/ICCV.2017.244",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for volumes, and for images too small to translate."""
        smallest_side((*scenario.source, *scenario.target))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Sections 3 and 4 of the paper; no label is looked at."""
        network = (yield from context.run(self.first, scenario, network)).network
        crop, width = SIZES[self.size]
        side = min(crop, smallest_side((*scenario.source, *scenario.target)) // 4 * 4)
        batches = PairedBatches(
            *(
                loader(context, side, cohorts, name)
                for cohorts, name in ((scenario.source, "s"), (scenario.target, "t"))
            )
        )
        channels = scenario.source[0].case(0).image.shape[1]
        steps = context.settings.budget.adaptation(batches.target.epoch)
        step = self.step(channels, width, steps, context)
        translating: Any = operate(copied(network), "translator", channels=channels, width=width, blocks=BLOCKS).to(
            context.fabric.device
        )
        translating.translator = step.to_source
        predictor = CycleGanPredictor(translating)
        stage = Stage("adapted", predictor, scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        target, source = (middle_items(side) for side in (scenario.target, scenario.source))

        def change(batch: Batch) -> Tensor:
            return predictor.translated(context.fabric.to_device(batch))

        title = "target images translated"
        context.show("translated", changed_images(title, ("target", target, change), ("source", source)))
        yield stage
        return Carry(network)

    def step(self, channels: int, width: int, steps: int, context: Context) -> CycleGanStep:
        """Fresh networks and their two optimizers."""
        generators = nn.ModuleList(ResnetGenerator(channels, width, BLOCKS) for _ in range(2)).to(context.fabric.device)
        critics = nn.ModuleList(patch_discriminator(channels, width) for _ in range(2)).to(context.fabric.device)
        request = {"adam": {"lr": 2e-4, "betas": (0.5, 0.999)}}
        of_critics = context.optimizer(critics.parameters(), request)
        of_generators = context.optimizer(generators.parameters(), request)
        schedules = [
            Planned(LambdaLR(each, lambda number: min(1.0, 2 - 2 * number / steps)))
            for each in (of_generators, of_critics)
        ]
        return CycleGanStep(
            to_source=generators[0],
            to_target=generators[1],
            source_critic=critics[0],
            target_critic=critics[1],
            generator_optimizer=of_generators,
            critic_optimizer=of_critics,
            schedules=schedules,
            fabric=context.fabric,
            cycle=self.cycle,
        )


def smallest_side(cohorts: Iterable[Cohort]) -> int:
    """The shortest side of any image.

    Raises:
        SpecError: volumes, or images too small to have patches judged.
    """
    sizes = [tuple(whole.batch.image.shape[2:]) for cohort in cohorts for whole in cohort.wholes()]
    if any(len(size) != 2 for size in sizes):
        raise SpecError("cyclegan: translates 2-D images, these are volumes; cut them into slices: slices: {axis: 2}")
    side = min(map(min, sizes))
    if side < SMALLEST:
        raise SpecError(
            f"cyclegan: an image has a side of {side} pixels, expected at least {SMALLEST}; enlarge: preprocessing: "
            f"{{size: [...]}}"
        )
    return side


def loader(context: Context, side: int, cohorts: Iterable[Cohort], name: str) -> Loader:
    """Crops of (side, side), unlabelled and not augmented."""
    whole = context.loader([cohort.unlabelled() for cohort in cohorts], name)
    return replace(whole, transform=Sample("none", (side, side)))


class ResnetGenerator(nn.Module):
    """(B, C, H, W) -> (B, C, H, W), H and W multiples of 4: strided convolutions, residual blocks,
    transposed ones (appendix 7.2)."""

    def __init__(self, channels: int, width: int, blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.ReflectionPad2d(3),
            *_layer(nn.Conv2d(channels, width, 7)),
            *_layer(nn.Conv2d(width, 2 * width, 3, 2, 1)),
            *_layer(nn.Conv2d(2 * width, 4 * width, 3, 2, 1)),
            *(Residual(4 * width) for _ in range(blocks)),
            *_layer(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1)),
            *_layer(nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1)),
            nn.ReflectionPad2d(3),
            nn.Conv2d(width, channels, 7),
        )
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.layers(image)
        return made


class Residual(nn.Module):
    """x plus two 3x3 convolutions of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        pad = nn.ReflectionPad2d(1)
        self.layers = nn.Sequential(
            pad, *_layer(nn.Conv2d(width, width, 3)), pad, nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)
        )

    def forward(self, feature: Tensor) -> Tensor:
        changed: Tensor = feature + self.layers(feature)
        return changed


def patch_discriminator(channels: int, width: int) -> nn.Sequential:
    """PatchGAN: (B, C, H, W) -> (B, 1, H', W'), each value about a patch of 70 x 70 pixels; 1 =
    real."""
    slope = nn.LeakyReLU(0.2)
    critic = nn.Sequential(
        nn.Conv2d(channels, width, 4, 2, 1),
        slope,
        *_layer(nn.Conv2d(width, 2 * width, 4, 2, 1), slope),
        *_layer(nn.Conv2d(2 * width, 4 * width, 4, 2, 1), slope),
        *_layer(nn.Conv2d(4 * width, 8 * width, 4, 1, 1), slope),
        nn.Conv2d(8 * width, 1, 4, 1, 1),
    )
    return critic.apply(_initialise)


def _layer(convolution: nn.Conv2d | nn.ConvTranspose2d, activation: nn.Module | None = None) -> tuple[nn.Module, ...]:
    return convolution, nn.InstanceNorm2d(convolution.out_channels), activation or nn.ReLU()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)


@dataclass
class CycleGanStep:
    """One update of the generators, then one of the discriminators on the same translations.

    Args:
        to_source, to_target: the paper's F and G, or generators of any kind.
        source_critic, target_critic: images -> values, 1 for real ones.
        schedules: one an optimizer, generators first.
        cycle: weight of the cycle consistency.
    """

    to_source: nn.Module
    to_target: nn.Module
    source_critic: nn.Module
    target_critic: nn.Module
    generator_optimizer: torch.optim.Optimizer
    critic_optimizer: torch.optim.Optimizer
    schedules: list[Planned]
    fabric: Any
    cycle: float = 10.0

    def __call__(self, batch: Batch) -> Terms:
        """``batch``: the first half of the source, the second of the target."""
        source, target = batch.image.chunk(2)
        with self.fabric.autocast():
            as_source, as_target = self.to_source(target), self.to_target(source)
            back = F.l1_loss(self.to_target(as_source), target) + F.l1_loss(self.to_source(as_target), source)
            terms = {
                "fool/source": judged(self.source_critic(as_source), real=True),
                "fool/target": judged(self.target_critic(as_target), real=True),
                "cycle": self.cycle * back,
            }
        descend(torch.stack([*terms.values()]).sum(), self.generator_optimizer, self.fabric, schedule=self.schedules[0])
        with self.fabric.autocast():
            critics = {
                "critic/source": self._told_apart(self.source_critic, source, as_source),
                "critic/target": self._told_apart(self.target_critic, target, as_target),
            }
        descend(torch.stack([*critics.values()]).sum(), self.critic_optimizer, self.fabric, schedule=self.schedules[1])
        return {key: value.detach() for key, value in {**terms, **critics}.items()}

    def _told_apart(self, critic: nn.Module, real: Tensor, made: Tensor) -> Tensor:
        """Half the loss, as in the paper: discriminators learn more slowly than generators."""
        return 0.5 * (judged(critic(real), real=True) + judged(critic(made.detach()), real=False))


def judged(values: Tensor, *, real: bool) -> Tensor:
    """Least-squares loss: mean (values - 1)^2 for what should pass as real, mean values^2 else."""
    return (values - float(real)).square().mean()


def add_translator(network: Any, *, channels: int, width: int, blocks: int) -> Any:
    """Surgery: a generator beside the network, which is left as it is; ``CycleGanPredictor`` sends
    images through it first."""
    network.translator = ResnetGenerator(channels, width, blocks)
    return network


def translated(generator: nn.Module, image: Tensor) -> Tensor:
    """(B, C, H, W) of any size through a generator that wants multiples of 4."""
    height, width = image.shape[-2:]
    whole = F.pad(image, (0, -width % 4, 0, -height % 4), mode="replicate")
    made: Tensor = generator(whole)
    return made[..., :height, :width]


@dataclass(frozen=True)
class CycleGanPredictor:
    """Translates an image to the source's style, then predicts; ``network`` has a
    ``translator``."""

    network: Any

    def __call__(self, batch: Batch) -> Prediction:
        with evaluation_mode(self.network):
            return padded(self.network, self.translated(batch))

    def translated(self, batch: Batch) -> Tensor:
        """The images in the source's style, as they are predicted."""
        with evaluation_mode(self.network):
            return translated(self.network.translator, batch.image)
