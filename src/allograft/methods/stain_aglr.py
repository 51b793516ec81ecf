"""Stain-AgLr: consistent predictions under other stains, and a decoder that restores the original
stain (Raipuria et al. 2022)."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt, Lt
from torch import Generator as Rng
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from allograft.batch import Batch
from allograft.cohort import Cohort, Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.networks.stain_cnn import StainDecoder
from allograft.parts.balanced_classes import balanced
from allograft.parts.feature_figure import show_features
from allograft.parts.features import last
from allograft.parts.held_out import HeldOutStep, mean_loss, split_subjects, train_to_plateau
from allograft.parts.stain_figure import restored_images, stained_images
from allograft.parts.white_level import white_level
from allograft.predictor import Direct, evaluation_mode
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.seeds import Seeds
from allograft.step import GradientStep, Terms, named_state
from allograft.tasks import Task
from allograft.tasks.classification import Classification
from allograft.train import train_with_checkpoints
from allograft.transforms.augmentation import apply, draw
from allograft.transforms.elastic import deform, draw_displacement
from allograft.transforms.sample import Sample
from allograft.transforms.stain import Preset, StainJitter

ALTERED = "altered stain"
"""The batch's attribute that holds the image in other stains."""

LEAST = 1e-5
"""The learning rate at which the paper stops."""


@dataclass(frozen=True)
class StainAgLr:
    """Learn to ignore the stain: ``L = L_CE + lambda_1 L_Reg + lambda_2 L_Cons`` (eq. 1); a decoder
    helps in training only.

    x is a source image as stored, but for what moves its pixels, and x' the same pixels with other
    amounts of stain (HED jitter) and, as ``jitter`` says, more: light adds noise, brightness and
    contrast, strong also blur, gamma and zoom (a coarser resolution). With either both views are
    deformed elastically, and alike.

    - L_CE: cross-entropy, the mean over x and x', which pass through the network in one batch.
    - L_Cons = D_KL(p(x) || p(x')) (eq. 2), the mean over the batch; gradients pass through both.
    - L_Reg: squared distance of the decoder's image from x, summed over colours, mean over pixels
      (eq. 3), for colours in [0, 1].

    What is evaluated and kept is the classifier alone, so it costs what a plain one does. With
    ``jitter: none`` and both weights 0 there is no x', and the training is that of ``supervised``
    to the bit.

    The paper has "HED-light with default parameters, including morphological and
    brightness-contrast augmentations". HED jitter and elastic deformation have the strength of its
    source's code (``transforms.stain.PRESETS``, ``transforms.elastic``). What else x' has is ours:
    it is drawn as ``transforms.augmentation`` draws it at the same strength. Of the study's own
    ``augmentation`` only what moves pixels is used (crop, turns, scale; flips under strong), on x
    and x' alike, since x' must be restored to x; its changes of intensity are left out. Optimizer
    and learning rate are the study's (the paper: Adam, 1e-2 or 5e-3), as for every row, and so is
    the schedule, unless ``patience`` is set. Normalisers by generative networks, which the paper
    compares with, are not built; ``stain_normalisation`` has the others.

    Args:
        regeneration: lambda_1; 0 builds no decoder.
        consistency: lambda_2.
        jitter: light, strong or none. With weights 0 this is HED augmentation alone.
        balanced: every class has the same share of a batch, as in the paper's smaller data set.
        elastic: False leaves out the elastic deformation, as ``jitter: none`` does.
        patience: None follows the study's schedule to the end of its budget. A number is the
            paper's own: times 0.1 when the validation loss has not fallen for more than so many
            epochs (there 4 and 15), an end at 1e-5 or with the budget, and the weights of the
            lowest validation loss. A recipe does not see the study's validation subjects, so it
            holds out subjects of its own; their loss is the cross-entropy of images as they are.
        held_out: share of the source's training subjects that ``patience`` holds out, at least
            one; the paper does not give its own.
    """

    regeneration: Annotated[float, Ge(0)] = 0.1
    consistency: Annotated[float, Ge(0)] = 10.0
    jitter: Literal["light", "strong", "none"] = "light"
    balanced: bool = False
    elastic: bool = True
    patience: Annotated[int, Ge(0)] | None = None
    held_out: Annotated[float, Gt(0), Lt(1)] = 0.2

    paper: ClassVar[Paper | None] = Paper(
        key="raipuria2022stain",
        authors="Raipuria, G. and Shrivastava, A. and Singhal, N.",
        title="Stain-AgLr: Stain Agnostic Learning for Computational Histopathology Using Domain Consistency and "
        "Stain Regeneration Loss",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_4",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def __post_init__(self) -> None:
        if self.jitter == "none" and (self.regeneration or self.consistency):
            found = f"regeneration {self.regeneration}, consistency {self.consistency}"
            raise SpecError(
                f"jitter none leaves nothing to restore or to agree with, found {found}; expected both 0, or jitter: "
                "light"
            )

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without a class an image, a network without an encoder, or
        images that are no RGB."""
        if not isinstance(context.task, Classification):
            found = f"task is {type(context.task).__name__.lower()}, losses are those of one class per image"
            raise SpecError(
                f"stain_aglr: {found}; expected task: {{classification: {{classes: [...]}}}}, or choose "
                "stain_normalisation"
            )
        if not isinstance(network, Network):
            raise SpecError(
                "stain_aglr: the network is one opaque module without an encoder; choose a network of our table, as "
                "stain_cnn"
            )
        if self.jitter != "none":
            white_level(scenario.source, "stain_aglr")
        if self.patience is not None:
            split_subjects(scenario.source, self.held_out, context, "stain_aglr")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates at most, on source batches in which each image stands twice."""
        self.check(scenario, network, context)
        assert isinstance(network, Network)
        network.train()
        source: Sequence[Cohort] = scenario.source
        validation: Sequence[Cohort] = ()
        if self.patience is not None:
            source, validation = split_subjects(source, self.held_out, context, "stain_aglr")
        batches = balanced(source, context) if self.balanced else context.loader(source, "source")
        white = 1.0
        if self.jitter != "none":
            white = white_level(scenario.source, "stain_aglr")
            sample = Sample(context.settings.augmentation, context.settings.patch)
            batches = replace(batches, transform=TwoViews(sample, self.jitter, white, self.elastic))
        decoder = self.decoder(network, batches, context)
        stage = Stage("trained", Direct(network), scenario.sites)
        steps = context.settings.budget.training(batches.epoch)
        objective = StainObjective(self, context.supervised_task, decoder, white)
        step = context.gradient_step(network, objective, steps=steps if self.patience is None else None)
        if self.patience is None:
            yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        else:
            yield from self.until_plateau(step, batches, validation, context, stage)
        show_features(network, scenario.source, context)
        if self.jitter != "none":
            show_stains(network, decoder, TwoViews(None, self.jitter, white, elastic=False), scenario.source, context)
        yield stage
        return Carry(network, named_state(step.optimizer, network))

    def until_plateau(
        self, step: GradientStep, batches: Loader, validation: Sequence[Cohort], context: Context, stage: Stage
    ) -> Generator[Stage, None, None]:
        """Train by the paper's schedule; ``stage`` is yielded along the way. The network has the
        weights of the lowest validation loss afterwards."""
        assert self.patience is not None
        steps, epoch = context.settings.budget.training(batches.epoch), batches.epoch
        loss = partial(mean_loss, step.network, context.supervised_task, validation, context)
        scheduler = ReduceLROnPlateau(step.optimizer, factor=0.1, patience=self.patience)
        yield from train_to_plateau(HeldOutStep(step, loss, scheduler, epoch, steps), batches, LEAST, context, stage)

    def decoder(self, network: Network, batches: Loader, context: Context) -> StainDecoder | None:
        """A decoder for the size of these images; None at weight 0."""
        if not self.regeneration:
            return None
        image = context.fabric.to_device(next(batches(0))).image[:1]
        with evaluation_mode(network):
            feature = last(network.encoder(image))
        return StainDecoder(feature.shape[1], math.log2(image.shape[-1] / feature.shape[-1])).to(image.device)


def consistency_loss(raw: Tensor, altered: Tensor) -> Tensor:
    """``D_KL(softmax(raw) || softmax(altered))`` in nats, the mean over the batch (eq. 2): logits
    (B, K) and (B, K) -> ().

    >>> consistency_loss(torch.zeros(1, 2), torch.tensor([[2.0, 2.0]])).item()
    0.0
    """
    return F.kl_div(altered.log_softmax(1), raw.log_softmax(1), reduction="batchmean", log_target=True)


def regeneration_loss(restored: Tensor, raw: Tensor) -> Tensor:
    """``1 / (W H) sum_i |restored_i - raw_i|^2`` (eq. 3), the mean over the batch: (B, C, H, W)
    twice -> ().

    A pixel's squared distance is summed over colours, so this is C times the mean squared error of
    all numbers.

    >>> regeneration_loss(torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)).item()
    3.0
    """
    return (restored - raw).square().sum(1).mean()


@dataclass(frozen=True)
class TwoViews:
    """A loader's transform: a raw sample x, and as an attribute x', the same pixels in other
    stains, drawn by image.

    Args:
        sample: crop and augmentation; what moves pixels acts on both views, its changes of
            intensity on neither. None = the whole image.
        preset: of the jitter, and of the changes of intensity of x'. light: noise, brightness,
            contrast; strong: also blur, gamma, zoom.
        white: the value of white.
        elastic: deform both views, alike.
    """

    sample: Sample | None
    preset: Preset
    white: float
    elastic: bool = True

    def __call__(self, case: Batch, rng: Rng) -> Batch:
        """``case`` has B = 1. Its image moves but keeps its colours; the attribute is (1, 3, H, W),
        on the image's scale."""
        case = case if self.sample is None else replace(self.sample, intensity=False)(case, rng)
        if self.elastic:
            height, width = case.image.shape[2:]
            case = replace(case, image=deform(case.image[0], draw_displacement((height, width), rng))[None])
        jitter = StainJitter(self.preset)
        altered = jitter.apply((case.image / self.white).clamp(0, 1), *jitter.draw(1, rng))[0]
        still = replace(draw(self.preset, 2, rng), angles=(), log_scale=0.0, flips=())
        altered = apply(altered, {}, still, rng)[0].clamp(0, 1) * self.white
        return replace(case, attributes={**case.attributes, ALTERED: altered[None]})


class StainObjective(nn.Module):
    """The three losses of eq. 1, weighted; owns the decoder.

    Args:
        recipe: weights.
        task: its loss is taken of the image and of the altered image, half of each.
        decoder: None where nothing is restored.
        white: the value of white, by which restored colours are scaled.
    """

    def __init__(self, recipe: StainAgLr, task: Task, decoder: StainDecoder | None, white: float) -> None:
        super().__init__()
        self.recipe, self.task, self.decoder, self.white = recipe, task, decoder, white

    def forward(self, network: Network, batch: Batch) -> Terms:
        altered = batch.attributes.get(ALTERED)
        if altered is None:
            return self.task.objective(network, batch)
        features = network.encoder(torch.cat([batch.image, altered]))
        logits = network.heads["label"](features, None).float()
        raw, other = logits.chunk(2)
        terms = {f"{key}/raw": value / 2 for key, value in self.task.loss({"label": raw}, batch).items()}
        terms |= {f"{key}/altered": value / 2 for key, value in self.task.loss({"label": other}, batch).items()}
        if self.recipe.consistency:
            terms["consistency"] = self.recipe.consistency * consistency_loss(raw, other)
        if self.decoder is not None:
            restored = self.decoder(last(features)[len(batch) :], batch.image.shape[2:])
            terms["regeneration"] = self.recipe.regeneration * regeneration_loss(
                restored.float(), batch.image / self.white
            )
        return terms


def show_stains(
    network: Network, decoder: StainDecoder | None, transform: TwoViews, cohorts: Sequence[Cohort], context: Context
) -> None:
    """Keep a figure of training images, of the same in other stains, and of what the decoder makes
    of those (fig. 4)."""

    def altered(cases: Sequence[Batch]) -> list[Tensor]:
        drawn = (transform(case, Seeds(0).rng("shown", number)) for number, case in enumerate(cases))
        return [context.fabric.to_device(case).attributes[ALTERED] for case in drawn]

    def regenerated(cases: Sequence[Batch]) -> list[Tensor]:
        assert decoder is not None
        return [image * transform.white for image in restored_images(network, decoder, altered(cases))]

    views = {"other stains": altered, **({} if decoder is None else {"regenerated": regenerated})}
    context.show("stains", stained_images("source images in other stains", cohorts, views, transform.white))
