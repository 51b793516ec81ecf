"""The Fréchet distance against SciPy's square root of a matrix, and a case by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from allograft.errors import SpecError
from allograft.metrics.frechet import frechet_distance


@pytest.mark.parametrize(("counts", "width"), [((50, 60), 3), ((40, 40), 8)])
def test_it_is_scipys(counts: tuple[int, int], width: int) -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width))
    first, second = rng.normal(size=(counts[0], width)) @ mixing, rng.normal(1, 2, (counts[1], width))
    one, other = np.cov(first.T), np.cov(second.T)
    expected = np.square(first.mean(0) - second.mean(0)).sum() + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert frechet_distance(torch.from_numpy(first), torch.from_numpy(second)) == pytest.approx(expected, rel=1e-9)


def test_fewer_features_than_dimensions_are_no_obstacle() -> None:
    """Along one axis two normal distributions are (m1 - m2)^2 + (s1 - s2)^2 apart."""
    line = torch.zeros(1, 9)
    line[0, 4] = 1.0
    first, second = torch.tensor([[0.0], [2.0], [4.0]]) @ line, torch.tensor([[1.0], [2.0], [3.0]]) @ line
    assert frechet_distance(first, second) == pytest.approx(1.0)
    assert frechet_distance(first, first) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(first, first + 3) == pytest.approx(9 * 9)


def test_what_is_refused() -> None:
    with pytest.raises(SpecError, match=r"found features of \(1, 3\) and \(4, 3\)"):
        frechet_distance(torch.zeros(1, 3), torch.zeros(4, 3))
    with pytest.raises(SpecError, match=r"\(4, 2\) and \(4, 3\)"):
        frechet_distance(torch.zeros(4, 2), torch.zeros(4, 3))
