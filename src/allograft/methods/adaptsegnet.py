"""AdaptSegNet: a discriminator looks at segmentations, and those of the target learn to look like
the source's (Tsai et al. 2018)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, Network
from allograft.parts.features import captured
from allograft.parts.paired_batches import PairedBatches, halves, require_encoder
from allograft.predictor import Direct, evaluation_mode
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule, make_schedule
from allograft.step import Terms, average_buffers, descend, named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints

SOURCE, TARGET = 0.0, 1.0
WIDTHS = (64, 128, 256, 512)
SMALLEST = 2 ** (len(WIDTHS) + 1)
"""Sides below this would shrink to nothing in the discriminator."""

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Discriminator(nn.Module):
    """(B, K, *spatial) class probabilities -> (B, 1, *spatial / 32) logits, above 0 where a place
    looks like the target.

    Five convolutions 4x4 of stride 2 with 64, 128, 256, 512 and 1 filters, leaky ReLU (0.2) between
    them. Where we differ: maps with a side under 32 pixels are enlarged to 32, since the published
    layers would leave nothing of them; volumes have 4x4x4 convolutions.
    """

    def __init__(self, classes: int, spatial_dims: int) -> None:
        super().__init__()
        convolution = (nn.Conv2d, nn.Conv3d)[spatial_dims - 2]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise((classes, *WIDTHS)):
            layers += [convolution(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, convolution(WIDTHS[-1], 1, 4, stride=2, padding=1))

    def forward(self, probabilities: Tensor) -> Tensor:
        size = tuple(max(side, SMALLEST) for side in probabilities.shape[2:])
        logits: Tensor = self.layers(enlarged(probabilities, size))
        return logits


def domain_loss(logits: Tensor, domain: float) -> Tensor:
    """Mean binary cross-entropy of a discriminator's logits to one domain: ``SOURCE`` 0 or
    ``TARGET`` 1 (equations 2 and 4).

    >>> domain_loss(torch.zeros(1, 1, 2, 2), SOURCE)  # log 2
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, domain))


def enlarged(values: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, *spatial) -> (B, C, *size), linear in every axis."""
    if tuple(values.shape[2:]) == tuple(size):
        return values
    return F.interpolate(
        values, size=tuple(size), mode="bilinear" if values.ndim == 4 else "trilinear", align_corners=False
    )


class AuxiliaryHead(nn.Module):
    """A second segmentation, from an inner feature: a 1x1 convolution and the way to the image's
    size.

    The paper's has an atrous pyramid on the features of the ResNet's fourth stage.

    Args:
        place: the module whose output is the feature.
        which: its index where the module returns several; None for one.
    """

    def __init__(self, hooked: nn.Module, part: int | None, feature: Tensor, classes: int) -> None:
        super().__init__()
        self.place = [hooked]  # in a list: a part of the network is no part of the head
        self.which = part
        self.convolution = (nn.Conv2d, nn.Conv3d)[feature.ndim - 4](feature.shape[1], classes, 1)

    def forward(self, captured_: Tensor | Sequence[Tensor], size: Sequence[int]) -> Tensor:
        feature = captured_ if self.which is None else captured_[self.which]
        return enlarged(self.convolution(feature), size)


def auxiliary_head(network: AnyNetwork, image: Tensor, classes: int) -> AuxiliaryHead:
    """A head on what enters the decoder's last stage; on the encoder's last feature but one where
    the decoder has no stages.

    The last stage is the head itself where it enlarges (our U-Net), otherwise the decoder's last
    block.

    Raises:
        SpecError: the network has no decoder, or no feature before its last one.
    """
    assert isinstance(network, Network)
    if network.decoder is None:
        raise SpecError(
            "adaptsegnet: the network has no decoder, so there is no inner feature to segment from; use levels: 1"
        )
    ups = getattr(network.decoder, "ups", None)
    with evaluation_mode(network), captured(network.encoder) as encoded, captured(network.decoder) as decoded:
        network(image)
    chain = [network.encoder, *(ups or ())]
    hooked = chain[-1] if ups is None or decoded[0].shape[2:] != image.shape[2:] else chain[max(len(chain) - 2, 0)]
    part = None if hooked is not network.encoder else -2 if ups is None else -1
    if part is not None and (not isinstance(encoded[0], (list, tuple)) or len(encoded[0]) < 2):
        raise SpecError("adaptsegnet: the network's encoder gives no inner feature to segment from; use levels: 1")
    with evaluation_mode(network), captured(hooked) as features:
        network(image)
    feature = features[0] if part is None else features[0][part]
    return AuxiliaryHead(hooked, part, feature, classes).to(image.device)


@dataclass(frozen=True)
class AdaptSegNet:
    """Train on source labels while a discriminator pushes the target's segmentations towards the
    source's (AdaptSegNet).

    At each step the network minimises the task's loss on the source + ``adversarial`` *
    cross-entropy of the discriminator's answer for the target's softmax maps to "source"; then the
    discriminator learns to tell the two. With two levels a second segmentation from an inner
    feature has a loss, ``auxiliary_segmentation`` times the task's, and a discriminator of its own.
    Each step sees ``batch_size`` source cases and as many target images. Weights, widths, Adam's
    betas and the polynomial decay of the discriminator are those of the paper, and of its published
    code. Where we differ: the network is trained as the study says (theirs: SGD 2.5e-4); the
    auxiliary head, see ``auxiliary_head``; it is not kept.

    Args:
        levels: 1 = the output alone; 2 = the inner feature too.
        adversarial, auxiliary_adversarial: lambda_adv of the output and of the inner feature; 0
            leaves the target out.
        auxiliary_segmentation: weight of the task's loss at the inner feature.
        discriminator_lr: of Adam with betas 0.9 and 0.99, decaying as (1 - t)^0.9.
        first: what the adaptation starts from; the paper's start is a network with pre-trained
            encoder alone (``first: start``).
    """

    levels: Literal[1, 2] = 2
    adversarial: Annotated[float, Ge(0)] = 1e-3
    auxiliary_adversarial: Annotated[float, Ge(0)] = 2e-4
    auxiliary_segmentation: Annotated[float, Ge(0)] = 0.1
    discriminator_lr: Annotated[float, Gt(0)] = 1e-4
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="tsai2018learning",
        authors="Tsai, Y.-H. and Hung, W.-C. and Schulter, S. and Sohn, K. and Yang, M.-H. and Chandraker, M.",
        title="Learning to Adapt Structured Output Space for Semantic Segmentation",
        venue="Conference on Computer Vision and Pattern Recognition",
        year=2018,
        doi="10.1109/CVPR.2018.00780",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without an encoder, or a task that is no
        segmentation."""
        require_encoder(network, "adaptsegnet")
        if set(context.supervised_task.outputs) != {"mask"}:
            found = ", ".join(context.supervised_task.outputs)
            raise SpecError(
                f"adaptsegnet: looks at segmentations alone, and the task gives {found}; use it with task: segmentation"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates of network and discriminators; an epoch of
        ``adapt_epochs`` is one pass over the source."""
        self.check(scenario, network, context)
        network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        pairs = PairedBatches.from_scenario(scenario, context)
        steps = context.settings.budget.adaptation(pairs.epoch)
        image = context.fabric.to_device(next(pairs(0))).image[:1]
        step = self.step(network, image, steps, context)
        stage = Stage("adapted", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, pairs, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))

    def step(self, network: AnyNetwork, image: Tensor, steps: int, context: Context) -> AdversarialStep:
        """The update, with its two optimizers."""
        classes = context.supervised_task.outputs["mask"]
        with context.seeds.everything("discriminators"):
            auxiliary = auxiliary_head(network, image, classes) if self.levels == 2 else None
            judges = nn.ModuleList(Discriminator(classes, image.ndim - 2) for _ in range(self.levels)).to(image.device)
        owned = [] if auxiliary is None else list(auxiliary.parameters())
        optimizer = context.optimizer([p for p in (*network.parameters(), *owned) if p.requires_grad])
        plain = context.gradient_step(network, optimizer=optimizer, steps=steps)
        adam = torch.optim.Adam(judges.parameters(), lr=self.discriminator_lr, betas=(0.9, 0.99))
        return AdversarialStep(
            network, auxiliary, judges, context.supervised_task, optimizer, adam, context.fabric, self,
            plain.schedule, make_schedule({"poly": {"power": 0.9}}, adam, steps), context.settings.clip,
        )  # fmt: skip


@dataclass
class AdversarialStep:
    """An update of the network, then one of the discriminators.

    Args:
        network: trained on; ``auxiliary`` segments from its inner feature, None with one level.
        discriminators: one a level, the inner one first.
        task: its loss takes ``{"mask": logits}``.
        optimizer: of network and auxiliary head; ``discriminator_optimizer`` of the rest.
        fabric: autocast, backward.
        recipe: the weights.
        schedule, discriminator_schedule: of the two optimizers.
        clip: the largest norm of the network's gradients.
    """

    network: AnyNetwork
    auxiliary: AuxiliaryHead | None
    discriminators: nn.ModuleList
    task: Task
    optimizer: torch.optim.Optimizer
    discriminator_optimizer: torch.optim.Optimizer
    fabric: Fabric
    recipe: AdaptSegNet
    schedule: Schedule | None
    discriminator_schedule: Schedule
    clip: float | None

    def __call__(self, batch: Batch) -> Terms:
        source, target = halves(batch)
        weights = (self.recipe.auxiliary_adversarial, self.recipe.adversarial)[-len(self.discriminators) :]
        with self.fabric.autocast():
            outputs = self._outputs(source.image)
            terms = self._segmentation(outputs, source)
            others = self._outputs(target.image) if any(weights) else []
            for name, weight, logits, judge in zip(self._names, weights, others, self.discriminators, strict=False):
                terms[f"adversarial{name}"] = weight * domain_loss(judge(logits.softmax(1)), SOURCE)
        loss = torch.stack([*terms.values()]).sum()
        descend(loss, self.optimizer, self.fabric, schedule=self.schedule, clip=self.clip)
        average_buffers(self.network)
        if others:
            with self.fabric.autocast():
                judged = self._judged([output.detach() for output in outputs], [output.detach() for output in others])
            loss = torch.stack([*judged.values()]).sum()
            descend(loss, self.discriminator_optimizer, self.fabric, schedule=self.discriminator_schedule)
            terms |= judged
        return {key: value.detach() for key, value in terms.items()}

    @property
    def _names(self) -> tuple[str, ...]:
        return ("/inner", "")[-len(self.discriminators) :]

    def _outputs(self, image: Tensor) -> list[Tensor]:
        """Logits (B, K, *spatial) of each level, the inner one first."""
        if self.auxiliary is None:
            return [self.network(image)["mask"]]
        with captured(self.auxiliary.place[0]) as seen:
            output = self.network(image)["mask"]
        return [self.auxiliary(seen[0], image.shape[2:]), output]

    def _segmentation(self, outputs: Sequence[Tensor], source: Batch) -> dict[str, Tensor]:
        terms = dict(self.task.loss({"mask": outputs[-1]}, source))
        for key, value in self.task.loss({"mask": outputs[0]}, source).items() if self.auxiliary is not None else ():
            terms[f"{key}/inner"] = self.recipe.auxiliary_segmentation * value
        return terms

    def _judged(self, outputs: Sequence[Tensor], others: Sequence[Tensor]) -> dict[str, Tensor]:
        """Each discriminator's own loss: the mean of that on the source and that on the target."""
        return {
            f"discriminator{name}": (
                domain_loss(judge(a.softmax(1)), SOURCE) + domain_loss(judge(b.softmax(1)), TARGET)
            )
            / 2
            for name, judge, a, b in zip(self._names, self.discriminators, outputs, others, strict=True)
        }
