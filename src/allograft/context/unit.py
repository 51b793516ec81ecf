"""A unit: one run of a recipe under its key, which is either run or loaded."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from allograft.context.journal import Journal, NoJournal
from allograft.context.lock import Lease, locked
from allograft.context.meter import Meter
from allograft.context.store import Store
from allograft.errors import AllograftError
from allograft.networks import AnyNetwork, copied
from allograft.predictor import Weights
from allograft.predictor.card import read_card
from allograft.recipe import Carry, Recipe, Saw, Scenario, Stage, title
from allograft.seeds import Seeds
from allograft.tree import plain

if TYPE_CHECKING:
    from allograft.context.context import Context


@dataclass(frozen=True)
class Unit:
    """One run of a recipe.

    Args:
        context: what it is run from.
        recipe: what runs.
        scenario: narrowed to what the recipe needs.
        network: what the recipe begins with; it is copied.
        draws: names the place of its draws.
        key: names what it leaves.
    """

    context: Context
    recipe: Recipe
    scenario: Scenario
    network: AnyNetwork
    draws: str
    key: str

    def run(self) -> Generator[Stage, None, Carry]:
        """Yield the stages and return the carry, found on the disk or made now."""
        with self._alone() as lease:
            kept = self._kept()
            if kept is None:
                return (yield from self._run(self._inside(lease)))
        carry, stages = kept
        if self.store:
            self.store.tidy()
        for stage in stages:
            yield self._stamped(stage)
        device = self.context.fabric.device
        parts = {name: part.to(device) for name, part in carry.parts.items()}
        return self._handed_on(replace(carry, network=carry.network.to(device), parts=parts))

    @cached_property
    def store(self) -> Store | None:
        """Where it is kept; None where nothing is."""
        context = self.context
        if context.folder is None:
            return None
        return Store(context.folder / self.key, context.fabric.is_global_zero, context.template)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether its carry has the optimizer's state: some other run continues it, or may."""
        return self.context.continues or self.key in self.context.continued

    def _alone(self) -> AbstractContextManager[Lease]:
        """Its lock, while it is unfinished; another process's is waited for, since what it trains
        may be shared."""
        is_first = self.context.fabric.is_global_zero
        if self.store is None or not is_first or self.store.serves(optimizer=self.keeps_optimizer):
            return nullcontext(Lease())
        return locked(self.store.lock_file)

    def _kept(self) -> tuple[Carry, list[Stage]] | None:
        """What an earlier run left; all processes do as the first one finds."""
        if self.store is None or not self.context.fabric.broadcast(self.store.carry_file.exists()):
            return None
        loaded = self.store.load(optimizer=self.keeps_optimizer)
        return None if loaded is None else loaded[:2]

    def _inside(self, lease: Lease) -> Context:
        """The context that the recipe runs in."""
        outside = self.context
        journal: Journal | NoJournal = NoJournal()
        if self.store:
            folder = self.store.folder / "journal"
            journal = Journal(folder, outside.checkpoint_seconds, outside.fabric.is_global_zero, lease.check)
        return replace(
            outside,
            seeds=Seeds(outside.seeds.seed, (self.draws,)),
            journal=journal,
            meter=Meter(),
            label=f"{title(self.recipe)}, seed {outside.seeds.seed}: ",
            lease=lease,
            continued=outside.continued | ({self.key} if self.keeps_optimizer else set()),
            continues=outside.continues or self.recipe.needs.optimizer_state,
            asked=set(),
        )

    def _run(self, inside: Context) -> Generator[Stage, None, Carry]:
        running = self.recipe.run(self.scenario, copied(self.network).to(inside.fabric.device), inside)
        own: list[Stage] = []
        inner: set[str] = set()
        while True:
            # draws outside train() too are named by content; how many stages an inner unit has does
            # not count, nor what that is built on, which is not seen where it is loaded
            try:
                with inside.seeds.everything("run", len(own) + len(inner & inside.asked)):
                    stage = next(running)
            except StopIteration as stop:
                carry: Carry = stop.value
                break
            if stage.unit:
                inner.add(stage.unit)
            else:
                stage = self._keep_stage(stage, own, inside)
                own.append(stage)
            yield stage
        self._keep(carry, own, inside)
        return self._handed_on(carry)

    def _keep_stage(self, stage: Stage, earlier: list[Stage], inside: Context) -> Stage:
        """Keep a stage of its own. One that an earlier life of the run kept is judged as it was
        then: the network may be ahead of it, or behind."""
        if any(stage.name == before.name for before in earlier):
            raise AllograftError(
                f"{title(self.recipe)}: stage '{stage.name}' was yielded twice; give each its own name"
            )
        stage = replace(self._stamped(stage), cost=inside.meter.cost())
        if self.store is None or stage.predictor is None:
            return stage
        inside.lease.check()
        kept = self.store.kept_stage(stage.name) if inside.fabric.is_global_zero else None
        if kept is not None:
            return replace(stage, predictor=kept, cost=read_card(kept.folder)["cost"])
        self.store.keep_stage(stage, self._card(stage))
        return stage

    def _keep(self, carry: Carry, own: list[Stage], inside: Context) -> None:
        """Keep the end of the run."""
        if inside.rehearsal is not None:
            inside.rehearsal[self.key] = inside.meter
        if self.store:
            inside.lease.check()
            # a pre-training: what it leaves can be a start
            if own and all(stage.predictor is None for stage in own):
                self.store.keep_stage(replace(own[-1], predictor=Weights(carry.network)), self._card(own[-1]))
            meter = inside.meter
            self.store.keep(carry, own, meter.cost(), meter.figures, optimizer=self.keeps_optimizer)
            inside.journal.clear()
        inside.fabric.barrier()

    def _handed_on(self, carry: Carry) -> Carry:
        """The carry, the same whether it was run or loaded."""
        return carry if self.keeps_optimizer else replace(carry, optimizer=None)

    def _stamped(self, stage: Stage) -> Stage:
        """The stage with what only the unit knows of it."""
        saw = Saw.from_scenario(self.scenario, stage.seen)
        return replace(stage, unit=self.key, recipe=self.recipe, sites=self.scenario.sites, saw=saw)

    def _card(self, stage: Stage) -> dict[str, object]:
        """What the card of a stage's folder says of the run."""
        return {
            "recipe": plain(stage.recipe),
            "seed": self.context.seeds.seed,
            "cost": dict(stage.cost),
            "sites": list(stage.sites),
        }
