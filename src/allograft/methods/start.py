"""The start itself: the weights a study is given, evaluated unchanged."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from allograft.context import Context
from allograft.networks import AnyNetwork
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage


@dataclass(frozen=True)
class Start:
    """Evaluate the starting model unchanged: no adaptation, where there is no source."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs()

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """One stage, no step."""
        yield Stage("start", Direct(network))
        return Carry(network)
