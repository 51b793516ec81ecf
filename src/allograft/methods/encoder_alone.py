"""The encoder of a pre-training without its decoder: what a pre-trained decoder is worth (Guo et
al. 2022, table 3)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import ClassVar

from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.united import United
from allograft.networks import AnyNetwork, Network, transfer
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage


@dataclass(frozen=True)
class EncoderAlone:
    """Keep the encoder of ``first`` and nothing else of its network: the decoder is that of
    the study's start. Nothing is trained.

    ``{finetune: {first: {encoder_alone: {first: PRETRAINING}}}}`` next to ``{finetune: {first:
    PRETRAINING}}`` shows what the pre-trained decoder is worth; both share the pre-training.

    Args:
        first: the pre-training.
    """

    first: AnyRecipe = field(default_factory=lambda: United(ingredients="D+R", first=United()))

    paper: ClassVar[Paper | None] = United.paper
    needs: ClassVar[Needs] = Needs()

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without an encoder."""
        if not isinstance(network, Network):
            raise SpecError(
                "encoder_alone: the network is one opaque module without an encoder; choose a network of our table"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One stage, no step."""
        before = yield from context.run(self.first, scenario, network)
        report = transfer(before.network.state_dict(), network, parts=["encoder"])
        yield Stage("encoder", seen=scenario.sites, facts={"weights": str(report)})
        return Carry(network, parts=before.parts)
