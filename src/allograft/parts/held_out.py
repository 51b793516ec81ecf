"""A training that looks at images of its own that it does not train on: a learning rate that falls
on a plateau of their loss, and the weights at which that loss was lowest."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from allograft.batch import Batch, collate
from allograft.cohort import Cohort, Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.predictor import evaluation_mode
from allograft.recipe import Stage
from allograft.step import GradientStep, Terms
from allograft.tasks import Task
from allograft.train import train_with_checkpoints


def split_subjects(
    cohorts: Sequence[Cohort], share: float, context: Context, name: str, instead: str = "leave out patience"
) -> tuple[list[Cohort], list[Cohort]]:
    """Those to train on, and those held out: a share of the subjects of all cohorts together, drawn
    at random; of either at least one. A patient who was seen at two sites is on one side.

    Args:
        name: of the recipe, for the error.
        instead: what else the user can do, for the error.

    Raises:
        SpecError: fewer than two subjects.
    """
    subjects = sorted({subject for cohort in cohorts for subject in cohort.subjects})
    if len(subjects) < 2:
        raise SpecError(
            f"{name}: {len(subjects)} subject to train on, of which none can be held out; expected two at least, or "
            f"{instead}"
        )
    count = min(max(1, round(share * len(subjects))), len(subjects) - 1)
    order = torch.randperm(len(subjects), generator=context.seeds.rng("held-out", len(subjects))).tolist()
    out = {subjects[number] for number in order[:count]}

    def part(inside: bool) -> list[Cohort]:
        views = [cohort.where(lambda case: (case.subject in out) == inside) for cohort in cohorts]
        return [view for view in views if len(view)]

    return part(False), part(True)


def mean_loss(network: AnyNetwork, task: Task, cohorts: Sequence[Cohort], context: Context) -> float:
    """The task's loss of images as they are, without crop and augmentation, in evaluation mode: the
    mean over images."""
    size = context.batch_size if context.settings.patch is None else 1  # images in crops may differ in size
    total, count = 0.0, 0
    with evaluation_mode(network):
        for cohort in cohorts:
            for start in range(0, len(cohort), size):
                cases = [cohort.case(index) for index in range(start, min(start + size, len(cohort)))]
                batch = context.fabric.to_device(collate(cases))
                total += float(torch.stack([*task.objective(network, batch).values()]).sum()) * len(batch)
                count += len(batch)
    return total / count


@dataclass
class HeldOutStep:
    """A gradient step that at the end of each epoch takes a loss of held-out images: the learning
    rate falls on its plateau, and the weights of its minimum are kept in ``best``.

    All its state is in its fields, so a training that was killed resumes with it.

    Args:
        step: the update; its own schedule is None.
        loss: of the held-out images, as the network is now.
        scheduler: torch's, told the loss.
        every: updates in an epoch.
        total: updates in all; the last one ends an epoch too.
        best: the network at its lowest loss; the first one until then.
    """

    step: GradientStep
    loss: Callable[[], float]
    scheduler: ReduceLROnPlateau
    every: int
    total: int
    best: nn.Module = field(init=False)
    lowest: float = math.inf
    taken: int = 0

    def __post_init__(self) -> None:
        self.best = copy.deepcopy(self.step.network)

    def __call__(self, batch: Batch) -> Terms:
        terms = self.step(batch)
        self.taken += 1
        if self.taken % self.every == 0 or self.taken == self.total:
            loss = self.loss()
            self.scheduler.step(loss)
            if loss < self.lowest:
                self.lowest = loss
                self.best.load_state_dict(self.step.network.state_dict())
        return terms

    @property
    def learning_rate(self) -> float:
        """Of the first group of parameters."""
        rate: float = self.step.optimizer.param_groups[0]["lr"]
        return rate


def train_to_plateau(
    watched: HeldOutStep, batches: Loader, least: float, context: Context, stage: Stage
) -> Generator[Stage, None, None]:
    """Train epoch by epoch until the learning rate is ``least``, or to the end of the budget;
    ``stage`` is yielded along the way. Afterwards the network has the weights of the lowest
    loss."""
    for start in range(0, watched.total, watched.every):
        span = range(start, min(start + watched.every, watched.total))
        yield from train_with_checkpoints(
            watched, batches, steps=span, context=context, along=[stage], total=watched.total
        )
        # 1e-2 * 0.1 ** 3 is a little above 1e-5
        if watched.learning_rate <= least * (1 + 1e-6):
            break
    watched.step.network.load_state_dict(watched.best.state_dict())
