"""The triplet loss, the weighted mean and the recall, each written as a loop in float64 from the
paper."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from allograft.nn.retrieval import recall, synthesise, triplet_loss


def distance(x: np.ndarray, y: np.ndarray) -> float:
    """Eq. 1."""
    return 1 - float(x @ y) / (float(np.linalg.norm(x)) * float(np.linalg.norm(y)))


@given(st.integers(2, 7), st.integers(0, 2**20), st.booleans())
def test_the_loss_is_the_double_sum(count: int, seed: int, longitudinal: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((2, count, 5))
    subjects = [f"s{rng.integers(3)}" if longitudinal else f"s{n}" for n in range(count)]
    expected = 0.0
    for a in range(count):
        for b in range(count):
            if subjects[b] != subjects[a]:
                expected += max(0.0, distance(x[a], y[a]) - distance(x[a], y[b]) + 0.2)
    given_ = tuple(subjects) if longitudinal else None
    found = triplet_loss(torch.from_numpy(x), torch.from_numpy(y), 0.2, subject=given_)
    np.testing.assert_allclose(float(found), expected, atol=1e-12)
    numbers = torch.tensor([int(one[1:]) for one in subjects])
    assert torch.equal(triplet_loss(torch.from_numpy(x), torch.from_numpy(y), 0.2, subject=numbers), found)


@given(st.integers(1, 6), st.integers(0, 2**20), st.booleans())
def test_the_image_is_the_weighted_mean_of_equation_4(k: int, seed: int, holes: bool) -> None:
    rng = np.random.default_rng(seed)
    query, keys, images = rng.standard_normal((2, 4)), rng.standard_normal((6, 4)), rng.standard_normal((6, 3, 2))
    if holes:
        images[rng.random(images.shape) < 0.3] = np.nan
    for negative in ("released", "clamp"):
        expected = np.zeros((2, 3, 2))
        for number in range(2):
            similar = [1 - distance(query[number], key) for key in keys]
            order = sorted(range(6), key=lambda one: -similar[one])[:k]
            weights = [max(similar[one], 0.0) if negative == "clamp" else similar[one] for one in order]
            if sum(weights) == 0:
                return  # refused, see the test of bad input
            for place in np.ndindex(3, 2):
                values = [images[(one, *place)] for one in order]
                known = [(w, value) for w, value in zip(weights, values, strict=True) if not np.isnan(value)]
                total = sum(w for w, _ in known)
                expected[(number, *place)] = sum(w * v for w, v in known) / total if known and total else np.nan
        found = synthesise(*map(torch.from_numpy, (query, keys, images)), k, negative=negative)  # type: ignore[arg-type]
        near = ~np.isnan(expected)
        np.testing.assert_allclose(found.numpy()[near], expected[near], rtol=1e-6, atol=1e-6)
        assert np.isnan(found.numpy()[~near]).all() or negative == "clamp"


def test_recall_counts_ranks() -> None:
    rng = torch.Generator().manual_seed(0)
    query, keys = torch.randn(2, 30, 4, generator=rng, dtype=torch.float64).unbind(0)
    for k in (1, 5, 30):
        hits = 0
        for number in range(30):
            similar = [float(torch.cosine_similarity(query[number], key, 0)) for key in keys]
            hits += sorted(range(30), key=lambda one: -similar[one]).index(number) < k
        assert recall(query, keys, (k,)) == {k: hits / 30}
