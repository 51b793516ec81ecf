"""MiB: distillation and cross-entropy that know what the background hides
(Cermelli et al. 2020)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.parts.distillation import Distilled, distillation, teacher_of
from allograft.parts.importance import check_likelihood
from allograft.parts.stream import phases, train_stage
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Recipe, Scenario, Stage, parse_recipe, title
from allograft.step import named_state


def unbiased_cross_entropy(logits: Tensor, mask: Tensor, old: Sequence[int]) -> Tensor:
    """Cross-entropy in which a pixel labelled background may be any of the ``old`` classes, whose
    labels a stage lacks (equation 5): a scalar, the mean over pixels.

    Args:
        logits: (B, K, *spatial).
        mask: (B, *spatial) int64; below 0 = does not count.
        old: classes of earlier stages that are not annotated now; () is plain cross-entropy.

    Example:
        >>> logits, mask = torch.zeros(1, 4, 1), torch.tensor([[0]])
        >>> round(unbiased_cross_entropy(logits, mask, (1,)).exp().item(), 3)  # 1 / (1/4 + 1/4)
        2.0
    """
    log_p = logits.log_softmax(1)
    if old:
        background = torch.logsumexp(log_p[:, [0, *old]], 1, keepdim=True)
        log_p = torch.cat([background, log_p[:, 1:]], 1)
    return F.nll_loss(log_p, mask, ignore_index=-100)


@dataclass(frozen=True)
class Mib:
    """Sequential training with MiB's distillation.

    MiB corrects cross-entropy and distillation for classes that the background hides: old ones in
    the labels, new ones in the teacher. Along a stream here all stages share their classes, so both
    corrections vanish, and what is left is LwF at temperature 1: ``same_as`` reports it, and both
    draw and train alike. ``unbiased_cross_entropy`` and ``parts.distillation`` hold the whole
    formulas. Where we differ: the paper has no Dice loss, our supervised loss is the study's.

    Args:
        strength: lambda of equation 4; 10 in the released scripts, with which the authors of ODEx
            saw the loss explode. 0 is sequential training.
    """

    strength: Annotated[float, Ge(0)] = 10.0

    paper: ClassVar[Paper | None] = Paper(
        key="cermelli2020modeling",
        authors="Cermelli, F. and Mancini, M. and Rota Bulo, S. and Ricci, E. and Caputo, B.",
        title="Modeling the Background for Incremental Learning in Semantic Segmentation",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        year=2020,
        doi="10.1109/CVPR42600.2020.00925",
    )
    needs: ClassVar[Needs] = Needs(stream=True)

    @property
    def same_as(self) -> Recipe:
        """With one class set for all stages LwF at temperature 1."""
        if not self.strength:
            return parse_recipe("sequential")
        return parse_recipe({"lwf": {"strength": self.strength, "temperature": 1.0}})

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task without class probabilities."""
        check_likelihood(context.task, "mib")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One model, judged after each stage; each stage has the last one's model as its
        teacher."""
        unbiased = partial(distillation, new=())
        facts = {"same_as": title(self.same_as)}
        for phase in phases(scenario):
            teacher = teacher_of(network) if phase.number else None
            objective = Distilled(context.supervised_task, teacher, unbiased, self.strength)
            stage = Stage(phase.name, Direct(network), phase.seen, facts)
            step = yield from train_stage(network, phase, context, objective, stage)
            yield stage
        return Carry(network, named_state(step.optimizer, network))
