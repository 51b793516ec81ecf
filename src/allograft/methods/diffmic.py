"""DiffMIC: a class vector is denoised step by step, guided by the whole image and by its salient
regions (Yang et al. 2023)."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Gt
from torch import Generator as Rng
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, copied
from allograft.networks.diffmic import DiffMicNetwork
from allograft.networks.network import operate
from allograft.nn.diffusion import Spacing, denoise_step, diffuse, linear_alphas
from allograft.nn.rois import GatedAttention, select_rois
from allograft.parts.denoising import show_denoising
from allograft.predictor import Direct, evaluation_mode
from allograft.predictor.denoising import Condition, DiffMicPredictor, Prior, Sampler, Start, conditions, unguided
from allograft.predictor.direct import padded_image
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import GradientStep, named_state
from allograft.tasks import Task
from allograft.tasks.classification import Classification
from allograft.train import train, train_with_checkpoints
from allograft.transforms.sample import Sample

__all__ = ["DiffMic", "GatedAttention", "denoise_step", "diffuse", "mmd", "select_rois"]

STEP, NOISE = "diffusion step", "diffusion noise"
"""Attributes of a batch: what the loader drew for each case."""


# ------------------------------------------------------------------ the paper's equations
def mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two samples, (N, d) and (M, d) -> () (eq. 5), biased: the
    diagonal counts.

    The kernel is ``exp(-mean_d((x - y)^2) / d)``; the paper names none, and this is the released
    code's, which divides by d twice.

    Example:
        >>> mmd(torch.zeros(2, 1), torch.ones(2, 1)).item() == 2 - 2 * torch.tensor(-1.0).exp().item()
        True
    """

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        return (-(a[:, None] - b[None]).square().mean(2) / a.shape[1]).exp().mean()

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)


@dataclass(frozen=True)
class WithNoise:
    """A loader's transform: the step and the noise of the diffusion, drawn for each case with its
    augmentation, so that one process and many draw alike."""

    sample: Any
    steps: int
    classes: int

    def __call__(self, case: Batch, rng: Rng) -> Batch:
        """``case`` has B = 1; t is uniform over all steps."""
        case = self.sample(case, rng)
        drawn = {
            STEP: torch.randint(self.steps, (1,), generator=rng),
            NOISE: torch.randn(1, self.classes, generator=rng),
        }
        return replace(case, attributes={**case.attributes, **drawn})


@dataclass(frozen=True)
class DiffMicObjective:
    """Cross-entropy of the guidance, the error of the predicted noise (eq. 4) and the discrepancies
    of the passes by one prior (eq. 6); ``warm`` for the guidance alone."""

    recipe: DiffMic
    task: Task
    warm: bool = False

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        recipe, label = self.recipe, batch.labels["label"]
        assert isinstance(network, DiffMicNetwork)
        assert isinstance(label, Tensor)
        terms: dict[str, Tensor] = {}
        passes: dict[str, Condition] = {}
        if network.guidance is not None:
            guided = network.guidance(batch.image)
            terms |= self.task.loss({"label": guided.fused}, batch)
            if self.warm:
                return terms
            if not recipe.guidance_gradient:
                with evaluation_mode(network.guidance):
                    guided = network.guidance(batch.image)
            passes = conditions(guided, recipe.prior)
        noise, t = batch.attributes[NOISE], batch.attributes[STEP]
        image, y0 = network.embed(batch.image), F.one_hot(label, network.classes).to(noise)
        alpha_bar = linear_alphas(network.steps).cumprod(0).to(noise)[t]
        passes = passes or {"both": unguided(len(batch), network.classes, noise)}
        for name, given in passes.items():
            if name != "both" and recipe.mmd == 0:
                continue
            assert network.denoiser is not None
            predicted = network.denoiser(diffuse(y0, given.drift, alpha_bar, noise), given.vectors, image, t)
            if name == "both":
                terms["noise"] = F.mse_loss(predicted, noise)
            else:
                terms[f"mmd/{name}"] = recipe.mmd * mmd(noise, predicted)
        return terms


@dataclass(frozen=True)
class DiffMic:
    """Classify by denoising: a class vector starts at noise about what the guidance expects, and is
    brought to a class step by step.

    The guidance reads the whole image (a saliency map, whose mean are logits) and the regions where
    that is highest (fused by gated attention). It is trained by cross-entropy of its fused logits,
    alone for ``warmup`` epochs of the budget, then together with the denoiser. Of the paper's
    ablation, `basic` is ``supervised``, C1 ``{guidance: false, mmd: 0}``, C2 ``{mmd: 0}``;
    ``{diffusion: false, mmd: 0}`` is the guidance alone, which stands for GMIC. PVT, MTL, DANIL, CL
    and ProCo are not built.

    Where the paper is silent or contradicts itself: the predicted class is the largest of the mean
        of
    several denoised vectors (there one), and probabilities, which the paper has none of, take a
    denoised vector as a class seen through Gaussian noise of variance ``temperature``. Optimizer,
    schedule, augmentation and budget are the study's (the paper: Adam 1e-3, batches of 32, 1000
    epochs, flips and turns). The noise error is a mean over cases and classes, as in the released
    code. Of several processes, each takes the discrepancy of its own share of a batch.

    Args:
        prior: ``sum``: eq. 2 drifts to y_g + y_l; ``mean_softmax`` (released): to the softmax of
            the mean logits.
        start: ``paper``: with ``sum``, sampling starts at (y_g + y_l) / 2 (eq. 1), half of where
            the training ends. ``forward``: at y_g + y_l. No matter for ``mean_softmax``.
        guidance, diffusion: False leaves that part out.
        mmd: lambda of eq. 6.
        guidance_gradient: whether the diffusion trains the guidance too (paper, "end-to-end");
            False: priors come from the guidance in evaluation mode, without gradient (released).
        warmup: epochs for the guidance alone (released: 15).
        guidance_rate: learning rate of the guidance as a multiple of the study's: 2e-4 of 1e-3.
        crops, crop_size: regions an image, and their side in pixels.
        width: of the denoiser.
        training_steps: T of the training (released; the paper does not say).
        steps: T of the inference: the paper's 100 for balanced classes; 250 and 60 for the others.
        spacing: ``respaced`` takes ``steps`` of the training's steps evenly; ``released`` its
            first.
        sampler: ``ddpm``, or ``ddim`` without noise of its own.
        samples: denoised vectors an image; their spread reaches records and tables. One has none.
        temperature: variance behind the probabilities.
        bfloat16: multiply the denoiser's matrices so, at inference.
        first: what the training begins with; None = the study's start.
    """

    prior: Prior = "sum"
    start: Start = "paper"
    guidance: bool = True
    diffusion: bool = True
    mmd: Annotated[float, Ge(0)] = 0.5
    guidance_gradient: bool = True
    warmup: Annotated[int, Ge(0)] = 10
    guidance_rate: Annotated[float, Gt(0)] = 0.2
    crops: Annotated[int, Ge(1)] = 6
    crop_size: Annotated[int, Ge(1)] = 32
    width: Annotated[int, Ge(1)] = 6144
    training_steps: Annotated[int, Ge(1)] = 1000
    steps: Annotated[int, Ge(1)] = 100
    spacing: Spacing = "respaced"
    sampler: Sampler = "ddpm"
    samples: Annotated[int, Ge(1)] = 5
    temperature: Annotated[float, Gt(0)] = 0.2
    bfloat16: bool = False
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="yang2023diffmic",
        authors="Yang, Y. and Fu, H. and Aviles-Rivero, A. I. and Schoenlieb, C.-B. and Zhu, L.",
        title="DiffMIC: Dual-Guidance Diffusion Network for Medical Image Classification",
        venue="Medical Image Computing and Computer Assisted Intervention",
        year=2023,
        doi="10.1007/978-3-031-43987-2_10",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def __post_init__(self) -> None:
        if not (self.guidance and self.diffusion) and (self.mmd or not (self.guidance or self.diffusion)):
            found = f"guidance {self.guidance}, diffusion {self.diffusion}, mmd {self.mmd}"
            raise SpecError(f"diffmic: found {found}; expected one of the two, and mmd: 0 where either is left out")
        if self.steps > self.training_steps:
            raise SpecError(
                f"diffmic: steps is {self.steps}, the training has {self.training_steps}; lower steps, or raise "
                "training_steps"
            )

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without a class an image, one class alone, a warm-up that
        takes all of the budget, or images that are volumes or too small for the regions."""
        if not isinstance(context.task, Classification):
            raise SpecError("diffmic: denoises one class per image; expected task: {classification: {classes: [...]}}")
        classes = {str(case.labels["label"]) for cohort in scenario.source for case in cohort.cases if case.labels}
        if len(classes) < 2:
            raise SpecError(f"diffmic: source images are all of one class, {', '.join(classes)}; add a site or classes")
        self._warmup(scenario, context)
        case = Sample("none", context.settings.patch)(
            scenario.source[0].unlabelled().case(0), context.seeds.rng("check")
        )
        if case.image.ndim != 4:
            raise SpecError("diffmic: regions are cut from 2-D images, these are volumes; set slices: {axis: 2}")
        if min(case.image.shape[2:]) < self.crop_size and self.guidance:
            size = "x".join(map(str, case.image.shape[2:]))
            raise SpecError(f"diffmic: crops of {self.crop_size} pixels from images of {size}; lower crop_size")
        with evaluation_mode(made := self._operated(copied(network))):
            if made.guidance is not None:
                made.guidance(padded_image(case.image.to(next(made.parameters()).device), made.multiple))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 2.3, over ``budget.steps``, the warm-up among them."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        made = self._operated(network).to(context.fabric.device).train()
        cohorts = [cohort.labelled("label") for cohort in scenario.source]
        transform = WithNoise(
            Sample(context.settings.augmentation, context.settings.patch), self.training_steps, made.classes
        )
        batches = context.loader(cohorts, "source", transform=transform)
        total, warm = context.settings.budget.training(batches.epoch), self._warmup(scenario, context)
        if made.guidance is not None and warm:
            train(self._step(made, context, warm, alone=True), batches, steps=warm, context=context, name="warm-up")
        step = self._step(made, context, total - warm, alone=not self.diffusion)
        stage = Stage("trained", self.predictor(made), scenario.sites)
        yield from train_with_checkpoints(
            step, batches, steps=range(warm, total), context=context, along=[stage], total=total
        )
        if isinstance(stage.predictor, DiffMicPredictor):
            show_denoising(stage.predictor, cohorts, context)
        yield stage
        return Carry(made, named_state(step.optimizer, made))

    def predictor(self, network: DiffMicNetwork) -> Direct | DiffMicPredictor:
        """What answers: the sampler, or the guidance alone."""
        if not self.diffusion:
            return Direct(network)
        shared = (f.name for f in fields(DiffMicPredictor) if f.name != "network")
        return DiffMicPredictor(network, **{name: getattr(self, name) for name in shared})

    def _warmup(self, scenario: Scenario, context: Context) -> int:
        """Steps of the warm-up; ``SpecError`` where they leave none."""
        epoch = context.loader([cohort.labelled("label") for cohort in scenario.source], "source").epoch
        total, warm = context.settings.budget.training(epoch), self.warmup * epoch * self.guidance * self.diffusion
        if warm >= total:
            raise SpecError(
                f"diffmic: a warm-up of {self.warmup} epochs takes {warm} steps, the budget has {total}; lower warmup, "
                "or raise budget.steps"
            )
        return warm

    def _operated(self, network: AnyNetwork) -> DiffMicNetwork:
        priors = 0 if not self.guidance else 2 if self.prior == "sum" else 1
        sizes = {"crops": self.crops * self.guidance, "crop_size": self.crop_size, "priors": priors}
        made = operate(network, "diffmic", **sizes, width=self.width, steps=self.training_steps * self.diffusion)
        assert isinstance(made, DiffMicNetwork)
        return made

    def _step(self, network: DiffMicNetwork, context: Context, steps: int, *, alone: bool) -> GradientStep:
        """A step of the guidance alone, or of everything, each at its own rate."""
        guidance = [] if network.guidance is None else list(network.guidance.parameters())
        known = {id(p) for p in guidance}
        others = [] if alone else [p for p in network.parameters() if id(p) not in known]
        optimizer = context.optimizer(others or guidance)
        rate = self.guidance_rate * optimizer.param_groups[0]["lr"]
        if others and guidance:
            optimizer.add_param_group({"params": guidance, "lr": rate})
        elif guidance:
            optimizer.param_groups[0]["lr"] = rate
        objective = DiffMicObjective(self, context.supervised_task, warm=alone)
        return context.gradient_step(network, objective, optimizer, steps=steps)
