"""Mean teacher: on target images the network agrees with a slow average of itself (Perone et al.
2019)."""

from __future__ import annotations

import math
from collections.abc import Generator as Running
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from torch import Generator, Tensor, nn

from allograft.batch import Batch, collate
from allograft.cohort import Loader
from allograft.context import Context
from allograft.context.settings import Strength
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, copied
from allograft.nn.processes import count_over_processes
from allograft.parts.entropy import KINDS, check_probabilities
from allograft.parts.paired_batches import halves
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import GradientStep, Terms, average_buffers, named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints
from allograft.transforms.augmentation import Draw, affine, apply, draw
from allograft.transforms.sample import Sample

TEACHER, THETA = "teacher", "theta to the teacher's view"
"""The view of an image that the teacher sees, and the attribute that leads there."""


@dataclass(frozen=True)
class MeanTeacher:
    """Train on source labels while the predictions for target images follow those of a teacher, the
    exponential moving average of the network (self-ensembling).

    Both see the same crop of a target image under draws of their own. The loss is the task's on the
    source + ``weight`` times the mean squared difference of the two's probabilities; no gradient
    reaches the teacher. A mask of the teacher is brought to the student's view: its rotation, scale
    and flips are undone and the student's done, linearly, and pixels that either view lacks do not
    count. The weight rises as ``exp(-5 (1 - t)^2)`` over the first ``ramp_up`` of the training.
    After step n the teacher is ``a teacher + (1 - a) network`` with ``a = min(1 - 1 / (n + 1),
    momentum)``. The teacher, whose batch statistics are those of target images alone, is what is
    evaluated and handed on.

    The method is French et al. 2018's for classes (momentum 0.99, weight 3, and a threshold of
    confidence in place of the ramp, which is not built), and Perone et al.'s for masks, whose
    values are the defaults: 350 epochs, momentum 0.999 after 50 and the ramp over 100, squared
    differences with a weight of 20. Each step sees ``batch_size`` source cases and as many target
    images. Where we differ: it starts from a trained network; the study's optimizer and schedule
    (theirs: Adam 6e-4, a ramp of 50 epochs, cosine); in the paper the student's view alone is
    moved.

    Args:
        weight: of the consistency; at 0 the target still enters batch statistics.
        momentum, late_momentum: alpha, before and after ``late`` of the training.
        late: a share of the training's steps.
        ramp_up: a share of the training's steps; 0 has the whole weight from the start.
        augmentation: none, light or strong, of both views; by default the study's.
        first: what the adaptation starts from; the papers' start is ``first: start``.
    """

    weight: Annotated[float, Ge(0)] = 20.0
    momentum: Annotated[float, Ge(0), Le(1)] = 0.99
    late_momentum: Annotated[float, Ge(0), Le(1)] = 0.999
    late: Annotated[float, Ge(0), Le(1)] = 0.143
    ramp_up: Annotated[float, Ge(0), Le(1)] = 0.286
    augmentation: Strength | None = None
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="perone2019unsupervised",
        authors="Perone, C. S. and Ballester, P. and Barros, R. C. and Cohen-Adad, J.",
        title="Unsupervised Domain Adaptation for Medical Imaging Segmentation with Self-Ensembling",
        venue="NeuroImage",
        year=2019,
        doi="10.1016/j.neuroimage.2019.03.026",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without masks or classes."""
        check_probabilities(context.supervised_task, "mean_teacher")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Running[Stage, None, Carry]:
        """``budget.adapt_steps`` updates; an epoch of ``budget.adapt_epochs`` is one pass over the
        source."""
        self.check(scenario, network, context)
        network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        views = TwoDraws(self.augmentation or context.settings.augmentation, context.settings.patch)
        target = context.loader(scenario.target, "target", transform=views)
        pairs = ViewedPairs(context.loader(scenario.source, "source"), target)
        steps = context.settings.budget.adaptation(pairs.source.epoch)
        teacher = copied(network)
        inner = context.gradient_step(network, Consistency(context.supervised_task, teacher), steps=steps)
        stage = Stage("adapted", Direct(teacher), scenario.sites)
        step = TeacherStep(inner, teacher, self, steps)
        yield from train_with_checkpoints(step, pairs, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(teacher, named_state(inner.optimizer, network))


def rise(step: int, steps: float) -> float:
    """``exp(-5 (1 - t)^2)`` with t = step / steps, 1 from then on.

    >>> rise(0, 10), rise(10, 10), rise(3, 0)
    (0.006737946999085467, 1.0, 1.0)
    """
    return math.exp(-5 * (1 - step / steps) ** 2) if step < steps else 1.0


@torch.no_grad()
def follow(teacher: nn.Module, network: nn.Module, momentum: float) -> None:
    """``momentum * teacher + (1 - momentum) * network`` of every parameter, in place; running
    statistics stay the teacher's own."""
    for slow, fast in zip(teacher.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, 1 - momentum)


def theta_between(student: Draw, teacher: Draw, size: tuple[int, ...], spacing: list[float] | None) -> Tensor:
    """Where a pixel of the student's view of an image lies in the teacher's: ``theta`` of
    ``affine_grid``, (D, D + 1) float64, from positions in [-1, 1] to positions, x first.

    Args:
        student, teacher: draws of ``augmentation.apply`` on one image of this size.
        size: (*spatial).
        spacing: of its pixels, None = cubes.
    """
    start = [0] * len(size)
    last = torch.eye(len(size) + 1, dtype=torch.float64)[-1:]
    to_image, from_image = (
        torch.cat([affine(drawn, size, size, start, spacing), last]) for drawn in (student, teacher)
    )
    return torch.linalg.solve(from_image, to_image)[:-1]


def in_students_view(probabilities: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
    """The teacher's maps in the student's view, and where it has any.

    Args:
        probabilities: (B, K, *spatial).
        theta: (B, D, D + 1), see ``theta_between``.

    Returns:
        (B, K, *spatial), linear between pixels; (B, *spatial) bool.
    """
    grid = F.affine_grid(theta.to(probabilities), list(probabilities.shape), align_corners=False)
    moved = F.grid_sample(probabilities, grid, padding_mode="border", align_corners=False)
    return moved, (grid.abs() <= 1).all(-1)


@dataclass(frozen=True)
class TwoDraws:
    """A crop seen by student and teacher, each moved and changed by a draw of its own.

    Args:
        strength: none, light or strong.
        patch: size of the crop; None = the whole image.
    """

    strength: str
    patch: tuple[int, ...] | None = None

    def __call__(self, case: Batch, rng: Generator) -> Batch:
        """``case`` has B = 1. The student's image, its region, and under ``TEACHER`` the
        teacher's."""
        crop = Sample("none", self.patch)(case.unlabelled(), rng)
        image, size = crop.image[0], tuple(crop.image.shape[2:])
        spacing = None if case.spacing is None else case.spacing[0].tolist()
        first, second = draw(self.strength, len(size), rng), draw(self.strength, len(size), rng)
        region = {} if crop.region is None else {"region": crop.region[0]}
        student, moved = apply(image, region, first, rng, spacing=spacing)
        teacher, _ = apply(image, {}, second, rng, spacing=spacing)
        theta = theta_between(first, second, size, spacing).float().flatten()
        return replace(
            crop,
            image=student[None],
            region=moved["region"][None] if region else None,
            views={TEACHER: teacher[None]},
            attributes={**crop.attributes, THETA: theta[None]},
        )


@dataclass(frozen=True)
class ViewedPairs:
    """Batches of as many target images as source cases, the source first; the target with both
    views."""

    source: Loader
    target: Loader

    def __call__(self, start: int) -> Iterator[Batch]:
        """Batches from step ``start`` on; the target's hold no label."""
        for source, target in zip(self.source(start), self.target(start), strict=True):
            yield collate([replace(source, views={TEACHER: source.image}), target.unlabelled()])


@dataclass
class Consistency:
    """The task's loss on the source + ``weight`` times the squared difference to the teacher on the
    target, as an objective."""

    task: Task
    teacher: AnyNetwork
    weight: float = 0.0

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        source, target = halves(batch)
        terms = dict(self.task.objective(network, source))
        student = self._probabilities(network(target.image))
        with torch.no_grad():
            teacher = self._probabilities(self.teacher(target.views[TEACHER]))
        for key, own in student.items():
            difference = self._mean_square(own, teacher[key], target)
            terms[f"consistency/{key}"] = self.weight * difference
        return terms

    def _probabilities(self, output: Mapping[str, Tensor]) -> dict[str, Tensor]:
        several = self.task.coding.several
        return {
            key: value.float().sigmoid() if key == "label" and several else value.float().softmax(1)
            for key, value in output.items()
            if key in KINDS
        }

    def _mean_square(self, student: Tensor, teacher: Tensor, target: Batch) -> Tensor:
        """Over classes, over the pixels that count, over images."""
        if student.ndim == 2:
            each = (student - teacher).square().mean(1)
            return each.sum() / count_over_processes(torch.ones_like(each, dtype=torch.bool))
        dims = student.ndim - 2
        teacher, counts = in_students_view(teacher, target.attributes[THETA].view(-1, dims, dims + 1))
        if target.region is not None:
            counts = counts & target.region[:, 0]
        pixels = counts.flatten(1).sum(1)
        squares = (student - teacher).square().mean(1) * counts
        return (squares.flatten(1).sum(1) / pixels.clamp_min(1)).sum() / count_over_processes(pixels > 0)


@dataclass
class TeacherStep:
    """An update of the network, after which the teacher follows.

    Args:
        inner: of the network; its objective is a ``Consistency``.
        teacher: what follows.
        recipe: weight, momentum and when they change.
        steps: of the whole training.
        done: updates so far.
    """

    inner: GradientStep
    teacher: AnyNetwork
    recipe: MeanTeacher
    steps: int
    done: int = 0

    def __call__(self, batch: Batch) -> Terms:
        assert isinstance(self.inner.objective, Consistency)
        self.inner.objective.weight = self.recipe.weight * rise(self.done, self.recipe.ramp_up * self.steps)
        terms = self.inner(batch)
        average_buffers(self.teacher)
        self.done += 1
        late = self.done > self.recipe.late * self.steps
        momentum = self.recipe.late_momentum if late else self.recipe.momentum
        follow(self.teacher, self.inner.network, min(1 - 1 / (self.done + 1), momentum))
        return terms
