"""AIVA's matching against all permutations, its loss against loops in float64 written from
equations 1 and 2."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allograft.methods.aiva import alignment_loss, match_clusters


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
