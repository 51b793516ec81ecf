"""MixStyle: in training, features of an image are given the mean and spread of another image's
(Zhou et al. 2021)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, Network
from allograft.parts.paired_batches import require_encoder
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints

EPSILON = 1e-6
"""Added to the variance, as in the published code."""


def mix_style(x: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """``gamma_mix (x - mu(x)) / sigma(x) + beta_mix``, where ``gamma_mix = lambda sigma(x) + (1 -
    lambda) sigma(x')`` and ``beta_mix`` is the same of the means (equations 6 to 8).

    Mean and standard deviation are those of each channel of each image over its places; no gradient
    flows through them.

    Args:
        x: (B, C, *spatial) features.
        partner: (B,) int64, the image x' of the batch whose statistics each one is given.
        share: (B,) in [0, 1], lambda: of its own statistics; 1 changes nothing.

    Returns:
        Of the same shape.

    Example:
        >>> x = torch.tensor([[[0.0, 2.0]], [[4.0, 12.0]]])
        >>> mix_style(x, torch.tensor([1, 0]), torch.tensor([0.5, 1.0])).round().tolist()
        [[[2.0, 7.0]], [[4.0, 12.0]]]
    """
    axes = tuple(range(2, x.ndim))
    own = x.detach()
    mean = own.mean(axes, keepdim=True)
    spread = (own.var(axes, correction=0, keepdim=True) + EPSILON).sqrt()
    part = share.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))
    scale = part * spread + (1 - part) * spread[partner]
    shift = part * mean + (1 - part) * mean[partner]
    return (x - mean) / spread * scale + shift


def partners(site: Tensor, mix: Literal["crossdomain", "random"]) -> Tensor:
    """An image of the batch for each: (B,) sites -> (B,) indices, from torch's global generator.

    ``random`` is a permutation. ``crossdomain`` draws among the images of other sites; where the
    batch has a single site it is ``random``, as the paper has it without domain labels.
    """
    order = torch.randperm(len(site))
    apart = (site[:, None] != site[None, :]).cpu()
    if mix == "random" or not bool(apart.any()):
        return order.to(site.device)
    # where every image has one of another site: a batch of two sites or more
    return torch.multinomial(apart.double(), 1)[:, 0].to(site.device)


@contextmanager
def mixed_styles(modules: list[nn.Module], site: Tensor, recipe: MixStyle) -> Iterator[None]:
    """Inside, each module's output (B, C, *spatial) is mixed with the chance of the recipe, by
    draws of its own."""

    def mix(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        if not isinstance(output, Tensor) or output.ndim < 4:
            raise SpecError(
                "mixstyle: a level of the encoder does not give features (batch, channels, *space); choose a network "
                "of convolutions, such as unet or resnet"
            )
        drawn, chosen = torch.rand(()), partners(site, recipe.mix)
        share = torch.distributions.Beta(recipe.alpha, recipe.alpha).sample((len(site),)).to(output.device)
        return mix_style(output, chosen, share) if float(drawn) < recipe.probability else None

    handles = [module.register_forward_hook(mix) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class MixedStyles:
    """The task's loss of a network whose early features are mixed, as an objective."""

    task: Task
    recipe: MixStyle

    def __call__(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        if self.recipe.probability == 0:
            return self.task.objective(network, batch)
        assert isinstance(network, Network)
        with mixed_styles(early_levels(network, self.recipe.levels), batch.site, self.recipe):
            return self.task.objective(network, batch)


def early_levels(network: Network, count: int) -> list[nn.Module]:
    """The first levels of the encoder, the last one never among them.

    Raises:
        SpecError: an encoder without levels that can be told apart, or with a single one.
    """
    body: Any = getattr(network.encoder, "body", None)
    paths: list[str] = getattr(network.encoder, "paths", [])
    levels = [body.get_submodule(path) for path in paths] if body is not None else network.levels()
    if len(levels) < 2:
        raise SpecError(
            f"mixstyle: the encoder has {len(levels)} levels to mix features after; expected 2 or more, such as those "
            "of unet or resnet"
        )
    return levels[: min(count, len(levels) - 1)]


@dataclass(frozen=True)
class MixStyle:
    """Train on the source sites while the mean and spread of early features are mixed with those of
    another image of the batch, above all of another site.

    After each of the first ``levels`` of the encoder, with a chance of ``probability`` a step, each
    image's channels are brought to the mean and standard deviation ``lambda own + (1 - lambda)
    other``, lambda from Beta(``alpha``, ``alpha``) for each image. No gradient flows through the
    statistics. The network itself is not changed: a trained one has nothing of it.

    The paper's networks are ResNets of four stages, of which the first three are mixed after; here
    levels are counted from the finest, and the last is never mixed, which the paper finds harmful.
    Where we differ: across sites each image draws its partner among those of other sites, where the
    paper swaps halves of a batch of two; the standard deviation is divided by n (the published code
    by n - 1). With one source site partners are of that site.

    Args:
        levels: how many of the encoder's levels, from the finest.
        probability: p, of a level's mixing in a step; 0 is plain training.
        alpha: of the Beta distribution.
        mix: crossdomain, or random partners.
        first: what the training begins with; None = the study's start.
    """

    levels: Annotated[int, Ge(1)] = 3
    probability: Annotated[float, Ge(0), Le(1)] = 0.5
    alpha: Annotated[float, Gt(0)] = 0.1
    mix: Literal["crossdomain", "random"] = "crossdomain"
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="zhou2021domain",
        authors="Zhou, K. and Yang, Y. and Qiao, Y. and Xiang, T.",
        title="Domain Generalization with MixStyle",
        venue="International Conference on Learning Representations",
        year=2021,
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    @property
    def same_as(self) -> AnyRecipe | None:
        """At probability 0 plain training."""
        return None if self.probability else Supervised(first=self.first)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without levels of features, or a batch of one image."""
        require_encoder(network, "mixstyle")
        assert isinstance(network, Network)
        early_levels(network, self.levels)
        if getattr(network.encoder, "token_size", 0):
            raise SpecError("mixstyle: mixes channels of features, and a transformer gives tokens; choose a resnet")
        if context.batch_size < 2:
            raise SpecError("mixstyle: mixes images of a batch; set budget.batch_size to 2 or more")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        self.check(scenario, network, context)
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, MixedStyles(context.supervised_task, self), steps=steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))
