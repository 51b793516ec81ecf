"""Deep clustering: the clusters of a network's own features are the classes it is trained on (Caron
et al. 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch, collate
from allograft.cohort import Cohort, Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import Network
from allograft.predictor import evaluation_mode
from allograft.seeds import Seeds
from allograft.step import Step
from allograft.train import Batches, History, train
from allograft.transforms.sample import Sample, Tile, tiles


@dataclass(frozen=True)
class Labelled:
    """Batches whose cases have the label that is told by their names, under ``name``."""

    batches: Batches
    labels: Mapping[str, int]
    name: str

    def __call__(self, start: int) -> Iterator[Batch]:
        """From step ``start`` on."""
        for batch in self.batches(start):
            labels = torch.tensor([self.labels[case] for case in batch.cases])
            yield replace(batch, attributes={**batch.attributes, self.name: labels})


def samples_of(pool: Sequence[Cohort], patch: tuple[int, ...] | None) -> Iterator[Batch]:
    """What is clustered: each image, or each tile of an image where the study cuts patches; named
    as the training's samples, and not augmented."""
    for cohort in pool:
        for index in range(len(cohort)):
            case, rng = cohort.case(index), Seeds(0).rng()
            if patch is None:
                yield Sample()(case, rng)
            else:
                for number in range(len(tiles(case.image.shape[2:], patch))):
                    yield Tile(patch).of(case, number, rng)


def check_clusters(count: int, pool: Sequence[Cohort], patch: tuple[int, ...] | None) -> None:
    """Raise ``SpecError`` for fewer samples than clusters."""
    sizes = [cohort.case(index).image.shape[2:] for cohort in pool for index in range(len(cohort))]
    available = len(sizes) if patch is None else sum(len(tiles(size, patch)) for size in sizes)
    if available < count:
        what = "images" if patch is None else "tiles"
        raise SpecError(
            f"united: the pool has {available} {what} for {count} clusters; set classes to {available // 2} or less, "
            "or name more sites in pool"
        )


def pooled_features(network: Network, samples: Iterable[Batch], context: Context) -> tuple[list[str], Tensor]:
    """Names of the samples, and the mean over space of each one's last feature, (N, C) on the CPU;
    in evaluation mode."""
    names: list[str] = []
    rows: list[Tensor] = []

    def read(waiting: Sequence[Batch]) -> None:
        batch = context.fabric.to_device(collate(waiting))
        rows.append(network.encoder(batch.image)[-1].flatten(2).mean(2).float().cpu())
        names.extend(batch.cases)

    waiting: list[Batch] = []
    with evaluation_mode(network):
        for sample in samples:
            if waiting and (len(waiting) == context.batch_size or waiting[0].image.shape != sample.image.shape):
                read(waiting)
                waiting = []
            waiting.append(sample)
        read(waiting)
    return names, torch.cat(rows)


def clusters_by_name(network: Network, pool: Sequence[Cohort], count: int, context: Context) -> dict[str, int]:
    """Name of each sample of a pool -> its cluster by the features that it has now."""
    names, features = pooled_features(network, samples_of(pool, context.settings.patch), context)
    labels = clusters_of(features, count, context.seeds.number("clusters")).tolist()
    return dict(zip(names, labels, strict=True))


def clusters_of(features: Tensor, count: int, seed: int) -> Tensor:
    """k-means of features with mean 0 and deviation 1 in each channel, and of length 1: (N, C) ->
    (N,) int64.

    Caron et al. whiten 256 principal components in the place of the first.
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    spread = features - features.mean(0)
    spread = spread / spread.square().mean(0).sqrt().clamp_min(1e-8)
    normal = F.normalize(spread, dim=1).numpy()
    with threadpool_limits(1):
        return torch.from_numpy(KMeans(count, n_init=1, random_state=seed % 2**32).fit(normal).labels_).long()


class Drawn(Protocol):
    """A head that can be drawn again."""

    def reset(self) -> None:
        """All weights, from the global generators."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All of them."""


@dataclass
class ClusteredEpochs:
    """Steps in epochs, before each of which images are clustered and the head is drawn again, with
    nothing kept of it by the optimizer.

    Args:
        step: trains the head among others.
        optimizer: the step's, that moves the head.
        head: on which classes are told.
        cluster: name of a sample -> its cluster now.
        name: attribute of a batch in which clusters are put.
    """

    step: Step
    optimizer: torch.optim.Optimizer
    head: Drawn
    cluster: Callable[[], dict[str, int]]
    name: str

    def train(self, batches: Loader, steps: int, context: Context) -> History:
        """All steps; a rehearsal clusters once."""
        labels: dict[str, int] = {}
        history = History()
        for epoch, start in enumerate(range(0, steps, batches.epoch)):
            if not labels or context.rehearsal is None:
                labels = context.once(f"clusters-{epoch}", self.cluster)
            with context.seeds.everything("head", epoch):
                self.head.reset()
            for parameter in self.head.parameters():
                self.optimizer.state.pop(parameter, None)
            span = range(start, min(start + batches.epoch, steps))
            history = train(self.step, Labelled(batches, labels, self.name), steps=span, context=context)
        return history
