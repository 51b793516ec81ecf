"""An adversary encoder that tells pairs of images apart, and the step in which it and what restores
images learn in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, build
from allograft.nn.gan import Gan, critic_loss, generator_loss, gradient_penalty
from allograft.parts.pretext_tasks import CLEAN, MIX
from allograft.step import GradientStep, Terms

RESTORED = "restored"
"""View of a batch: restored images, without gradient."""
PENALTY = 10.0
"""Weight of the gradient penalty in the released code."""


def adversary_of(network: AnyNetwork, channels: int) -> Network:
    """A network whose encoder is built as this one's, on pairs of images of so many channels; its
    head gives one logit, above 0 for a true pair. Weights are drawn from the global generators."""
    ((name, arguments),) = network.spec["build"].items()
    made = build({"build": {name: {**arguments, "in_channels": 2 * channels, "outputs": {"label": 1}}}})
    assert isinstance(made, Network)
    return made


def check_penalty(method: str, adversary: Network) -> None:
    """Raise ``SpecError`` for batch normalisation, by which the gradient of one pair's logit
    reaches all pairs, while it is penalised pair by pair."""
    if any(isinstance(module, _BatchNorm) for module in adversary.modules()):
        raise SpecError(
            f"{method}: variant 'released' penalises the gradient of each pair of images, and the network's batch "
            "normalisation mixes them; set network: {...: {norm: instance}}, or variant: paper"
        )


@dataclass(frozen=True)
class ToldApart:
    """Eq. 3 of United, which the adversary maximises: (distorted, true) pairs against (distorted,
    restored) ones; of the Wasserstein GAN with its penalty.

    Args:
        kind: of the GAN.
    """

    kind: Gan

    def __call__(self, network: AnyNetwork, batch: Batch) -> Terms:
        """``network`` is the adversary; the batch has the views ``CLEAN`` and ``RESTORED``."""
        real, fake = (torch.cat([batch.image, batch.views[name]], 1) for name in (CLEAN, RESTORED))

        def logits(pairs: Tensor) -> Tensor:
            return network(pairs)["label"].float()

        terms = {"critic": critic_loss(logits(real), logits(fake), self.kind)}
        if self.kind == "wasserstein":
            terms["penalty"] = PENALTY * gradient_penalty(logits, real, fake, batch.attributes[MIX])
        return terms


Learned = Callable[[AnyNetwork, Batch], tuple[Terms, Tensor]]
"""Network and batch -> weighted terms, and restored images."""


@dataclass
class AdversarialStep:
    """What restores learns, also to be taken for true by the adversary; then the adversary learns
    on the same restorations.

    Args:
        generator: step of the network that restores; its objective gives way to ``learned``.
        critic: step of the adversary, by ``ToldApart``.
        learned: what the network learns besides.
        weight: of the adversarial term.
        kind: of the GAN.
    """

    generator: GradientStep
    critic: GradientStep
    learned: Learned
    weight: float
    kind: Gan

    def __call__(self, batch: Batch) -> Terms:
        made: list[Tensor] = []

        def fooling(network: AnyNetwork, batch: Batch) -> Terms:
            terms, restored = self.learned(network, batch)
            made.append(restored.detach())
            # its gradients are dropped before the adversary's own step
            fake = self.critic.network(torch.cat([batch.image, restored], 1))["label"]
            return {**terms, "adversarial": self.weight * generator_loss(fake.float(), self.kind)}

        terms = replace(self.generator, objective=fooling)(batch)
        return {**terms, **self.critic(replace(batch, views={**batch.views, RESTORED: made[0]}))}
