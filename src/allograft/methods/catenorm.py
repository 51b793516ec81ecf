"""Categorical normalisation: a second pass whose encoder is normalised by the classes that the
first pass saw."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.figure import Images
from allograft.grey import grey_of, window_of
from allograft.networks import AnyNetwork, copied, count_parameters
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
