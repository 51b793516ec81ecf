"""AIVA: clusters of target images are drawn to the source clusters that they match (Goodman et al.
2022)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor

from allograft.batch import Batch
from allograft.context import Context
from allograft.figure import Images
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork
from allograft.parts.clustering import (
    Clusters,
    DomainItems,
    cluster,
    features_of,
    match_clusters,
    name_of,
    positions,
    show,
)
from allograft.parts.paired_batches import PairedBatches, gathered, halves, last_feature, of_all, require_encoder
from allograft.parts.thumbnails import CohortItem, subject_of, thumbnail
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.train import train_with_checkpoints
from allograft.transforms.sample import Tile

__all__ = ["Aiva", "AlignmentObjective", "Clusters", "alignment_loss", "match_clusters"]

FIRST = 20
"""Mini-batches whose alignment losses set lambda."""
PAIRS, EXAMPLES = 4, 4
"""Pairs of matched clusters of which images are shown, and how many of either side."""


def alignment_loss(features: Tensor, cluster: Tensor, source_means: Tensor, match: Tensor) -> Tensor:
    """sum_i ||x_i - nu_match(i)||^2, x_i the mean feature of the target images of cluster i in the
    mini-batch (equation 2).

    Clusters without an image in the mini-batch add nothing.

    Args:
        features: (B, D) or (B, C, *spatial) bottleneck features of target images; gradients flow
            through them.
        cluster: (B,) int64 target cluster of each image; -1 = none.
        source_means: (k, D) mean bottleneck feature of each source cluster.
        match: (k,) int64 source cluster of each target cluster.

    Example:
        >>> features, means = torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([[5.0], [0.0]])
        >>> alignment_loss(features, torch.tensor([0, 0, 1]), means, torch.tensor([1, 0]))  # (2 - 0)^2 + (7 - 5)^2
        tensor(8.)
    """
    values = features.flatten(1).to(source_means.dtype)
    member = F.one_hot(cluster.clamp_min(0), len(match)).to(values) * (cluster >= 0).to(values)[:, None]
    counts = member.sum(0)
    means = member.T @ values / counts.clamp_min(1)[:, None]
    distances = (means - source_means[match]).square().sum(1)
    return distances.where(counts > 0, 0.0).sum()


@dataclass
class AlignmentObjective:
    """The task's loss on the source, and lambda times the alignment loss of the target images of
    the mini-batch (equation 3).

    lambda is the reciprocal of the mean alignment loss of the first ``FIRST`` mini-batches (times
    0.9 as released), then fixed. Until then it is the reciprocal of the mean so far, so that the
    term is near 1 from the start: the paper does not say.

    Args:
        task: the supervised loss.
        recipe: its weight and variant.
        clusters: of the round; ``cluster_of`` says which one an image of a name is in.
        total: sum of the first alignment losses; ``seen``: their number.
    """

    task: Any
    recipe: Aiva
    clusters: Clusters | None = None
    cluster_of: Mapping[str, int] = field(default_factory=dict)
    total: float = 0.0
    seen: int = 0

    def __call__(self, network: Any, batch: Batch) -> Mapping[str, Tensor]:
        source, target = halves(batch)
        terms = dict(self.task.objective(network, source))
        with torch.set_grad_enabled(self.clusters is not None):
            # at lambda 0 too: batch statistics see both sides
            features = last_feature(network.encoder(target.image))
        if self.clusters is None:
            return terms
        cluster = torch.tensor([self.cluster_of.get(name, -1) for name in target.cases], device=features.device)
        loss = of_all(
            alignment_loss(gathered(features), gathered(cluster), self.clusters.source_means, self.clusters.match)
        )
        return {**terms, "alignment": self.scale(loss.item()) * loss}

    def scale(self, value: float) -> float:
        """lambda, told the alignment loss of this mini-batch."""
        if self.recipe.weight is not None:
            return self.recipe.weight
        if self.seen < FIRST:
            self.total, self.seen = self.total + value, self.seen + 1
        share = 0.9 if self.recipe.variant == "released" else 1.0
        return share * self.seen / self.total if self.total > 0 else 0.0


@dataclass(frozen=True)
class Aiva:
    """Train on source labels while target images are drawn to the source cluster that theirs
    matches (AIVA).

    Once an epoch the bottleneck features of all images are embedded together (PCA, t-SNE) and each
    side is clustered (k-means); the clusters are matched; and until the next epoch the mean feature
    of a target cluster's images in a mini-batch is drawn to the mean of the matched source cluster.
    All source sites are one side. Each step sees ``batch_size`` source cases and as many target
    images. The paper's images are slices. Where a study trains on crops, the crops that cover the
    images of either side are clustered, an epoch is a pass over those of the source, and the
    target's mini-batches are drawn from them. The paper keeps the checkpoint that is best on the
    source: ``budget: {checkpoints: 5}`` with ``selection: source-val``.

    ``variant="released"`` is what the published code does: lambda times 0.9, the slice's position
    as one more feature (2-D slices), and the target's k-means started from the source's centres.
    Not taken over: it freezes the decoder's ups, sums target features over several mini-batches and
    weights clusters by their number, and keeps the checkpoint that is best on the target's test
    cases.

    Args:
        clusters: k of either side; fewer where a side has fewer images, and the figure reports it.
        rounds: how often to cluster, in equal parts of the training; None = once an epoch.
        weight: lambda; None = as the paper finds it. At 0 nothing is clustered, and the loss is the
            source's own; the target's images are still forwarded, so that they enter batch
            statistics as they do at any other lambda.
        variant: paper or released.
        first: what the adaptation starts from: the source's model, as in the paper.
    """

    clusters: Annotated[int, Ge(1)] = 12
    rounds: Annotated[int, Ge(1)] | None = None
    weight: Annotated[float, Ge(0)] | None = None
    variant: Literal["paper", "released"] = "paper"
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="goodman2022unsupervised",
        authors="Goodman, S. and Kasten Serlin, S. and Greenspan, H. and Goldberger, J.",
        title="Unsupervised Site Adaptation by Intra-site Variability Alignment",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
    )
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without an encoder."""
        require_encoder(network, "aiva")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithm 1, over ``budget.adapt_steps``; an epoch is one pass over the source's images,
        or crops."""
        self.check(scenario, network, context)
        network = (yield from context.run(self.first, scenario, network)).network
        network.train()
        pairs, items = paired_batches(scenario, context), DomainItems.from_scenario(scenario, context)
        steps = context.settings.budget.adaptation(pairs.epoch)
        epoch = context.settings.budget.steps_per_epoch or max(1, -(-items.of_source // context.batch_size))
        objective = AlignmentObjective(context.supervised_task, self)
        step = context.gradient_step(network, objective, steps=steps)
        stage = Stage("adapted", Direct(network), scenario.sites)
        rounds = spans(steps, epoch, self.rounds)
        for number, span in enumerate(rounds):
            # a rehearsal clusters once, which stands for all rounds and for the figure after them
            if self.weight != 0 and (context.rehearsal is None or number == 0):
                began = time.perf_counter()
                clusters = self.clustered(network, items, context, f"clusters-{number}")
                context.meter.planned_seconds += (time.perf_counter() - began) * (len(rounds) + 1)
                use_clusters(objective, clusters, items, context.fabric.device)
                if number == 0:
                    show(clusters, items, context, self.clusters, "before")
                    show_examples(clusters, items, context)
            yield from train_with_checkpoints(
                step, pairs, steps=span, context=context, along=[stage], name="adapt", total=steps
            )
        if self.weight != 0 and context.rehearsal is None:
            clusters = self.clustered(network, items, context, "clusters-after")
            show(clusters, items, context, self.clusters, "after")
        yield stage
        return Carry(network, named_state(step.optimizer, network))

    def clustered(self, network: Any, items: DomainItems, context: Context, name: str) -> Clusters:
        """A round of clustering, computed once on one process: on each its own rounding would lead
        the processes apart."""

        def make() -> dict[str, Tensor]:
            source, target = (
                torch.cat(list(features_of(network, part, context))) for part in (items.source, items.target)
            )
            others = features_of(network, items.others, context)
            position = positions((*items.source, *items.target)) if self.variant == "released" else None
            seed = context.seeds.number("clusters") % 2**32
            made = cluster(source, target, self.clusters, seed=seed, others=others, position=position)
            return {f.name: getattr(made, f.name) for f in fields(made)}

        return Clusters(**context.once(name, make))


def paired_batches(scenario: Scenario, context: Context) -> PairedBatches:
    """The study's batches; where it trains on crops, the target's are of the tiles that are
    clustered."""
    pairs, patch = PairedBatches.from_scenario(scenario, context), context.settings.patch
    if patch is None:
        return pairs
    return replace(pairs, target=replace(pairs.target, transform=Tile(patch, context.settings.augmentation)))


def spans(steps: int, epoch: int, rounds: int | None) -> list[range]:
    """The steps of each round.

    >>> spans(5, 2, None), spans(5, 2, 2)
    ([range(0, 2), range(2, 4), range(4, 5)], [range(0, 2), range(2, 5)])
    """
    edges = [*range(0, steps, epoch), steps] if rounds is None else [steps * i // rounds for i in range(rounds + 1)]
    return [range(a, b) for a, b in pairwise(edges) if a < b]


def show_examples(clusters: Clusters, items: DomainItems, context: Context) -> None:
    """Images from the middle of either cluster of the largest matched pairs (figure 2), one figure
    per pair.

    A pair has the number of its source cluster, which is its colour among the points. The images
    are those that t-SNE saw, or of which it saw crops.
    """
    images = [[item.image for item in side] for side in (items.source, items.target)]
    k = len(clusters.match)
    of = "" if items.kind == "images" else f"with the {items.kind} "
    points = clusters.points.split([len(side) for side in images])
    pair_of = clusters.source, clusters.match[clusters.target[: len(items.target)]]
    sizes = torch.stack([torch.bincount(pairs, minlength=k) for pairs in pair_of])
    largest = [pair for pair in sizes.sum(0).argsort(descending=True, stable=True).tolist() if sizes[:, pair].all()]
    for rank, pair in enumerate(largest[:PAIRS], 1):
        rows = [nearest(side, at, pairs == pair) for side, at, pairs in zip(images, points, pair_of, strict=True)]
        figure = Images.from_arrays(
            f"cluster {pair}: training images {of}nearest to its middle, before the adaptation",
            [list(map(thumbnail, row)) for row in rows],
            names=[f"{side}, {sizes[number, pair]} in the cluster" for number, side in enumerate(("source", "target"))],
            subjects=[list(map(subject_of, row)) for row in rows],
            note="A subject's second image is shown only where no other subject is left.",
        )
        context.show(f"matched-{rank}", figure)


def nearest(images: Sequence[CohortItem], points: Tensor, inside: Tensor) -> list[CohortItem]:
    """Those of N images ``inside`` a cluster (N,) whose points (N, 2) are nearest to its middle, at
    most ``EXAMPLES``.

    A subject's second image comes after the first of every other; an image with several crops in
    the cluster comes once.
    """
    points = points.double()
    distance = (points - points[inside].mean(0)).norm(dim=1)
    turns: Counter[str] = Counter()
    ranked: list[tuple[int, CohortItem]] = []
    order = distance.where(inside, torch.inf).argsort(stable=True)
    once = {
        (id(cohort), index): (cohort, index)
        for cohort, index in (images[at] for at in order[: int(inside.sum())].tolist())
    }
    for image in once.values():
        subject = subject_of(image)
        ranked.append((turns[subject], image))
        turns[subject] += 1
    return [image for _, image in sorted(ranked, key=lambda pair: pair[0])[:EXAMPLES]]


def use_clusters(objective: AlignmentObjective, clusters: Clusters, items: DomainItems, device: Any) -> None:
    """Let the objective align by these clusters from now on."""
    names = [name_of(item) for item in (*items.target, *items.others)]
    objective.cluster_of = dict(zip(names, clusters.target.tolist(), strict=True))
    objective.clusters = replace(
        clusters, source_means=clusters.source_means.to(device), match=clusters.match.to(device)
    )
