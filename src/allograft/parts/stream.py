"""A stream, stage after stage: what recipes that meet it in order share."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

from torch import Tensor

from allograft.cohort import Cohort, Loader
from allograft.cohort.splits import budget_order
from allograft.context import Context
from allograft.metrics.segmentation import dice
from allograft.networks import AnyNetwork
from allograft.predictor import evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import Scenario, Stage
from allograft.step import GradientStep, Objective
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class Phase:
    """One stage of a stream.

    Args:
        number: from 0.
        cohort: its labelled training cases. Their sites are hidden: a batch has site -1, so that no
            recipe learns from a boundary what the images do not show.
        seen: the sites met so far, these among them; for records, which say what was seen.
    """

    number: int
    cohort: Cohort
    seen: tuple[str, ...]

    @property
    def name(self) -> str:
        """``stage-1``, ``stage-2``, ...: of the training, of its loader and of what is judged."""
        return f"stage-{self.number + 1}"


def phases(scenario: Scenario) -> list[Phase]:
    """The stages of a stream in order."""
    seen: tuple[str, ...] = ()
    listed = []
    for number, cohort in enumerate(scenario.stream):
        seen = (*seen, *sorted({case.site for case in cohort.cases} - set(seen)))
        listed.append(Phase(number, replace(cohort, sites=()), seen))
    return listed


def stage_training(
    network: AnyNetwork, phase: Phase, context: Context, objective: Objective | None = None
) -> tuple[GradientStep, Loader, int]:
    """The training of one stage: ``budget.steps`` updates with an optimizer and a schedule of its
    own.

    Returns:
        The step, its batches, and how many there are.
    """
    batches = context.loader([phase.cohort], phase.name)
    steps = context.settings.budget.training(batches.epoch)
    return context.gradient_step(network.train(), objective, steps=steps), batches, steps


def train_stage(
    network: AnyNetwork, phase: Phase, context: Context, objective: Objective | None, stage: Stage
) -> Generator[Stage, None, GradientStep]:
    """Train on a stage; ``stage`` is yielded at the checkpoints that the budget asks for."""
    step, batches, steps = stage_training(network, phase, context, objective)
    yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage], name=phase.name)
    return step


def held_out_of(phase: Phase, share: float, context: Context, least: int) -> tuple[Cohort, Cohort]:
    """Cases of a share of a stage's subjects, and those of the others; at least ``least`` subjects
    of each. Which they are changes with the seed."""
    order = budget_order(phase.cohort.subjects, context.seeds.child("held-out", phase.number))
    count = min(max(least, round(share * len(order))), len(order) - least)
    return phase.cohort.of(order[:count]), phase.cohort.of(order[count:])


def training_dice(network: AnyNetwork, cohort: Cohort, context: Context) -> float:
    """Mean Dice over cases and the foreground classes that are found or there, on the study's
    grid."""
    scores = []
    for index in range(len(cohort)):
        case = context.fabric.to_device(cohort.case(index))
        with evaluation_mode(network):
            logits = padded(network, case.image)["mask"]
        truth = case.labels["mask"]
        assert isinstance(truth, Tensor)
        for number in range(1, logits.shape[1]):
            value = dice(logits.argmax(1) == number, truth[:, 0] == number)
            scores += [value] if value == value else []  # of a class that is neither found nor there
    return sum(scores) / max(1, len(scores))


def masked_mean(values: Tensor, counts: Tensor | None) -> Tensor:
    """The mean over the pixels that count of each image, then over images: a scalar.

    Args:
        values: (B, *spatial), or (B,).
        counts: (B, 1, *spatial) bool; None = all.
    """
    if counts is None or values.ndim == 1:
        return values.mean()
    weight = counts[:, 0].to(values.dtype).flatten(1)
    return ((values.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(1)).mean()
