"""Context: it keys every run by content, and either runs it or loads what it left."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import nn

from allograft import __version__
from allograft.cohort import Cohort, Loader
from allograft.cohort.loader import Transform
from allograft.cohort.orders import Order, Turns, by_cohort
from allograft.context.foreign import foreign_code
from allograft.context.journal import Journal, NoJournal
from allograft.context.lock import Lease
from allograft.context.meter import Meter
from allograft.context.settings import Budget, Settings
from allograft.context.unit import Unit
from allograft.errors import AllograftError, SpecError
from allograft.figure import Figure, Relabelled
from allograft.mistakes import argument_mistakes
from allograft.networks import AnyNetwork, Wrapped, copied, reheaded, transfer
from allograft.recipe import Carry, Recipe, Scenario, Stage, every_recipe, total_needs
from allograft.recipe.needs import check_needs
from allograft.schedule import Schedule, make_schedule
from allograft.seeds import Seeds, generators_kept
from allograft.step import GradientStep, Objective
from allograft.table import find
from allograft.tasks import Task
from allograft.tasks.named_loss import with_loss
from allograft.transforms.sample import Sample
from allograft.tree import content_hash, copied_to_cpu, digest, plain

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Made = TypeVar("Made")


@dataclass(frozen=True)
class Context:
    """What a recipe runs in.

    Args:
        fabric: places, autocasts, runs backward.
        seeds: the place of this unit's draws.
        task: the supervised loss and the label it needs; None for a pre-training, which has no
            labels.
        settings: budget, optimizer, augmentation.
        folder: where units are kept; None keeps nothing.
        workers: loader processes.
        checkpoint_seconds: between checkpoints.
        template: the user's own network, for specs that name it.
        progress: whether to show bars on a terminal.
        journal, meter, label, lease: of the current unit.
        continued: units whose optimizer some other run continues, so that their carry keeps its
            state; it is left out of all others, as it may be twice the network.
        continues: whether the recipe that runs here may continue an optimizer; a study, which knows
            its rows, says False at the top.
        rehearsal: unit -> meter, filled in by runs whose ``train`` takes three steps in the place
            of all; None trains in earnest.
        asked: units that the current one asked for itself, filled in as it runs.
    """

    fabric: Fabric
    seeds: Seeds
    task: Task | None
    settings: Settings
    folder: Path | None = None
    workers: int = 0
    checkpoint_seconds: float = 60.0
    template: nn.Module | None = None
    progress: bool = True
    journal: Journal | NoJournal = field(default_factory=NoJournal)
    meter: Meter = field(default_factory=Meter)
    label: str = ""
    lease: Lease = field(default_factory=Lease)
    continued: frozenset[str] = frozenset()
    continues: bool = True
    rehearsal: dict[str, Meter] | None = None
    asked: set[str] = field(default_factory=set)

    # ------------------------------------------------------------------ units
    def draws(self, recipe: Recipe, scenario: Scenario, network: AnyNetwork) -> str:
        """What a run draws from: its content, and not how or where it is computed, so that two
        processes draw as one does.

        Settings at their default do not count: an option added later leaves every earlier study's
        draws alone. A recipe whose settings make it another one says so by ``same_as``, and draws
        as that one does.
        """
        given, network = self.given(recipe, network)
        if given is not self:
            return given.draws(recipe, scenario, network)
        narrowed = scenario.narrowed(total_needs(recipe))
        task = None if self.task is None else [type(self.task).__name__, plain(self.task, sparse=True)]
        network_key = [dict(network.spec), digest(network)]
        drawn_as = getattr(recipe, "same_as", None) or recipe
        content = [
            plain(drawn_as, sparse=True),
            narrowed.fingerprint(),
            network_key,
            self.seeds.seed,
            plain(self.settings, sparse=True),
            task,
        ]
        return content_hash(*content)

    def given(self, recipe: Recipe, network: AnyNetwork) -> tuple[Context, AnyNetwork]:
        """The context and the network that a recipe is given.

        One that needs only images for pre-training gets a network without heads, no task and no
        settings of adaptations: what it cannot see does not change its key.
        """
        if not total_needs(recipe).only_pool or (self.task is None and not getattr(network, "heads", None)):
            return self, network
        budget = replace(self.settings.budget, adapt_steps=Budget.adapt_steps, adapt_epochs=None)
        with Seeds(self.seeds.seed).everything("network", "without heads"):
            bare = network if isinstance(network, Wrapped) else reheaded(network, {})[0]
        return replace(self, task=None, settings=replace(self.settings, budget=budget, loss={})), bare

    def key(self, draws: str, recipe: Recipe) -> str:
        """The unit of a run: its draws, and all else that its bytes depend on: defaults, versions,
        and the code of what other packages add."""
        settings: dict[str, object] = plain(self.settings)
        if not self.settings.loss:  # units that were trained before a loss could be named keep their key
            del settings["loss"]
        defaults = [plain(recipe), settings, plain(self.task)]
        machine = [self.fabric.world_size, str(self.fabric._precision.precision), __version__, torch.__version__]
        foreign = foreign_code((*every_recipe(recipe), self.task, self.template))
        return content_hash(draws, defaults, machine, *foreign)

    def unit(self, recipe: Recipe, scenario: Scenario, network: AnyNetwork) -> str:
        """The content key under which a run is kept; the whole scenario may be given."""
        given, network = self.given(recipe, network)
        return given.key(given.draws(recipe, scenario, network), recipe)

    def run(self, recipe: Recipe, scenario: Scenario, network: AnyNetwork) -> Generator[Stage, None, Carry]:
        """Run a recipe, or load what it left:
        ``carry = yield from context.run(self.first, scenario, network)``.

        The network is copied, so the caller's own stays as it is. A recipe sees only what it needs
        and draws only from the place its content names; so the key is complete, and cached = run.
        Stages found on the disk are yielded too: a judge who has a new test set judges them without
        training. What a pre-training has learned comes back in a network with the caller's heads.
        """
        check_needs(recipe, scenario)
        given, bare = self.given(recipe, network)
        draws = self.fabric.broadcast(given.draws(recipe, scenario, bare))
        key = given.key(draws, recipe)
        self.asked.add(key)
        carry = yield from Unit(given, recipe, scenario.narrowed(total_needs(recipe)), bare, draws, key).run()
        if given is self or isinstance(network, Wrapped):
            return carry
        begun = copied(network).to(self.fabric.device)
        transfer(carry.network.state_dict(), begun)
        return replace(carry, network=begun)

    def once(self, name: str, make: Callable[[], Made]) -> Made:
        """A result computed once in the life of a unit, also across restarts, on the first process;
        the others are given it, or the error that it ended with.

        Args:
            make: gives a tree of dicts, lists, numbers and tensors, and calls nothing that waits
                for other processes.

        Returns:
            The tree, its tensors copied to the CPU. Global generators are as they were before.
        """
        made: Made | None = None
        failure: Exception | None = None
        if self.fabric.is_global_zero:
            try:
                with generators_kept():
                    made = self.journal.once(name, lambda: copied_to_cpu(make()))
            except Exception as error:  # the others wait for a word of it
                if self.fabric.world_size == 1:
                    raise
                failure = (
                    error if isinstance(error, AllograftError) else RuntimeError(f"{type(error).__name__}: {error}")
                )
        made, failure = self.fabric.broadcast((made, failure))
        if failure is not None:
            raise failure
        return cast(Made, made)

    def show(self, name: str, figure: Figure | Relabelled) -> None:
        """Keep a figure beside the unit, which the report draws under the recipe's name, or the
        boxes that a method corrected, which it compares with those of further readers."""
        self.meter.figures[name] = figure

    # ------------------------------------------------------------------ what steps are built from
    @property
    def supervised_task(self) -> Task:
        """The task, for a recipe that reads labels or judges, with the loss that the study names.

        Raises:
            AllograftError: a recipe that needs only images for pre-training is given none.
        """
        if self.task is None:
            raise AllograftError(
                f"{self.label}this recipe needs only images for pre-training, so it is given no task; use a loss of "
                "its own, or ask for source images or target labels in its Needs"
            )
        return with_loss(self.task, self.settings.loss)

    @property
    def batch_size(self) -> int:
        """Cases a step, over all processes."""
        return self.settings.budget.batch_size

    def loader(
        self,
        cohorts: Iterable[Cohort],
        name: str,
        *,
        order: Order | None = None,
        transform: Transform | None = None,
        augmentation: str | None = None,
        divided: bool = True,
    ) -> Loader:
        """Batches of these cohorts, cropped and augmented as the study says, or more strongly for a
        row that asks for it.

        Args:
            name: unique within a run; draws are named by it.
            order: which cases a step sees, drawn from ``loader_seeds(name)``; by default the
                cohorts take turns.
            transform: in the place of the study's crop and augmentation.
            divided: False gives every process the whole batch, of any size.
        """
        cohorts, seeds = tuple(cohorts), self.loader_seeds(name)
        steps = self.settings.budget.steps_per_epoch or max(1, -(-sum(map(len, cohorts)) // self.batch_size))
        return Loader(
            cohorts,
            order or Turns(by_cohort(cohorts), self.batch_size, seeds),
            steps,
            seeds,
            transform or Sample(augmentation or self.settings.augmentation, self.settings.patch),
            self.workers,
            *((self.fabric.global_rank, self.fabric.world_size) if divided else (0, 1)),
        )

    def loader_seeds(self, name: str) -> Seeds:
        """The place of the draws of the loader of this name, for an order of its own."""
        return self.seeds.child("loader", name)

    def optimizer(
        self, parameters: Iterable[nn.Parameter], request: Mapping[str, Mapping[str, object]] | None = None
    ) -> torch.optim.Optimizer:
        """The study's optimizer, or another ``{name: arguments}``, over these parameters."""
        ((name, arguments),) = (request or self.settings.optimizer).items()
        row = find("optimizer", name)
        try:
            made: torch.optim.Optimizer = row(list(parameters), **(arguments or {}))
        except (TypeError, ValueError) as error:
            lines = argument_mistakes(row, arguments or {}, f"optimizer.{name}")
            raise SpecError("\n".join(lines) or f"optimizer: {name}: {error}") from error
        self._count(made)
        return made

    def _count(self, optimizer: torch.optim.Optimizer) -> None:
        """The cost of a row names the most parameters that one optimizer moves."""
        moving = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        self.meter.trainable_parameters = max(self.meter.trainable_parameters, moving)

    def gradient_step(
        self,
        network: AnyNetwork,
        objective: Objective | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        steps: int | None = None,
    ) -> GradientStep:
        """The default step: the task's loss, and the study's optimizer over all that requires
        gradients.

        Args:
            steps: how many the study's schedule spans; None for a recipe whose paper sets the
                learning rate itself.
        """
        owned = list(objective.parameters()) if isinstance(objective, nn.Module) else []
        if optimizer is None:
            optimizer = self.optimizer([p for p in (*network.parameters(), *owned) if p.requires_grad])
        self._count(optimizer)  # a recipe may have added groups to it
        schedule = self.schedule(optimizer, steps) if steps else None
        return GradientStep(
            network, objective or self.supervised_task.objective, optimizer, self.fabric, schedule, self.settings.clip
        )

    def schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> Schedule | None:
        """The study's schedule of an optimizer over this many updates; None where the learning rate
        stays."""
        return None if "constant" in self.settings.schedule else make_schedule(self.settings.schedule, optimizer, steps)
