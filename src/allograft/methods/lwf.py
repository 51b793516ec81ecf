"""Learning without forgetting: the network is held to what it said before each stage
(Li and Hoiem 2017)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt

from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.distillation import Distilled, distillation, teacher_of
from allograft.parts.importance import check_likelihood
from allograft.parts.stream import phases, train_stage
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe
from allograft.step import named_state


@dataclass(frozen=True)
class Lwf:
    """Sequential training with knowledge distillation from the network as it ended on the last
    stage (LwF).

    The loss on a stage is the supervised one plus strength times the cross-entropy to the teacher's
    softened probabilities, mean over pixels. Where we differ: the paper's tasks have classes of
    their own, and so a head each, which is warmed up; the stages of a stream here share their
    classes, and one head serves the old outputs and the new.

    Args:
        strength: lambda_o of the paper, 1; 0 is sequential training.
        temperature: T of equations 3 and 4, 2 in the paper.
    """

    strength: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0

    paper: ClassVar[Paper | None] = Paper(
        key="li2017learning",
        authors="Li, Z. and Hoiem, D.",
        title="Learning without Forgetting",
        venue="IEEE Transactions on Pattern Analysis and Machine Intelligence",
        year=2017,
        doi="10.1109/TPAMI.2017.2773081",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe | None:
        """At strength 0 sequential training."""
        return None if self.strength else parse_recipe("sequential")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without class probabilities."""
        check_likelihood(context.task, "lwf")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage; each stage has the last one's model as its
        teacher."""
        softened = partial(distillation, temperature=self.temperature)
        for phase in phases(scenario):
            teacher = teacher_of(network) if phase.number else None
            objective = Distilled(context.supervised_task, teacher, softened, self.strength)
            stage = Stage(phase.name, Direct(network), phase.seen)
            step = yield from train_stage(network, phase, context, objective, stage)
            yield stage
        return Carry(network, named_state(step.optimizer, network))
