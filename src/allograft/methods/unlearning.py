"""Unlearning: a secondary head looks for skin tone, site or scanner in the features, and the
encoder learns to hide it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, Network
from allograft.nn.adversarial import (
    class_weights,
    confusion_loss,
    negative_conditional_entropy,
    reverse_gradient,
    weighted_cross_entropy,
)
from allograft.parts.features import captured
from allograft.parts.groups import Group, groups_of
from allograft.predictor import Direct, evaluation_mode
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule
from allograft.step import Objective, Terms, average_buffers, average_gradients, named_state
from allograft.train import train_with_checkpoints

__all__ = [
    "Unlearning",
    "UnlearningStep",
    "class_weights",
    "confusion_loss",
    "negative_conditional_entropy",
    "reverse_gradient",
]

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class Unlearning:
    """Train on the source while an attribute (skin tone, site, scanner) is unlearned from the
    features (Bevan and Atapour-Abarghouei 2022).

    A secondary head h (one linear layer on the encoder's last feature, averaged over space)
    predicts the attribute by class-weighted cross-entropy L_s, in a step and with an optimizer of
    its own:

    - ``lntl`` (learning not to learn): L_s is minimised by h and, through gradient reversal,
      maximised by the encoder; then the task's loss + ``entropy`` * mean(sum p log p) moves the
      network.
    - ``tabe`` (turning a blind eye): L_s moves h only; then the task's loss + ``confusion`` *
      cross-entropy of h's output to the uniform distribution moves the network.
    - ``clgr``: ``tabe``, with gradient reversal in L_s.

    With several attributes each has a head, and the terms are added. A case whose attribute is
    missing counts in all terms but L_s.

    Where we differ: the network's own step uses the study's optimizer and schedule, as every row
    does (the paper's: SGD 3e-4, momentum 0.9, batch 64). ``variant="released"`` is the published
    code: the network's step comes first; the secondary pass is never detached, so that without
    reversal the encoder learns to PREDICT the attribute, and it steps the network's own optimizer
    on gradients of zero; ``confusion`` compares with a fresh uniform random matrix instead of 1 /
    K, and its gradient moves the encoder a second time, by ``encoder_lr`` (there 3e-3).

    Args:
        method: lntl, tabe or clgr.
        attributes: manifest columns, or "site".
        strength: multiplies all that follows; at 0 the secondary heads see detached features and
            the network is trained as ``supervised``, bit for bit.
        reversal: gradients into the encoder are multiplied by minus this; 0 is the ablation without
            reversal.
        entropy: weight of the negative conditional entropy (lntl).
        confusion: weight of the confusion loss (tabe, clgr).
        head_lr: SGD of the secondary heads, momentum 0.9; None = 3e-4 for lntl, 3e-3 for the
            others.
        encoder_lr: SGD of the encoder under reversed gradients, momentum 0.9.
        hidden: channels between two layers of the secondary head; None = one layer.
        variant: paper or released.
    """

    method: Literal["lntl", "tabe", "clgr"] = "lntl"
    attributes: tuple[str, ...] = ("site",)
    strength: Annotated[float, Ge(0)] = 1.0
    reversal: Annotated[float, Ge(0)] = 0.1
    entropy: Annotated[float, Ge(0)] = 0.01
    confusion: Annotated[float, Ge(0)] = 0.03
    head_lr: Annotated[float, Gt(0)] | None = None
    encoder_lr: Annotated[float, Gt(0)] = 3e-4
    hidden: Annotated[int, Ge(1)] | None = None
    variant: Literal["paper", "released"] = "paper"

    paper: ClassVar[Paper | None] = Paper(
        key="bevan2022melanoma",
        authors="Bevan, P. J. and Atapour-Abarghouei, A.",
        title="Detecting Melanoma Fairly: Skin Tone Detection and Debiasing for Skin Lesion Classification",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_1",
    )
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without an encoder, and for an attribute that the
        source's cases do not tell apart."""
        if not isinstance(network, Network):
            raise SpecError(
                "unlearning: the network is one opaque module without an encoder; choose a network of our table"
            )
        for name in self.attributes:
            groups_of(scenario.source, name)

    @property
    def same_as(self) -> AnyRecipe | None:
        """At strength 0 plain training."""
        return None if self.strength else Supervised()

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, each a secondary step and a step of the
        network."""
        self.check(scenario, network, context)
        assert isinstance(network, Network)
        network.train()
        groups = [groups_of(scenario.source, name) for name in self.attributes]
        batches = context.loader(scenario.source, "source")
        image = context.fabric.to_device(next(batches(0))).image[:1]
        with evaluation_mode(network):
            channels = pooled(network.encoder(image)).shape[1]
        heads = nn.ModuleList(SecondaryHead(channels, group, self.hidden) for group in groups).to(image.device)
        steps = context.settings.budget.training(batches.epoch)
        step = self.step(network, heads, context, steps)
        stage = Stage("trained", Direct(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))

    def step(self, network: Network, heads: nn.ModuleList, context: Context, steps: int) -> UnlearningStep:
        """The update, with its three optimizers; the study's schedule, over ``steps`` updates, is
        that of the network's own."""
        plain = context.gradient_step(network, steps=steps)
        lr = self.head_lr or (3e-4 if self.method == "lntl" else 3e-3)
        encoder = [p for p in network.encoder.parameters() if p.requires_grad]
        adversarial = self.strength > 0 and (self.reverses > 0 or self.variant == "released") and bool(encoder)
        return UnlearningStep(
            network,
            heads,
            plain.objective,
            plain.optimizer,
            torch.optim.SGD(heads.parameters(), lr=lr, momentum=0.9),
            torch.optim.SGD(encoder, lr=self.encoder_lr, momentum=0.9) if adversarial else None,
            context.fabric,
            self,
            clip=plain.clip,
            schedule=plain.schedule,
        )

    @property
    def reverses(self) -> float:
        """The factor of the reversal, 0 for ``tabe``."""
        return 0.0 if self.method == "tabe" else self.strength * self.reversal


class SecondaryHead(nn.Module):
    """Predicts one attribute from a pooled feature: (B, channels) -> (B, K) logits; one linear
    layer, or two with a ReLU between."""

    weight: Tensor

    def __init__(self, channels: int, group: Group, hidden: int | None = None) -> None:
        super().__init__()
        self.group = group
        between = () if hidden is None else (nn.Linear(channels, hidden), nn.ReLU())
        self.layers = nn.Sequential(*between, nn.Linear(hidden or channels, len(group.codes)))
        self.register_buffer("weight", class_weights(torch.tensor(group.counts)), persistent=False)

    def forward(self, feature: Tensor) -> Tensor:
        logits: Tensor = self.layers(feature)
        return logits


@dataclass
class UnlearningStep:
    """A secondary step and a step of the network, in the order of the recipe's variant.

    Args:
        network: with an ``encoder``.
        heads: one ``SecondaryHead`` an attribute.
        objective: the task's loss.
        optimizer: of the network; ``head_optimizer`` of the heads; ``encoder_optimizer`` of the
            encoder under reversed gradients (in the released code under the confusion loss, a
            second time), None where the secondary pass is detached.
        fabric: autocast, backward.
        recipe: method, weights and variant.
        draw: the target of the released confusion loss, from logits.
        clip: the largest norm of the network's own gradients.
        schedule: of the network's optimizer, told the loss of its own step.
    """

    network: Network
    heads: nn.ModuleList
    objective: Objective
    optimizer: torch.optim.Optimizer
    head_optimizer: torch.optim.Optimizer
    encoder_optimizer: torch.optim.Optimizer | None
    fabric: Fabric
    recipe: Unlearning
    draw: Callable[[Tensor], Tensor] = torch.rand_like
    clip: float | None = None
    schedule: Schedule | None = None

    def __call__(self, batch: Batch) -> Terms:
        released, encoder = self.released, self.encoder_optimizer
        terms = self._secondary(self._encoded(batch), batch, encoder) if encoder is not None and not released else {}
        with self.fabric.autocast(), captured(self.network.encoder) as seen:
            primary = dict(self.objective(self.network, batch))
            feature = pooled(seen[-1])
        if encoder is None:
            terms |= self._secondary(
                feature.detach(), batch
            )  # TABE: L_s alone, then the rest with the head that it left
        with self.fabric.autocast():
            primary |= self._hiding(feature)
        twice = released and encoder is not None and self.recipe.method != "lntl"
        self._update(primary, self.optimizer, *([encoder] if twice and encoder else []))
        if released:
            terms |= self._secondary(self._encoded(batch), batch, self.optimizer)
        if self.schedule is not None:
            self.schedule(torch.stack([*primary.values()]).sum().detach())
        return {key: value.detach() for key, value in {**primary, **terms}.items()}

    @property
    def released(self) -> bool:
        """Whether to step as the published code does; not at strength 0, where nothing is left of
        it."""
        return self.recipe.variant == "released" and self.encoder_optimizer is not None

    @property
    def _heads(self) -> list[SecondaryHead]:
        return [head for head in self.heads if isinstance(head, SecondaryHead)]

    def _encoded(self, batch: Batch) -> Tensor:
        with self.fabric.autocast():
            feature = pooled(self.network.encoder(batch.image))
            return reverse_gradient(feature, self.recipe.reverses) if self.recipe.reverses else feature

    def _secondary(self, feature: Tensor, batch: Batch, *others: torch.optim.Optimizer) -> dict[str, Tensor]:
        """L_s of each head, and a step of the heads; of ``others`` too, where the feature is not
        detached."""
        with self.fabric.autocast():
            terms = {
                f"secondary/{head.group.attribute}": weighted_cross_entropy(
                    head(feature), head.group.target(batch), head.weight
                )
                for head in self._heads
            }
        self._update(terms, *others, self.head_optimizer)
        return terms

    def _hiding(self, feature: Tensor) -> dict[str, Tensor]:
        """What the network minimises beside the task's loss."""
        name, weight = (
            ("entropy", self.recipe.entropy) if self.recipe.method == "lntl" else ("confusion", self.recipe.confusion)
        )
        terms, weight = {}, self.recipe.strength * weight
        for head in self._heads if weight > 0 else ():
            logits = head(feature)
            target = self.draw(logits) if self.released and name == "confusion" else None
            loss = negative_conditional_entropy(logits) if name == "entropy" else confusion_loss(logits, target)
            terms[f"{name}/{head.group.attribute}"] = weight * loss
        return terms

    def _update(self, terms: Mapping[str, Tensor], *optimizers: torch.optim.Optimizer) -> None:
        # the encoder is the network's: its gradients are gone too
        for each in (self.optimizer, self.head_optimizer):
            each.zero_grad(
                set_to_none=not self.released
            )  # zeros let momentum coast, as in the torch of the released code
        self.fabric.backward(torch.stack([*terms.values()]).sum())
        moving = {id(p): p for each in optimizers for group in each.param_groups for p in group["params"]}
        average_gradients(list(moving.values()))
        average_buffers(self.network)
        if self.clip is not None and self.optimizer in optimizers:
            nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], self.clip)
        for each in optimizers:
            each.step()


def pooled(features: Any) -> Tensor:
    """The last feature averaged over space: (B, C, *spatial) or a list of such -> (B, C)."""
    last: Tensor = features[-1] if isinstance(features, (list, tuple)) else features
    return last.flatten(2).mean(2) if last.ndim > 2 else last
