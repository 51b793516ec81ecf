"""LoRA: tune low-rank adapters next to the frozen weights (Hu et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt
from torch import nn

from allograft.context import Context
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, copied, trainable
from allograft.networks.lora import fold
from allograft.networks.network import operate
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class Lora:
    """Tune low-rank adapters and the heads on the labelled target cases; all else is frozen,
    running statistics too.

    The paper adapts the attention of language models. Here every linear layer and convolution
    outside the heads has an adapter; transposed convolutions have none. Afterwards the adapters are
    folded into the weights, so the model that is kept is as large as before and needs no further
    library. The learning rate is the study's. Needs the extra ``lora``.

    Args:
        rank: of each update.
        alpha: updates are scaled by alpha / rank; equal to ``rank`` by default, as the paper sets
            it once and does not tune it.
        first: what the tuning starts from.
    """

    rank: Annotated[int, Ge(1)] = 4
    alpha: Annotated[float, Gt(0)] | None = None
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="hu2022lora",
        authors="Hu, E. J. and Shen, Y. and Wallis, P. and Allen-Zhu, Z. and Li, Y. and Wang, S. and Wang, L. and "
        "Chen, W.",
        title="LoRA: Low-Rank Adaptation of Large Language Models",
        venue="International Conference on Learning Representations",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(target_labels=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Add adapters and fold them.

        Raises:
            MissingExtraError: peft is not installed.
            SpecError: a network without a layer to adapt.
        """
        fold(operate(copied(network), "lora", rank=self.rank, alpha=self.alpha))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates of the adapters on target batches (equation 3 of the
        paper)."""
        network = (yield from context.run(self.first, scenario, network)).network
        network = operate(network, "lora", rank=self.rank, alpha=self.alpha).to(context.fabric.device)
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target")
        with trainable(network, "full"):
            rest(network)
            steps = context.settings.budget.adaptation(batches.epoch)
            stage = Stage("tuned", Direct(network), scenario.sites)
            yield from train_with_checkpoints(
                context.gradient_step(network, steps=steps), batches, steps=steps, context=context, along=[stage]
            )
        fold(network)
        yield stage
        return Carry(network)


def rest(network: nn.Module) -> None:
    """Put modules whose parameters are all frozen into evaluation mode, so that their running
    statistics stay too."""
    for module in network.modules():
        own = list(module.parameters())
        if own and not any(p.requires_grad for p in own):
            module.eval()
