"""MetaMedSeg: meta-learning over organs whose tasks are volumes, and whose updates weigh by
distance (Farshad et al. 2022)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.optim.lr_scheduler import LambdaLR

from allograft.batch import Batch
from allograft.cohort import Cohort, Loader
from allograft.cohort.orders import Episodes, Shots, by_cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.nn.processes import by_itself, follow_first
from allograft.parts.cross_domain import Companions, CrossDomain
from allograft.parts.foreground import Foreground
from allograft.parts.local_models import Locals, To, inverse_distance_weights, released_weights
from allograft.parts.organs import chances, distance_map, names_of
from allograft.parts.volumes import CutIntoTiles, by_dataset, check_tiles, checked_volumes
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Planned
from allograft.step import GradientStep, Objective, Terms, named_state
from allograft.train import train, train_with_checkpoints
from allograft.transforms.sample import Sample

Loss = Literal["bce", "iou", "bce_iou", "dice", "focal-tversky"]


def volumetric_task(depth: int, shots: int) -> list[int]:
    """Which of a volume's slices are its task: every ceil(depth / shots)-th, from 0; fewer than
    ``shots`` where that does not divide (section 2.1).

    >>> volumetric_task(40, 15), volumetric_task(3, 15)
    ([0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 33, 36, 39], [0, 1, 2])
    """
    if depth < 1 or shots < 1:
        raise SpecError(f"volumetric_task: found {depth} slices and {shots} shots; expected at least one of each")
    return list(range(0, depth, math.ceil(depth / shots)))


def meta_update(meta: Tensor, local: Tensor, weights: Tensor, lr: float) -> Tensor:
    """Step to meta + lr sum_l weights_l (local_l - meta) (equations 1 and 3): (P,), (L, P), (L,) ->
    (P,).

    >>> meta_update(torch.zeros(1), torch.tensor([[1.0], [3.0]]), torch.tensor([0.5, 0.5]), 0.5).tolist()
    [1.0]
    """
    return meta + lr * (weights[:, None] * (local - meta)).sum(0)


@dataclass
class TaskStep:
    """One task: a local model is trained from the meta-model; after the last task of a meta-epoch
    the meta-model moves.

    Of several processes each trains on all shots, in batches as small as the paper's one image that
    cannot be divided, and the first one's model is kept: it is that of a process alone.

    Args:
        recipe: its hyper-parameters.
        network: holds the meta-model between tasks.
        context: for the parts of an update.
        companions: number -> images of another data set, two for each task; None = none.
        locals: of this meta-epoch.
        number: tasks so far.
    """

    recipe: Metamedseg
    network: AnyNetwork
    context: Context
    companions: Callable[[int], Tensor] | None = None
    locals: Locals = field(default_factory=Locals)
    number: int = 0

    def __call__(self, batch: Batch) -> Terms:
        meta, recipe = parameters_to_vector(self.network.parameters()).detach(), self.recipe
        epoch = self.number // recipe.tasks
        slow = recipe.gamma ** (epoch // 2) if recipe.decay == "meta-epochs" else 1.0
        with by_itself():
            terms = self._locally(batch, recipe.lr * slow)
        follow_first(self.network)
        self.locals.models.append(parameters_to_vector(self.network.parameters()).detach())
        self.number += 1
        if self.number % recipe.tasks == 0:
            local = torch.stack([model.to(meta.device) for model in self.locals.models])
            meta = meta_update(meta, local, recipe.weights(meta, local), recipe.meta_lr * slow)
            self.locals.models = []
        with torch.no_grad():
            vector_to_parameters(meta, self.network.parameters())
        return terms

    def _locally(self, batch: Batch, lr: float) -> Terms:
        """Epochs over the shots, ``batch_size`` of them at a time, with an optimizer of the task's
        own."""
        recipe = self.recipe
        request: dict[str, dict[str, object]] = {recipe.optimizer: {"lr": lr, "weight_decay": recipe.weight_decay}}
        optimizer = self.context.optimizer(self.network.parameters(), request)
        objective: Objective = Foreground(recipe.meta_loss)
        if self.companions is not None:
            unsure, paired = (self.companions(2 * self.number + turn) for turn in range(2))
            objective = CrossDomain(objective, unsure, paired, recipe.entropy, recipe.distillation)
        clip = self.context.settings.clip
        step = GradientStep(self.network, objective, optimizer, self.context.fabric, None, clip)
        for epoch in range(recipe.local_epochs):
            for group in optimizer.param_groups:
                group["lr"] = lr * (recipe.gamma ** (epoch // 2) if recipe.decay == "local-epochs" else 1.0)
            for start in range(0, len(batch), recipe.batch_size):
                terms = step(batch[slice(start, start + recipe.batch_size)])
        return terms


@dataclass(frozen=True)
class Metamedseg:
    """Learn where to start from tasks of other organs, by Reptile; then tune on the labelled target
    cases.

    Each source site is a data set; sites of one cohort, or of one name in ``organs``, are an organ,
    whose data sets share one chance of being drawn (1 / z each). Slices with less foreground than
    ``foreground`` are dropped, then a volumetric task is every ceil(|V| / K)-th slice of a volume,
    the same in every epoch: its other slices are never trained on. Of an image that is no volume
    the task is its tiles, floor(sqrt(K)) along each axis. A volume with fewer than K is accepted,
    and ``fewest_shots`` is recorded. ``meta_epochs: 0`` tunes what the run starts from: with
    ``first: supervised`` transfer, without ``first`` training from scratch.

    Where we differ: 20 local epochs are the released README's, the paper has no number; a network
    with batch normalisation keeps moving its statistics over all tasks, the paper's has none.

    Args:
        task: ``volumetric``, or ``standard``: K random slices of a data set, drawn again for each
            task.
        rule: ``inverse-distance``, ``average`` (Reptile), or ``released``: see
            ``released_weights``.
        to: what distances are to, see ``squared_distances``.
        tasks, shots, meta_epochs: 5, 15 and 100 in the paper.
        local_epochs, batch_size: of the training on one task; the paper's batch is one image.
        optimizer: of the training on one task: adam (released code) or sgd.
        lr, meta_lr, weight_decay: of meta-training.
        gamma: both rates are multiplied by it at every second epoch.
        decay: ``local-epochs``: begins again with each task, the meta rate stays.
            ``meta-epochs``: the literal reading, after which both rates end at 0.7^50.
        meta_loss, tune_loss: the paper's best pair, weighted cross-entropy and IoU; equation 4 is
            ``bce_iou``.
        entropy, distillation: factors of the terms of Dawoud et al. (2020) in the training on a
            task,
            their alpha and beta: see ``parts.cross_domain``. With ``rule: average`` and 0.01 each,
            the values of their code, this is their row.
        foreground: pixels that a slice must show, of every data set, or by site or cohort.
        organs: site or cohort -> organ.
        tune_epochs, tune_lr, tune_weight_decay: on the target; with all target labels the paper's
            rate is 1e-3.
        first: what meta-training begins with; None = the study's start.
    """

    task: Literal["volumetric", "standard"] = "volumetric"
    rule: Literal["inverse-distance", "average", "released"] = "inverse-distance"
    to: To = "meta"
    tasks: Annotated[int, Ge(1)] = 5
    shots: Annotated[int, Ge(1)] = 15
    meta_epochs: Annotated[int, Ge(0)] = 100
    local_epochs: Annotated[int, Ge(1)] = 20
    batch_size: Annotated[int, Ge(1)] = 1
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: Annotated[float, Gt(0)] = 0.01
    meta_lr: Annotated[float, Gt(0)] = 0.01
    weight_decay: Annotated[float, Ge(0)] = 3e-3
    gamma: Annotated[float, Gt(0), Le(1)] = 0.7
    decay: Literal["local-epochs", "meta-epochs"] = "local-epochs"
    meta_loss: Loss = "bce"
    tune_loss: Loss = "iou"
    entropy: Annotated[float, Ge(0)] = 0.0
    distillation: Annotated[float, Ge(0)] = 0.0
    foreground: Annotated[int, Ge(1)] | dict[str, Annotated[int, Ge(1)]] = 1
    organs: dict[str, str] = field(default_factory=dict)
    tune_epochs: Annotated[int, Ge(1)] = 20
    tune_lr: Annotated[float, Gt(0)] = 5e-3
    tune_weight_decay: Annotated[float, Ge(0)] = 3e-5
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="farshad2022metamedseg",
        authors="Farshad, A. and Makarevich, A. and Belagiannis, V. and Navab, N.",
        title="MetaMedSeg: Volumetric Meta-learning for Few-Shot Organ Segmentation",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_5",
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_labels=True)
    own_loss: ClassVar[str] = "the losses meta_loss and tune_loss"

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task with several classes, and names that no source has."""
        outputs = context.supervised_task.outputs
        if outputs.get("mask") != 2:
            raise SpecError(
                "metamedseg: segments one foreground; give the task one class, and each cohort its values: "
                "task: {segmentation: {classes: [organ]}}, "
                "cohorts: {NAME: {manifest: NAME.csv, classes: {organ: [1, 2]}}}"
            )
        known = {name for cohort in scenario.source for name in names_of(cohort)}
        named = (*(self.foreground if isinstance(self.foreground, dict) else ()), *self.organs)
        if unknown := next((name for name in named if name not in known), None):
            raise SpecError(
                f"metamedseg: '{unknown}' is no source site or cohort; expected one of {', '.join(sorted(known))}"
            )
        if self.meta_epochs:
            checked_volumes(scenario.source, self.foreground, self.grid)
            check_tiles(scenario.source, self.grid if context.settings.patch is None else 1, network)
            self._check_others(scenario.source, network)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Meta-training on the source, then tuning."""
        if self.first is not None:
            network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        facts: dict[str, float | int | str] = {}
        if self.meta_epochs:
            batches, facts = self.episodes(scenario.source, context)
            step = TaskStep(self, network, context, self.companions(scenario.source, batches, context))
            train(step, batches, steps=self.meta_epochs * self.tasks, context=context, name="meta")
            context.show("distances", distance_map([*scenario.source, *labelled], context.seeds.child("distances")))
        tuned = context.loader(labelled, "target")
        steps = self.tune_epochs * tuned.epoch
        request = {"adam": {"lr": self.tune_lr, "weight_decay": self.tune_weight_decay}}
        optimizer = context.optimizer(network.parameters(), request)
        update = context.gradient_step(network, Foreground(self.tune_loss), optimizer)
        update.schedule = Planned(LambdaLR(optimizer, lambda number: self.gamma ** (number // tuned.epoch // 2)))
        stage = Stage("tuned", Direct(network), scenario.sites, facts)
        yield from train_with_checkpoints(update, tuned, steps=steps, context=context, along=[stage], name="tune")
        yield stage
        return Carry(network, named_state(optimizer, network))

    def weights(self, meta: Tensor, local: Tensor) -> Tensor:
        """(P,), (L, P) -> (L,)."""
        if self.rule == "average":
            return local.new_full((len(local),), 1 / len(local))
        rule = released_weights if self.rule == "released" else inverse_distance_weights
        return rule(meta, local, to=self.to)

    @property
    def grid(self) -> int:
        """Tiles along each axis of a photograph; a standard task has it whole."""
        return 1 if self.task == "standard" else math.isqrt(self.shots)

    def episodes(self, source: Sequence[Cohort], context: Context) -> tuple[Loader, dict[str, float | int | str]]:
        """The loader of tasks, and how many there are to draw from."""
        volumes = checked_volumes(source, self.foreground, self.grid)
        share, seeds = chances(source, self.organs), context.loader_seeds("tasks")
        if self.task == "standard":
            groups = by_dataset(volumes, len(source))
            order = Shots(groups, tuple(share), self.shots, seeds)
            loader = context.loader(source, "tasks", order=order, divided=False)
            return loader, {"fewest_shots": min(self.shots, *map(len, groups)), "volumes": len(volumes)}
        fixed = [volume.part(volumetric_task(volume.depth, self.shots)) for volume in volumes]
        count = Counter(volume.dataset for volume in volumes)
        chance = tuple(share[volume.dataset] / count[volume.dataset] for volume in volumes)
        sample = Sample(context.settings.augmentation, context.settings.patch)
        tiles = {
            source[volume.dataset].cases[volume.items[0][1]].name: volume.tiles for volume in fixed if volume.tiles
        }
        loader = context.loader(
            source,
            "tasks",
            order=Episodes(tuple(volume.items for volume in fixed), chance, seeds),
            divided=False,
            transform=CutIntoTiles(sample, tiles, self.grid) if tiles else None,
        )
        return loader, {"fewest_shots": min(volume.depth for volume in fixed), "volumes": len(volumes)}

    def companions(self, source: Sequence[Cohort], tasks: Loader, context: Context) -> Callable[[int], Tensor] | None:
        """Images of other data sets by number, where a term asks for them."""
        if not (self.entropy or self.distillation):
            return None
        order = Companions(tasks.order, by_cohort(source), self.shots, context.loader_seeds("companions"))
        hidden = [cohort.unlabelled() for cohort in source]
        loader = context.loader(hidden, "companions", order=order, divided=False)
        return lambda number: context.fabric.to_device(next(loader(number))).image

    def _check_others(self, source: Sequence[Cohort], network: AnyNetwork) -> None:
        if (self.entropy or self.distillation) and len(source) < 2:
            raise SpecError(
                "metamedseg: entropy and distillation need a second data set; add a source site, or set both to 0"
            )
        if self.distillation and not isinstance(network, Network):
            raise SpecError("metamedseg: distillation needs a network with an encoder; choose a network of our table")
