"""Categorical normalisation: a second pass whose encoder is normalised by the classes that the
first pass saw."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.context.context import copied
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.grey import grey_of, window_of
from allograft.metrics.segmentation import IGNORED
from allograft.networks import AnyNetwork, count_parameters
from allograft.networks.catenorm import layers_of, modulation_by_class, modulation_over
from allograft.networks.network import operate
from allograft.nn.catenorm import guided
from allograft.parts.thumbnails import CohortItem, subject_of, thumbnail, upright
from allograft.predictor import Direct, Prediction, evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule
from allograft.step import Terms, average_buffers, average_gradients, named_state
from allograft.tasks.multitask import Multitask
from allograft.tasks.segmentation import Segmentation, squared_dice_loss
from allograft.train import train, train_with_checkpoints

CHANNELS = 3
"""Shown over an image."""


@dataclass(frozen=True)
class CateNorm:
    """Train two normalisations at once, a general one and one that follows the predicted classes;
    predict in two passes (Xiao et al. 2022).

    One iteration (algorithm 1): a pass through the general branch, its loss, a step; then, with the
    detached probabilities of that pass as class map, a pass through the categorical branch, its
    loss, gradients clipped by value, a step of the same optimizer. The other branch's parameters
    have no gradient and skip the step. Before that, ``warmup`` of the steps train the general
    branch alone, in place of the paper's pretrained model; then the run has as many iterations as
    every row has, and each of the others counts two steps.

    The stages are the first pass and the second (Table 3 b). Where we differ: the cross-entropy is
    the mean over pixels (section 3: over pixels and classes), and the learning rate falls as the
    study's ``schedule`` says; ``plateau`` is the paper's.

    Args:
        blocks: levels of the encoder that get two branches, from the finest; the paper has 1 and 4.
        position: two branches in this one block only, whatever ``blocks`` says (figure 5); the
            encoder's finest is 1, then the decoder.
        shared: whether both passes go through one network. If not, the second pass has a network of
            its own, which begins as a copy of the first after its warm-up (table 3 a, W-Net); the
            class map stays detached.
        warmup: share of the steps before the second pass begins.
        dice_weight: lambda of ``lambda Dice + (1 - lambda) CE``; None = the paper's 0.5, and 1 with
            a single class. Dice alone may find the class in images that have none of it, slices
            beyond an organ for example; then set 0.5.
        dice: ``squared`` is the paper's loss, with squares below the line and the background among
            the classes; ``plain`` is the task's, which every other row has: plain sums, and the
            foreground alone.
        clip_value: largest absolute gradient in the second pass.
    """

    blocks: Annotated[int, Ge(1)] = 4
    position: Annotated[int, Ge(1)] | None = None
    shared: bool = True
    warmup: Annotated[float, Ge(0), Le(1)] = 0.5
    dice_weight: Annotated[float, Ge(0), Le(1)] | None = None
    clip_value: Annotated[float, Gt(0)] = 0.1
    dice: Literal["squared", "plain"] = "squared"

    paper: ClassVar[Paper | None] = Paper(
        key="xiao2022catenorm",
        authors="Xiao, J. and Yu, L. and Zhou, Z. and Bai, Y. and Xing, L. and Yuille, A. and Zhou, Y.",
        title="CateNorm: Categorical Normalization for Robust Medical Image Segmentation",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(source_images=True)
    own_loss: ClassVar[str] = "lambda Dice + (1 - lambda) cross-entropy"

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without masks, and for a network without blocks to operate
        on, or fewer than ``position``."""
        task = context.supervised_task
        if task.key != "mask":
            raise SpecError(
                f"catenorm: the task predicts '{task.key}', class maps come from a segmentation; use another recipe"
            )
        if self.dice == "squared" and not isinstance(task, (Segmentation, Multitask)):
            found = f"task is {type(task).__name__.lower()}, whose Dice loss is its own"
            raise SpecError(f"catenorm: {found}; expected segmentation or multitask, or set dice: plain")
        layers_of(network, self.blocks, self.position)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Surgery, warm-up, then two passes and two steps an iteration; W-Net is copied and
        operated on after the warm-up."""
        self.check(scenario, network, context)
        first: Any = self._operated(network, context) if self.shared else network
        first = first.to(context.fabric.device).train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        begin = round(self.warmup * steps)
        loss = MaskLoss(context.supervised_task, self.dice_weight, self.dice)
        warm = context.gradient_step(first, loss, steps=steps)
        train(warm, batches, steps=begin, context=context, name="warm-up")
        second = first if self.shared else self._operated(copied(first), context).to(context.fabric.device)
        if not self.shared:
            warm.optimizer.param_groups[0]["params"].extend(
                second.parameters()
            )  # whose learning rate the schedule sets
            context.meter.trainable_parameters += count_parameters(second)
        step = TwoPassStep(
            second, loss, warm.optimizer, context.fabric, self.clip_value, context.settings.clip, first, warm.schedule
        )
        twice = TwoPass(second, None if self.shared else first)
        passes = [Stage("first-pass", Direct(first), scenario.sites), Stage("second-pass", twice, scenario.sites)]
        yield from train_with_checkpoints(step, batches, steps=range(begin, steps), context=context, along=passes)
        context.show("modulation", modulation_by_class(second, tuple(context.supervised_task.coding.mask)))
        context.show("modulation-over-image", modulation_images(twice, example(scenario), context))
        yield from passes
        return Carry(second, named_state(step.optimizer, second), {} if self.shared else {"first": first})

    def _operated(self, network: Any, context: Context) -> Any:
        single = {} if self.position is None else {"position": self.position}
        return operate(
            network, "catenorm", classes=context.supervised_task.outputs["mask"], blocks=self.blocks, **single
        )


@dataclass(frozen=True)
class MaskLoss:
    """``lambda Dice + (1 - lambda) CE`` of the task's two terms."""

    task: Any
    dice_weight: float | None = None
    dice: Literal["squared", "plain"] = "squared"

    def __call__(self, network: Any, batch: Batch) -> Terms:
        return self.of(network(batch.image), batch)

    def of(self, output: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The terms of an output; those of weight 0 are left out."""
        share = self.dice_weight
        if share is None:
            share = 1.0 if output["mask"].shape[1] == 2 else 0.5
        weights = {"dice": share, "cross_entropy": 1 - share}
        terms = self.task.loss(output, batch, **({"dice": squared_dice_loss} if self.dice == "squared" else {}))
        return {key: weights.get(key, 1.0) * value for key, value in terms.items() if weights.get(key, 1.0) > 0}


@dataclass
class TwoPassStep:
    """Two passes and two steps of one optimizer; ``clip`` is the norm of the first, ``clip_value``
    the largest gradient of the second.

    ``first`` is the network of the first pass; None = the same one. The schedule is told the loss
    of the first pass, once an iteration.
    """

    network: Any
    loss: MaskLoss
    optimizer: torch.optim.Optimizer
    fabric: Any
    clip_value: float
    clip: float | None = None
    first: Any = None
    schedule: Schedule | None = None

    def __call__(self, batch: Batch) -> Terms:
        with self.fabric.autocast():
            output = (self.first or self.network)(batch.image)
            first = self.loss.of(output, batch)
        parameters = self._gradients(first, self.first or self.network)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        with self.fabric.autocast(), guided(self.network, output["mask"].detach().float().softmax(1)):
            second = self.loss.of(self.network(batch.image), batch)
        nn.utils.clip_grad_value_(self._gradients(second, self.network), self.clip_value)
        self.optimizer.step()
        if self.schedule is not None:
            self.schedule(torch.stack([*first.values()]).sum().detach())
        return {
            f"{name}/{key}": value.detach()
            for name, terms in (("first", first), ("second", second))
            for key, value in terms.items()
        }

    def _gradients(self, terms: Terms, network: nn.Module) -> list[nn.Parameter]:
        """Backward; parameters of the branch that was not passed have None, and the optimizer skips
        them."""
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(sum(terms.values()))
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        average_buffers(network)
        return parameters


@dataclass(frozen=True)
class TwoPass:
    """Two forward passes (eq. 3 and 4): the probabilities of the first guide the second's
    normalisation.

    ``first`` is the network of the first pass; None = the same one.
    """

    network: Any
    first: Any = None

    def __call__(self, batch: Batch) -> Prediction:
        with evaluation_mode(self.network, self.first or self.network):
            return padded(_Twice(self.network, self.first or self.network), batch.image)


@dataclass(frozen=True)
class _Twice:
    network: Any
    first: Any

    @property
    def multiple(self) -> int:
        return int(self.network.multiple)

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        first = self.first(image)["mask"]
        with guided(self.network, first.softmax(1)):
            second: dict[str, Tensor] = self.network(image)
        return second


def example(scenario: Scenario) -> CohortItem:
    """The image on which the second pass is shown: the middle one of the source's first case,
    without its label."""
    cohort = scenario.source[0]
    first = min(case.name for case in cohort.cases)
    shown = cohort.where(lambda case: case.name == first).unlabelled()
    return shown, len(shown) // 2


def modulation_images(predictor: TwoPass, item: CohortItem, context: Context) -> Images:
    """The image and the first pass's classes, and the channels whose gamma differs most over the
    image (figure 6)."""
    cohort, index = item
    batch = context.fabric.to_device(cohort.case(index))
    guide, gamma, beta = modulation_over(predictor.network, batch.image, lambda: predictor(batch))
    channels = gamma.flatten(1).std(1, correction=0).argsort(descending=True, stable=True)[:CHANNELS]
    maps = [upright(each[channels].numpy(), cohort) for each in (gamma, beta)]
    named = [(name, window_of(each)) for name, each in zip(("gamma", "beta"), maps, strict=True)]
    classes = upright(guide.argmax(0, keepdim=True).numpy(), cohort)[0]
    left = (thumbnail(item), grey_of(classes, (0.0, len(guide) - 1.0)))
    captions, nobody = [f"channel {int(channel) + 1}" for channel in channels], [""] * len(channels)
    return Images.from_arrays(
        "gamma and beta over a training image",
        [
            [first, *(grey_of(modulated, window) for modulated in each)]
            for first, each, (_, window) in zip(left, maps, named, strict=True)
        ],
        names=[
            f"{name}, black {low:.2f} to white {high:.2f}".replace("-", "\N{MINUS SIGN}") for name, (low, high) in named
        ],
        captions=[["image", *captions], ["classes", *captions]],
        subjects=[[subject_of(item), *nobody], ["", *nobody]],
        note="The channels of the first block with two branches whose gamma differs most over the image, "
        "and the classes that the first pass found.",
    )


def align_intensities(source: Sequence[tuple[Tensor, Tensor]], target: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """Give each class of each source image the intensities that it would have in the target domain
    (appendix A, eq. 6 to 12).

    Each class of each case has a mean and a standard deviation. Over a domain's cases these are
    standardised, and given the spread and the mean that they have over the target's cases; the
    pixels of the class are then brought to the new mean and deviation.

    A class that a case lacks does not count there. A spread of 0 (a single case, say) standardises
    to 0, as does one no larger than the rounding of the pixels, and a deviation that would come out
    negative is 0; the paper says neither. Pixels without a class (-100) stay as they are.

    Args:
        source, target: cases of a domain, (image (*spatial) float, classes (*spatial) int64) each,
            sizes may differ.

    Returns:
        The source images, aligned, as new tensors of their own shapes and dtypes.

    Raises:
        SpecError: no cases, shapes that differ, images that are not floating point, or a class of
            the source that no target case has.

    Example:
        >>> mask = torch.tensor([0, 0, 1, 1])
        >>> aligned = align_intensities([(torch.tensor([0.0, 2.0, 5.0, 7.0]), mask)],
        ...     [(torch.tensor([10.0, 14.0, 1.0, 1.0]), mask)])
        >>> aligned[0]
        tensor([10., 14.,  1.,  1.])
    """
    if not source or not target or any(image.shape != mask.shape for image, mask in (*source, *target)):
        raise SpecError(
            "align_intensities: expected at least one (image, classes) in source and target, both of one shape"
        )
    if kinds := sorted({str(image.dtype) for image, _ in (*source, *target) if not image.is_floating_point()}):
        raise SpecError(
            f"align_intensities: found images of {', '.join(kinds)}, expected floating point; convert them with "
            ".float()"
        )
    aligned = [image.clone() for image, _ in source]
    for label in sorted({int(value) for _, mask in source for value in mask.unique()} - {IGNORED}):
        here, there = (
            [_moments(image, mask == label) for image, mask in domain if (mask == label).any()]
            for domain in (source, target)
        )
        if not there:
            raise SpecError(
                f"align_intensities: class {label} of the source is in no target case; leave it out of the masks"
            )
        own, other = torch.stack(here), torch.stack(there)
        spread, rounding = own.std(0, correction=0), max(_rounding(image, mask == label) for image, mask in source)
        differs = spread > rounding
        standard = torch.where(differs, (own - own.mean(0)) / torch.where(differs, spread, 1), 0)
        new = standard * other.std(0, correction=0) + other.mean(0)
        rows = iter(zip(own, new, strict=True))
        for moved, (image, mask) in zip(aligned, source, strict=True):
            inside = mask == label
            if inside.any():
                (mean, deviation), (wanted, width) = next(rows)
                unit = (image[inside].double() - mean) / torch.where(deviation > 0, deviation, 1)
                moved[inside] = (unit * width.clamp_min(0) + wanted).to(moved.dtype)
    return aligned


def _rounding(image: Tensor, inside: Tensor) -> float:
    """By how much a class's moments may differ for no other reason than the dtype: 4 units in the
    last place of its largest pixel."""
    largest = image[inside].abs().max().item() if inside.any() else 0.0
    return 4 * torch.finfo(image.dtype).eps * largest


def _moments(image: Tensor, inside: Tensor) -> Tensor:
    """Mean and standard deviation of the pixels: (2,) float64."""
    values = image[inside].double()
    return torch.stack([values.mean(), values.std(correction=0)])
