"""Group DRO: the source site that is worst now counts most (Sagawa et al. 2020)."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from allograft.batch import IGNORED, Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork
from allograft.nn.processes import mean_over_processes
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints


def updated_weights(weights: Tensor, losses: Tensor, rate: float) -> Tensor:
    """``q_g exp(rate loss_g)``, divided by the sum over groups (algorithm 1).

    Args:
        weights: (G,) that sum to 1.
        losses: (G,); 0 of a group that the batch lacks, whose weight changes by the division alone.
        rate: eta_q.

    Returns:
        (G,), of a group whose loss is larger a larger share.

    Example:
        >>> updated_weights(torch.tensor([0.5, 0.5]), torch.tensor([2.0, 2.0]), 0.01).tolist()
        [0.5, 0.5]
    """
    return (weights.log() + rate * losses).softmax(0)


class WorstSites(nn.Module):
    """``sum_g q_g loss_g`` over source sites, the weights q updated from the losses before they
    count, as an objective.

    Args:
        task: its loss; a site's is that of its own cases in the batch.
        sites: the index in ``Batch.site``, and the name, of each group.
        rate: eta_q.
    """

    weights: Tensor

    def __init__(self, task: Task, sites: Mapping[int, str], rate: float) -> None:
        super().__init__()
        self.task, self.sites, self.rate = task, dict(sites), rate
        self.register_buffer("weights", torch.full((len(sites),), 1 / len(sites), dtype=torch.float64))

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """The terms of each site, weighted: ``dice/SITE``."""
        output = network(batch.image)
        terms = [self.task.loss(output, labelled_alone(batch, batch.site == number)) for number in self.sites]
        losses = torch.stack([torch.stack([*each.values()]).sum() for each in terms]).detach()
        self.weights.copy_(updated_weights(self.weights, mean_over_processes(losses).double(), self.rate))
        return {
            f"{name}/{site}": weight.to(value.dtype) * value
            for site, weight, each in zip(self.sites.values(), self.weights.clone(), terms, strict=True)
            for name, value in each.items()
        }


def labelled_alone(batch: Batch, kept: Tensor) -> Batch:
    """The batch with the labels of all other cases hidden by ignore values: ``kept`` (B,) bool."""
    labels = {}
    for key, value in batch.labels.items():
        assert isinstance(value, Tensor)
        labels[key] = torch.where(kept.view(-1, *(1,) * (value.ndim - 1)), value, IGNORED[value.dtype])
    return replace(batch, labels=labels)


@dataclass(frozen=True)
class GroupDro:
    """Train on several source sites by the weighted sum of their losses, where the weight of a site
    grows with its loss (distributionally robust optimisation over groups).

    Groups are the source sites. In each step ``q_g`` is multiplied by ``exp(rate loss_g)``, divided
    by the sum, and the loss is ``sum_g q_g loss_g`` (algorithm 1). The paper draws one group per
    step; here, as in its published code, a batch holds cases of all, the sites taking turns, and a
    site that a batch lacks keeps its weight but for the division. With one source site this is
    plain supervised training, and a study warns of it.

    The paper's finding is that it helps only with stronger regularisation than usual, weight decay
    or early stopping: set the study's ``optimizer`` and ``selection``. Its adjustment of the losses
    by the size of the groups, an option of the paper, is not built.

    Args:
        rate: eta_q, the step of the weights; 0 keeps them equal.
        first: what the training begins with; None = the study's start.
    """

    rate: Annotated[float, Ge(0)] = 0.01
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="sagawa2020distributionally",
        authors="Sagawa, S. and Koh, P. W. and Hashimoto, T. B. and Liang, P.",
        title="Distributionally Robust Neural Networks for Group Shifts: On the Importance of Regularization for "
        "Worst-Case Generalization",
        venue="International Conference on Learning Representations",
        year=2020,
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a detector; warn of a single source site."""
        if "boxes" in context.supervised_task.outputs:
            raise SpecError("groupdro: weighs masks, classes and images, and the task gives boxes; drop the recipe")
        if len(sites := sites_of(scenario)) == 1:
            warnings.warn(
                f"groupdro: '{next(iter(sites.values()))}' is the only source site, so this row is plain supervised "
                "training; name several in source, or drop the recipe",
                stacklevel=2,
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        objective = WorstSites(context.supervised_task, sites_of(scenario), self.rate).to(context.fabric.device)
        step = context.gradient_step(network, objective, steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        shares = {
            f"weight/{site}": float(q) for site, q in zip(objective.sites.values(), objective.weights, strict=True)
        }
        yield replace(stage, facts=shares)
        return Carry(network, named_state(step.optimizer, network))


def sites_of(scenario: Scenario) -> dict[int, str]:
    """The index in ``Batch.site`` and the name of each source site."""
    present: Sequence[str] = [case.site for cohort in scenario.source for case in cohort.cases]
    return {number: site for number, site in enumerate(scenario.sites) if site in present}
