"""Three searches for the nearest voxel of a surface give the same distances, and each is used where
it answers soonest."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import torch

from allograft.metrics import nearest
from allograft.metrics.nearest import Mask, by_columns, by_transform, by_tree, distances_between, surface_of
from allograft.metrics.segmentation import surface_distances


def ball(radius: float, shift: float, side: int = 40) -> Mask:
    """Around a point that lies ``shift`` voxels from the middle along every axis."""
    grid = np.indices((side,) * 3)
    return ((grid - side / 2 - shift) ** 2).sum(0) < radius**2


def speckle(side: int, share: float) -> Mask:
    return np.random.default_rng(0).random((side,) * 3) < share


PAIRS = {
    "close": (ball(15, 0), ball(14, 3)),
    "apart": (ball(15, 0), ball(6, 9)),
    "the same": (ball(15, 0), ball(15, 0)),
    "beyond the columns": (ball(6, -12), ball(6, 12)),
    "empty columns": (ball(18, 0), ball(18, 0) & (np.arange(40) < 14)),
    "thin": (ball(15, 0)[18:22], ball(6, 9)[22:26]),
    "speckle": (speckle(40, 0.5), speckle(40, 0.001)),
}


@pytest.mark.parametrize("search", [by_tree, by_columns])
@pytest.mark.parametrize("spacing", [*itertools.permutations((0.5, 2.0, 0.25)), (1.0, 1.0, 1.0), (0.7, 1.3, 5.0)])
@pytest.mark.parametrize("pair", PAIRS)
def test_each_search_gives_the_distances_of_the_transform(pair: str, spacing: tuple[float, ...], search: Any) -> None:
    own, other = map(surface_of, PAIRS[pair])
    places, others = np.flatnonzero(own), np.flatnonzero(other)
    ours, exact = (found(places, others, other, spacing) for found in (search, by_transform))
    assert len(ours) > 100
    np.testing.assert_allclose(ours, exact, rtol=4e-16, atol=0)  # the last bit
    if spacing != (0.7, 1.3, 5.0):
        assert np.array_equal(ours, exact), "powers of two leave nothing to round"


def test_distances_are_those_of_all_pairs() -> None:
    own, other, size = surface_of(ball(9, 0, 32)), surface_of(ball(6, 3, 32)), np.array([1.5, 0.5, 1.0])
    there, back = distances_between(own, other, size.tolist())
    pairs = np.sqrt(((np.argwhere(own)[:, None] * size - np.argwhere(other) * size) ** 2).sum(2))
    np.testing.assert_allclose(there, pairs.min(1), rtol=1e-15)
    np.testing.assert_allclose(back, pairs.min(0), rtol=1e-15)


@pytest.mark.parametrize("length", [254, 255, 256, 300])
def test_a_long_column_is_counted_to_its_end(length: int) -> None:
    mask = np.zeros((length, 2), bool)
    mask[0, 0] = True
    assert nearest.steps_in_column(mask).T.tolist() == [list(range(length)), [length] * length]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (ball(38, 0, 90), ball(36, 4, 90), []),
        (ball(4, 0), ball(4, 1), [(8, 8, 8)] * 2),  # tiny: the box of both, not the whole image
        (speckle(24, 0.5), ball(9, 0, 24), [(24,) * 3] * 2),
        (speckle(40, 0.5), ball(9, 0, 40), []),
        (ball(38, 0, 90), ball(0, 0, 90), []),  # nothing to measure to
        (speckle(160, 0.5)[0], speckle(160, 0.5)[1], [(160, 160)] * 2),
        (ball(70, 0, 160)[80], ball(60, 0, 160)[80], []),
    ],
    ids=["large", "tiny", "small speckle", "speckle", "empty", "flat speckle", "flat"],
)
def test_the_whole_box_is_transformed_only_where_that_is_sooner(
    first: Mask, second: Mask, expected: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    transformed, real = [], scipy.ndimage.distance_transform_edt
    monkeypatch.setattr(
        scipy.ndimage,
        "distance_transform_edt",
        lambda mask, sampling: transformed.append(mask.shape) or real(mask, sampling=sampling),
    )
    surface_distances(torch.from_numpy(first), torch.from_numpy(second), (1.0,) * first.ndim)
    assert transformed == expected


@pytest.mark.parametrize(("shift", "asked"), [(0, 0), (2, 0), (10, None)])
def test_the_tree_is_asked_only_for_what_lies_beyond_the_columns(
    shift: float, asked: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = surface_of(ball(15, 0, 64)), surface_of(ball(15, shift, 64))
    there, back = distances_between(first, second, (1.0, 1.0, 1.0))
    queried, real = [0], scipy.spatial.KDTree

    class Counted(real):  # type: ignore[misc, valid-type]
        def query(self, points: Any) -> Any:
            queried[0] += len(points)
            return super().query(points)

    monkeypatch.setattr(scipy.spatial, "KDTree", Counted)
    distances_between(first, second, (1.0, 1.0, 1.0))
    beyond = int((there > nearest.REACH).sum() + (back > nearest.REACH).sum())
    assert queried[0] == beyond
    assert beyond == asked if asked is not None else 0 < beyond < len(there) + len(back)
