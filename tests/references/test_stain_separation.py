"""Macenko and Vahadane against slow code in float64, SciPy and scikit-learn, and against stains
that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.linear_model import Lasso

from allograft.errors import SpecError
from allograft.phantoms.histology import Laboratory, stain, tissue
from allograft.transforms.stain_separation import (
    Stains,
    find_stains,
    macenko_stains,
    optical_density,
    restain,
    stain_amounts,
    stained,
    vahadane_stains,
)

METHODS = ["macenko", "vahadane"]
OTHER = Laboratory((0.55, 0.75, 0.36), (0.18, 0.93, 0.30), haematoxylin_amount=0.7, eosin_amount=1.5)
WHITE = (1.0, 1.0, 1.0)


def patch(laboratory: Laboratory, seed: int = 0, noise: float = 0.0) -> torch.Tensor:
    """(3, 64, 64) of one tissue, on white glass."""
    clean = Laboratory(
        laboratory.haematoxylin,
        laboratory.eosin,
        laboratory.haematoxylin_amount,
        laboratory.eosin_amount,
        0.0,
        WHITE,
        noise,
    )
    rng = np.random.default_rng(seed)
    return torch.from_numpy(stain(tissue(rng, 64, "large"), clean, rng)).movedim(-1, 0)


def degrees(one: np.ndarray, other: np.ndarray) -> float:
    return math.degrees(math.acos(min(1.0, float(one @ other) / math.sqrt(float(one @ one) * float(other @ other)))))


def test_macenko_by_hand() -> None:
    image = patch(OTHER, noise=0.01)
    rows = []
    for i in range(64):
        for j in range(64):
            density = [-math.log10(max(float(image[c, i, j]), 1 / 255)) for c in range(3)]
            if math.hypot(*density) > 0.15:
                rows.append(density)
    array = np.array(rows)
    _, _, right = np.linalg.svd(array, full_matrices=False)
    first, second = right[0] * np.sign(right[0].sum()), right[1]
    angles = [math.atan2(float(row @ second), float(row @ first)) for row in array]
    ends = [first * math.cos(angle) + second * math.sin(angle) for angle in np.percentile(angles, (1, 99))]
    expected = sorted(ends, key=lambda row: -row[0])
    found = macenko_stains(stained(optical_density(image))).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert len(rows) == len(stained(optical_density(image)))


@pytest.mark.parametrize("laboratory", [Laboratory(), OTHER])
@pytest.mark.parametrize("method", METHODS)
def test_known_stains_are_found(method: str, laboratory: Laboratory) -> None:
    density = stained(optical_density(patch(laboratory)))
    found = (macenko_stains if method == "macenko" else vahadane_stains)(density).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
    assert (found >= 0).all()
    for one, true in zip(found, laboratory.stains, strict=True):
        assert degrees(one, true) < 5  # they lie 35 degrees apart: their order is right too


def test_amounts_without_sparsity_are_scipys() -> None:
    rng = np.random.default_rng(0)
    density = rng.uniform(-0.3, 1.5, (60, 3))
    stains = OTHER.stains
    found = stain_amounts(torch.from_numpy(density), torch.from_numpy(stains)).numpy()
    expected = np.array([nnls(stains.T, row)[0] for row in density])
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (expected == 0).any(1).sum() > 5  # each case of the closed form is met
    assert (expected > 0).all(1).sum() > 5


def test_sparse_amounts_are_scikit_learns() -> None:
    rng = np.random.default_rng(1)
    density = rng.uniform(0, 1.5, (30, 3))
    stains = OTHER.stains
    found = stain_amounts(torch.from_numpy(density), torch.from_numpy(stains), 0.1).numpy()
    lasso = Lasso(
        alpha=0.1 / 3, fit_intercept=False, positive=True, tol=1e-12, max_iter=100000
    )  # its square is a mean over 3 channels
    expected = np.array([lasso.fit(stains.T, row).coef_ for row in density])
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_restained_tissue_looks_like_the_reference_laboratory(method: str) -> None:
    """The same tissue from two laboratories: recoloured, it lies nearer to what the other saw, by
    half at least."""
    here, there = patch(Laboratory()), patch(OTHER)
    reference = find_stains(here, method)  # type: ignore[arg-type]
    own = find_stains(there, method)  # type: ignore[arg-type]
    assert reference is not None
    found = restain(there, own, reference, method)  # type: ignore[arg-type]
    assert float((found - here).abs().mean()) < 0.5 * float((there - here).abs().mean())
    assert found.dtype == there.dtype
    assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_amounts_are_scaled_by_the_ratio_of_the_largest() -> None:
    vectors = torch.from_numpy(Laboratory().stains)
    amounts = torch.tensor([[0.5, 0.2], [0.1, 0.8]], dtype=torch.float64)
    image = torch.exp(-(amounts @ vectors)).T.reshape(3, 1, 2)
    own, reference = (
        Stains(vectors, torch.tensor([1.0, 2.0]).double()),
        Stains(vectors, torch.tensor([2.0, 1.0]).double()),
    )
    expected = torch.exp(-((amounts * torch.tensor([2.0, 0.5])) @ vectors)).T.reshape(3, 1, 2)
    torch.testing.assert_close(restain(image, own, reference, "macenko"), expected)
    # its own stains change nothing
    torch.testing.assert_close(restain(image, own, own, "macenko"), image)
    assert restain(image, None, reference, "macenko") is image


def test_glass_and_grey_have_no_stains() -> None:
    assert find_stains(torch.ones(3, 32, 32), "macenko") is None
    for method in METHODS:
        assert find_stains(torch.full((3, 32, 32), 0.4), method) is None  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="did you mean 'macenko'"):
        find_stains(torch.ones(3, 4, 4), "macenco")  # type: ignore[arg-type]
