"""AIVA's matching against all permutations, its loss against loops in float64 written from
equations 1 and 2, and its clusters against complete runs of scikit-learn."""

from __future__ import annotations

from itertools import combinations, permutations
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allograft.methods.aiva import alignment_loss, match_clusters
from allograft.parts.clustering import MOST_POINTS, cluster


def _loop(features: Tensor, cluster: list[int], means: Tensor, match: list[int]) -> float:
    total = 0.0
    for i in range(len(match)):
        members = [features[b].reshape(-1) for b in range(len(cluster)) if cluster[b] == i]
        if members:
            mean = [sum(float(one[d]) for one in members) / len(members) for d in range(members[0].numel())]
            total += sum((mean[d] - float(means[match[i], d])) ** 2 for d in range(len(mean)))
    return total


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_no_permutation_costs_less(k: int) -> None:
    rng = torch.Generator().manual_seed(k)
    source, target = (torch.randn(k, 2, generator=rng, dtype=torch.float64) for _ in range(2))

    def cost(order: tuple[int, ...]) -> float:
        return sum(float(((target[i] - source[order[i]]) ** 2).sum()) for i in range(k))

    assert tuple(match_clusters(source, target).tolist()) == min(permutations(range(k)), key=cost)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, 7), st.integers(1, 4), st.sampled_from([(3,), (2, 3, 2), (2, 2, 1, 2)]))
def test_the_loss_is_equation_2(seed: int, images: int, k: int, shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(images, *shape, generator=rng, dtype=torch.float64)
    cluster = torch.randint(-1, k, (images,), generator=rng)
    means = torch.randn(k, features[0].numel(), generator=rng, dtype=torch.float64)
    match = torch.randperm(k, generator=rng)
    found = alignment_loss(features, cluster, means, match)
    assert found.item() == pytest.approx(_loop(features, cluster.tolist(), means, match.tolist()), rel=1e-12, abs=1e-12)
    order = torch.randperm(images, generator=rng)
    torch.testing.assert_close(alignment_loss(features[order], cluster[order], means, match), found)


def test_its_gradient() -> None:
    features = torch.randn(5, 2, 2, dtype=torch.float64, requires_grad=True)
    means, match = torch.randn(3, 4, dtype=torch.float64), torch.tensor([2, 0, 1])
    cluster = torch.tensor([0, 2, 0, -1, 2])
    assert torch.autograd.gradcheck(lambda x: alignment_loss(x, cluster, means, match), features)
    alignment_loss(features, cluster, means, match).backward()
    expected = torch.zeros_like(features)
    for i in (0, 2):
        rows = cluster == i
        mean = features[rows].detach().flatten(1).mean(0)
        expected[rows] = (2 * (mean - means[match[i]]) / rows.sum()).view(2, 2)
    torch.testing.assert_close(features.grad, expected)


def _curves(rng: np.random.Generator) -> Any:
    """Ten curves in 64 dimensions."""
    t = np.linspace(0, 1, MOST_POINTS // 10)
    made = []
    for number in range(10):
        a, b, offset = rng.normal(size=(3, 64))
        made.append(3 * offset + np.outer(np.sin(3 * t), 6 * a) + np.outer(np.cos(4 * t + number), 6 * b))
    return np.concatenate(made) + 0.1 * rng.normal(size=(MOST_POINTS, 64))


def _volumes(rng: np.random.Generator) -> Any:
    """Fifty volumes of forty slices: the position of a slice decides most, then its volume."""
    depth = 40
    t = np.linspace(0, 1, depth)
    a, b, c = rng.normal(size=(3, 64))
    path = np.outer(t, 10 * a) + np.outer(np.sin(np.pi * t), 6 * b) + np.outer(np.sin(2 * np.pi * t), 4 * c)
    each = (path + rng.normal(size=64) + 0.2 * rng.normal(size=(depth, 64)) for _ in range(MOST_POINTS // depth))
    return np.concatenate(list(each))


def _blobs(rng: np.random.Generator) -> Any:
    """Twelve normal distributions."""
    middles = np.repeat(4 * rng.normal(size=(12, 64)), MOST_POINTS // 12, 0)
    return middles + rng.normal(size=middles.shape)


def _complete_run(values: Any, seed: int) -> list[Any]:
    """Labels of either half after scikit-learn's PCA, t-SNE and k-means, at its defaults."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    reduced = PCA(20, random_state=seed).fit_transform(values)
    points = TSNE(random_state=seed, n_jobs=1).fit_transform(reduced)
    return [KMeans(12, n_init=10, random_state=seed).fit_predict(half) for half in np.split(points, 2)]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("data", [_curves, _volumes, _blobs])
def test_clusters_agree_with_complete_runs_as_these_agree_with_one_another(data: Any) -> None:
    """Adjusted Rand index, the mean over both sides: over pairs of one of two clusterings and one
    of four complete runs at most 0.05 below the mean over pairs of complete runs."""
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(0)
    values = rng.permutation(data(rng)).astype(np.float32)

    def agreement(one: list[Any], other: list[Any]) -> float:
        return fmean(adjusted_rand_score(a, b) for a, b in zip(one, other, strict=True))

    complete = [_complete_run(values, seed) for seed in (1, 2, 3, 4)]
    among = fmean(agreement(a, b) for a, b in combinations(complete, 2))
    source, target = torch.from_numpy(values).chunk(2)
    found = [cluster(source, target, 12, seed=seed) for seed in (5, 6)]
    labels = [[one.source.numpy(), one.target.numpy()] for one in found]
    ours = fmean(agreement(a, b) for a in labels for b in complete)
    print(f"{data.__name__}: {ours:.3f} with complete runs, {among:.3f} among these")
    assert ours >= among - 0.05
