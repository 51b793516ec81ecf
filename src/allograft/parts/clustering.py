"""AIVA's clustering: bottleneck features of two domains, embedded together, clustered apart and
matched (Goodman et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from allograft.batch import Batch, collate
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.figure import Points
from allograft.networks import Network
from allograft.parts.paired_batches import last_feature
from allograft.parts.thumbnails import CohortItem
from allograft.predictor import evaluation_mode
from allograft.recipe import Scenario
from allograft.transforms.sample import Tile, tiles

MOST_POINTS = 2000
"""t-SNE takes no more; where there are more images, as many are drawn at random."""
COMPONENTS = 20
"""Principal components that t-SNE is given, as in the released code."""


def match_clusters(source_centres: Tensor, target_centres: Tensor) -> Tensor:
    """The one-to-one matching of least total squared distance (equation 1), by the Hungarian
    method.

    Args:
        source_centres, target_centres: (k, d).

    Returns:
        (k,) int64: the index of the source centre that each target centre is matched with.

    Example:
        >>> match_clusters(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[6.0, 5.0], [1.0, 0.0]])).tolist()
        [1, 0]
    """
    from scipy.optimize import linear_sum_assignment

    if source_centres.shape != target_centres.shape or source_centres.ndim != 2:
        found = f"{tuple(source_centres.shape)} and {tuple(target_centres.shape)}"
        raise SpecError(f"match_clusters: centres have shapes {found}; expected (k, d) both")
    if not bool(source_centres.isfinite().all() and target_centres.isfinite().all()):
        raise SpecError("match_clusters: some centres are not finite numbers; lower the learning rate")
    cost = (target_centres.double()[:, None] - source_centres.double()[None]).square().sum(-1)
    # rows come back in order
    return torch.from_numpy(linear_sum_assignment(cost.cpu().numpy())[1]).to(torch.int64)


@dataclass(frozen=True)
class Clusters:
    """One round of clustering and matching.

    Args:
        points: (S + T, 2) joint embedding of the S source and T target images that t-SNE saw, the
            source first.
        source, target: (S,) and (T',) int64 cluster of each; T' counts all target images, those
            first that t-SNE saw.
        source_centres, target_centres: (k, 2).
        source_means: (k, D) mean bottleneck feature of each source cluster.
        match: (k,) int64.
    """

    points: Tensor
    source: Tensor
    target: Tensor
    source_centres: Tensor
    target_centres: Tensor
    source_means: Tensor
    match: Tensor


def cluster(
    source: Tensor,
    target: Tensor,
    clusters: int,
    *,
    seed: int,
    others: Iterable[Tensor] = (),
    position: Tensor | None = None,
) -> Clusters:
    """PCA and joint t-SNE of both domains, k-means on either, and the matching (section 2).

    Every round is computed from the start, as in the released code. Fewer images than clusters on a
    side reduce k.

    Args:
        source, target: (S, D) and (T, D) bottleneck features, float32.
        clusters: k of either side.
        others: batches (B, D) of target images that t-SNE does not see: they join the target
            cluster with the nearest mean after PCA. They are asked for one by one, and no more than
            their principal components are kept.
        seed: of PCA, t-SNE and k-means.
        position: (S + T,) of a slice in its volume, for the released variant: it stands beside the
            principal components, and the target's k-means starts from the source's centres. None
            for the paper's.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    split, features = len(source), torch.cat([source, target]).numpy()
    pca = PCA(min(COMPONENTS, *features.shape), random_state=seed)
    # PCA also reports shares of the variance, which are 0 / 0 where all images are the same
    with np.errstate(invalid="ignore"):
        reduced = pca.fit_transform(features)
    seen = reduced if position is None else np.concatenate([reduced, position[:, None].numpy()], axis=1)
    # Sums of several threads differ from those of one, and threads only wait for each other here.
    with threadpool_limits(1):
        points = embed(seen, seed)
        k = min(clusters, *(len(np.unique(part, axis=0)) for part in (points[:split], points[split:])))
        a = KMeans(k, n_init=10, random_state=seed).fit(points[:split])
        start = {"n_init": 10} if position is None else {"init": a.cluster_centers_, "n_init": 1}
        b = KMeans(k, random_state=seed, **start).fit(points[split:])
    joined, rest = b.labels_, [pca.transform(batch.numpy()) for batch in others]
    if rest:
        joined = np.concatenate([joined, nearest_mean(np.concatenate(rest), reduced[split:], joined)])
    centres = torch.from_numpy(a.cluster_centers_).double(), torch.from_numpy(b.cluster_centers_).double()
    own = torch.from_numpy(a.labels_).long()
    member = F.one_hot(own, k).to(source)
    means = member.T @ source / member.sum(0).clamp_min(1)[:, None]
    return Clusters(
        torch.from_numpy(points), own, torch.from_numpy(joined).long(), *centres, means, match_clusters(*centres)
    )


def embed(values: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Barnes-Hut t-SNE as scikit-learn runs it by default, to its end: (N, d) -> (N, 2).

    The paper does not say its settings; the released code has these defaults too: 1,000 iterations,
    or fewer once nothing improves, 250 of them exaggerated, from the first two principal
    components. Cut short, the labels of k-means differ more from those of a complete run than two
    complete runs differ (``tests/references/test_aiva.py``). The perplexity is 30, or less where
    N < 91. Images that are all the same are one point.
    """
    from sklearn.manifold import TSNE

    if not np.ptp(values, axis=0).any():
        return np.zeros((len(values), 2), np.float32)
    values = np.pad(values, ((0, 0), (0, max(0, 2 - values.shape[1]))))  # one feature alone
    tsne = TSNE(perplexity=min(30.0, (len(values) - 1) / 3), init="pca", random_state=seed, n_jobs=1)
    points: NDArray[np.float32] = tsne.fit_transform(values.astype(np.float32))
    return points


def nearest_mean(values: NDArray[Any], members: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    """(U, d) -> (U,) the label whose ``members`` (T, d) have the nearest mean."""
    present = np.unique(labels)
    means = np.stack([members[labels == label].mean(0) for label in present])
    nearest: NDArray[Any] = present[((values[:, None] - means[None]) ** 2).sum(-1).argmin(1)]
    return nearest


@dataclass(frozen=True)
class DomainItem:
    """What is clustered: an image of a cohort, or one of its tiles where the study trains on
    crops."""

    cohort: Cohort
    index: int
    tile: int | None = None

    @property
    def image(self) -> CohortItem:
        """The image that it is, or is a tile of."""
        return self.cohort, self.index


@dataclass(frozen=True)
class DomainItems:
    """What is clustered: source and target, each side drawn at random to fit into ``MOST_POINTS``
    together.

    Args:
        source: those that are seen.
        target: those that are seen.
        others: the target's rest.
        of_source: how many the source has.
        total: how many there are.
    """

    source: tuple[DomainItem, ...]
    target: tuple[DomainItem, ...]
    others: tuple[DomainItem, ...]
    of_source: int
    total: int

    @staticmethod
    def from_scenario(scenario: Scenario, context: Context, most: int = MOST_POINTS) -> DomainItems:
        """All source sites together, and all target sites together; every tile of an image where
        the study trains on crops."""
        patch = context.settings.patch
        source, target = (list(_items(part, patch)) for part in (scenario.source, scenario.target))
        room = min(len(target), max(most // 2, most - len(source)))
        order = [
            torch.randperm(len(part), generator=context.seeds.rng("drawn", len(part))).tolist()
            for part in (source, target)
        ]
        kept, seen, rest = sorted(order[0][: most - room]), sorted(order[1][:room]), sorted(order[1][room:])
        places = tuple(source[i] for i in kept), tuple(target[i] for i in seen), tuple(target[i] for i in rest)
        return DomainItems(*places, len(source), len(source) + len(target))

    @property
    def kind(self) -> str:
        """What is clustered, in the plural."""
        return "images" if self.source[0].tile is None else "crops"


def _items(cohorts: Sequence[Cohort], patch: tuple[int, ...] | None) -> Iterator[DomainItem]:
    for cohort in cohorts:
        hidden = cohort.unlabelled()
        for index in range(len(cohort)):
            if patch is None:
                yield DomainItem(cohort, index)
            else:
                count = len(tiles(hidden.case(index).image.shape[2:], patch))
                yield from (DomainItem(cohort, index, tile) for tile in range(count))


def name_of(item: DomainItem) -> str:
    """The name of an image, or a tile, as batches say it."""
    case_index, slice_ = item.cohort.items[item.index]
    name = item.cohort.cases[case_index].name
    name = f"{name}#{slice_}" if item.cohort.slices else name
    return name if item.tile is None else f"{name}@{item.tile}"


def positions(items: Sequence[DomainItem]) -> Tensor:
    """(N,) index of each slice divided by its volume's slices; 0 where images are not slices."""
    depths: dict[tuple[int, int], int] = {}
    for cohort in {id(item.cohort): item.cohort for item in items}.values():
        for case_index, slice_ in cohort.items:
            depths[id(cohort), case_index] = max(depths.get((id(cohort), case_index), 0), slice_ + 1)
    keys = [(id(item.cohort), *item.cohort.items[item.index]) for item in items]
    return torch.tensor([slice_ / depths[owner, case_index] for owner, case_index, slice_ in keys])


def features_of(network: Network, items: Sequence[DomainItem], context: Context) -> Iterator[Tensor]:
    """Bottleneck features in evaluation mode, batches (B, D) on the CPU, each computed when it is
    asked for."""
    with evaluation_mode(network):
        for start in range(0, len(items), context.batch_size):
            cases = [_case(item, context) for item in items[start : start + context.batch_size]]
            image = context.fabric.to_device(collate(cases)).image
            yield last_feature(network.encoder(image)).float().cpu()


def _case(item: DomainItem, context: Context) -> Batch:
    """The image as it is, or its tile without augmentation."""
    case, patch = item.cohort.unlabelled().case(item.index), context.settings.patch
    return case if item.tile is None or patch is None else Tile(patch).of(case, item.tile, context.seeds.rng("crop"))


def show(clusters: Clusters, items: DomainItems, context: Context, wanted: int, when: str) -> None:
    """Both clusterings and their centres, matched clusters in one colour and fill (figures 3 and
    4)."""
    k, seen = len(clusters.match), len(clusters.points)
    note = "" if seen == items.total else f"; {seen} of {items.total} {items.kind}, drawn at random"
    note += "" if k == wanted else f"; {k} clusters, not {wanted}: a side has no more {items.kind} that differ"
    sizes = len(items.source), len(items.target)
    colours = (*clusters.source.tolist(), *clusters.match[clusters.target[: sizes[1]]].tolist())
    title = f"{items.kind} {when} the adaptation, matched clusters alike{note}"
    context.show(f"clusters-{when}", _dots(title, clusters.points, sizes, colours))
    points = torch.cat([clusters.source_centres, clusters.target_centres])
    colours = (*range(k), *clusters.match.tolist())
    context.show(
        f"centres-{when}",
        _dots(f"centres of the clusters {when} the adaptation, matched ones alike", points, (k, k), colours),
    )


def _dots(title: str, points: Tensor, sizes: tuple[int, int], colours: tuple[int, ...]) -> Points:
    x, y = (tuple(values) for values in points.T.tolist())
    return Points(title, x, y, ("source",) * sizes[0] + ("target",) * sizes[1], colours, "cluster")
