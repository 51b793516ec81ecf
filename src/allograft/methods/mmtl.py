"""Mixed mini-batch transfer learning: source gradients keep flowing while the target's share grows
(Goodman et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le
from torch.optim.lr_scheduler import LambdaLR

from allograft.cohort.orders import Shares, by_cohort, dealt
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.feature_series import train_with_features
from allograft.parts.paired_batches import require_encoder
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Planned
from allograft.step import named_state
from allograft.train import train_with_checkpoints


def target_count(epoch: int, epochs: int, batch_size: int) -> int:
    """How many cases of a mini-batch come from the target in an epoch, counted from 0 (algorithm
    1): int(epoch / epochs * batch_size).

    >>> [target_count(epoch, 60, 16) for epoch in (0, 3, 4, 30, 59)]
    [0, 0, 1, 8, 15]
    """
    if epochs < 1 or not 0 <= epoch < epochs:
        raise SpecError(f"epoch {epoch} of {epochs}: expected an epoch from 0 to below the number of epochs")
    return int(epoch / epochs * batch_size)


def released_count(epoch: int, batch_size: int) -> int:
    """The released code's schedule: one target case from the start, one more every fourth epoch:
    min(epoch // 4 + 1, batch_size).

    >>> [released_count(epoch, 16) for epoch in (0, 3, 4, 59, 100)]
    [1, 1, 2, 15, 16]
    """
    return min(epoch // 4 + 1, batch_size)


@dataclass(frozen=True)
class Mmtl:
    """Tune on mini-batches of source and target cases in which the target's share grows with the
    epoch (MMTL).

    The gradient is that of the mixed batch, alpha L'_source + (1 - alpha) L'_target. Source and
    target are both endless and reshuffled; several sites of one side take turns. The budget's steps
    are divided into ``epochs`` equal parts. Where we differ from the released code: it takes the
    last two subjects for the target, however many are labelled.

    Args:
        epochs: steps of the schedule; the paper's 60.
        schedule: ``paper``: int(epoch / epochs * batch), which starts without any target case.
            ``released``: min(epoch // 4 + 1, batch).
        drop: the learning rate is divided by 10 after this share of the steps; 1 keeps it. Where
            the study names a schedule, that is followed instead, as by all other rows.
        show_features: show how the features of source and target move in the tuning (fig. 1); the
            recipe then sees the target's images without labels, too.
        first: what the tuning starts from.
    """

    epochs: Annotated[int, Ge(1)] = 60
    schedule: Literal["paper", "released"] = "paper"
    drop: Annotated[float, Gt(0), Le(1)] = 0.75
    show_features: bool = False
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="goodman2022supervised",
        authors="Goodman, S. and Greenspan, H. and Goldberger, J.",
        title="Supervised Domain Adaptation Using Gradients Transfer for Improved Medical Image Analysis",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_3",
    )

    @property
    def needs(self) -> Needs:
        """Source and labelled target cases; the target's other images to show, if they are."""
        return Needs(source_images=True, target_labels=True, target_images=self.show_features)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a budget under which no batch ever holds a target case, and for a
        network whose features cannot be shown."""
        if self.show_features:
            require_encoder(network, "show_features")
        budget = context.settings.budget
        last = self.epochs - 1
        if budget.adapt_epochs is None:
            last = (budget.adapt_steps - 1) * self.epochs // budget.adapt_steps
        if self.count(last, budget.batch_size) == 0:
            found = f"epoch {last + 1} of {self.epochs}, the last, with batch_size {budget.batch_size}"
            raise SpecError(
                f"mmtl: {found} still holds no target case, so the target is never seen; raise batch_size, "
                "adapt_steps or epochs"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1, over ``budget.adapt_steps``; an epoch of ``budget.adapt_epochs`` is one pass
        over the source."""
        network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        steps = context.settings.budget.adaptation(context.loader(scenario.source, "source").epoch)
        source, target = [len(c) for c in scenario.source], [len(c) for c in labelled]

        def share(number: int) -> tuple[int, ...]:
            epoch = min(number * self.epochs // steps, self.epochs - 1)
            count = self.count(epoch, context.batch_size)
            return (*dealt(context.batch_size - count, source, number), *dealt(count, target, number))

        cohorts = (*scenario.source, *labelled)
        order = Shares(by_cohort(cohorts), context.batch_size, context.loader_seeds("mixed"), share)
        mixed = context.loader(cohorts, "mixed", order=order)
        step = context.gradient_step(network, steps=steps)
        step.schedule = step.schedule or Planned(
            LambdaLR(step.optimizer, lambda number: 0.1 if number >= self.drop * steps else 1.0)
        )
        stage = Stage("mixed", Direct(network), scenario.sites)
        training = partial(train_with_checkpoints, step, mixed, context=context, along=[stage])
        if self.show_features:
            yield from train_with_features(training, network, scenario, steps, context)
        else:
            yield from training(steps=steps)
        yield stage
        return Carry(network, named_state(step.optimizer, network))

    def count(self, epoch: int, batch_size: int) -> int:
        """Target cases of a batch in an epoch."""
        if self.schedule == "released":
            return released_count(epoch, batch_size)
        return target_count(epoch, self.epochs, batch_size)
