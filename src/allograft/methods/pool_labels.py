"""Supervised pre-training: name the label that an image of the pool has in its own data set, as
ImageNet's classes are named."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.cohort.loader import Transform
from allograft.cohort.manifest import Case
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.parts.paired_batches import require_encoder
from allograft.parts.patch_pairs import datasets_of
from allograft.parts.pool import check_several, chosen_pool, last_channels, mean_of_last, pool_loader, steps_of
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train
from allograft.transforms.sample import Sample

CLASS = "class in the pool"
"""Attribute of a batch: (B,) int64."""


@dataclass(frozen=True)
class PoolLabels:
    """Pre-train the encoder to classify images of the pool by the labels of their data sets, which
    need not be those of the study's task.

    A class is a value of the column ``label`` in one data set; the images of a data set without
    that column are a class each site. A linear layer on the mean of the encoder's last feature, and
    cross-entropy; the encoder is kept, and its optimizer's state for ``octl``. It stands for
    supervised pre-training on photographs where no published weights are at hand.

    Args:
        share: of the pool's images, the same subjects for every seed; a smaller one lies in a
            larger one.
        epochs: how long; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
    """

    share: Annotated[float, Ge(0.01)] = 1.0
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(pool=True, pool_labels=True)

    def __post_init__(self) -> None:
        if self.share > 1:
            raise SpecError(f"pool_labels: share is {self.share:g}; expected at most 1")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for an opaque network, and a pool of one image or one class."""
        require_encoder(network, "pool_labels")
        pool = chosen_pool(scenario.pool, self.pool, "pool_labels")
        check_several(pool, "pool_labels")
        if len(classes := classes_of(pool)) < 2:
            raise SpecError(
                f"pool_labels: all images of the pool are of one class, {next(iter(classes))}; name more sites in "
                "pool, or give them labels"
            )

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Cross-entropy on batches of the pool."""
        assert isinstance(network, Network)
        network.train()
        chosen = chosen_pool(scenario.pool, self.pool, "pool_labels")
        classes = classes_of(chosen)
        pool = shared(chosen, self.share)
        known = {case.name: classes[name] for case, name in named(pool)}
        transform = Classed(Sample(context.settings.augmentation, context.settings.patch), known)
        batches = pool_loader([cohort.unlabelled() for cohort in pool], context, transform)
        steps = steps_of(context, self.epochs, batches.epoch)
        channels = last_channels(network, chosen, context)
        objective = Classes(channels, len(classes)).to(context.fabric.device)
        step = context.gradient_step(network, objective, steps=steps)
        history = train(step, batches, steps=steps, context=context)
        reached = mean_of_last(history, batches.epoch)
        facts = {"steps": steps, "classes": len(classes), "images": sum(map(len, pool)), **reached}
        yield Stage("pretrained", seen=scenario.sites, facts=facts)
        return Carry(network, named_state(step.optimizer, network))


def classes_of(pool: Sequence[Cohort]) -> dict[str, int]:
    """The classes of a pool in alphabetical order, and their numbers."""
    return {name: number for number, name in enumerate(sorted({name for _, name in named(pool)}))}


def named(pool: Sequence[Cohort]) -> list[tuple[Case, str]]:
    """Each case with the name of its class."""
    pairs = []
    for numbers in datasets_of(pool):
        cases = [case for number in numbers for case in pool[number].cases]
        labelled = any("label" in case.labels for case in cases)
        dataset = min(case.site for case in cases)
        for case in cases:
            if not labelled:
                pairs.append((case, case.site))
            elif "label" in case.labels:
                pairs.append((case, f"{dataset}: {case.labels['label']}"))
    return pairs


def shared(pool: Sequence[Cohort], share: float) -> list[Cohort]:
    """The cases that have a class, of the first subjects of each data set in a fixed random order
    up to this share."""
    keep: set[str] = set()
    for numbers in datasets_of(pool):
        subjects = sorted({subject for number in numbers for subject in pool[number].subjects})
        order = torch.randperm(len(subjects), generator=torch.Generator().manual_seed(0)).tolist()
        keep |= {subjects[number] for number in order[: max(1, round(share * len(subjects)))]}
    classed = {case.name for case, _ in named(pool)}
    parts = (cohort.where(lambda case: case.subject in keep and case.name in classed) for cohort in pool)
    return [cohort for cohort in parts if len(cohort)]


@dataclass(frozen=True)
class Classed:
    """A sample with its class under ``CLASS``."""

    sample: Transform
    known: Mapping[str, int]

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1; of a slice the class is its volume's."""
        name = case.cases[0]
        number = self.known[name if name in self.known else name.rpartition("#")[0]]
        sample = self.sample(case, rng)
        return replace(sample, attributes={**sample.attributes, CLASS: torch.tensor([number])})


class Classes(nn.Module):
    """The loss, and the linear layer that it owns."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, network: AnyNetwork, batch: Batch) -> Mapping[str, Tensor]:
        """Cross-entropy of a batch."""
        assert isinstance(network, Network)
        logits = self.linear(network.encoder(batch.image)[-1].flatten(2).mean(2))
        return {"cross_entropy": F.cross_entropy(logits, batch.attributes[CLASS])}
