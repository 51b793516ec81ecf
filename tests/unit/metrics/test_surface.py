"""Surface Dice: MONAI's sub-voxel one, areas known in closed form, and what must be equal."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.metrics import SurfaceDiceMetric
from torch import Tensor

from allograft.errors import SpecError
from allograft.metrics import surface
from allograft.metrics.surface import surface_dice


def _masks(shape: tuple[int, ...], seed: int = 0, border: bool = False) -> tuple[Tensor, Tensor]:
    """Two lumpy blobs, cut by the border of the image if asked."""
    rng = np.random.default_rng(seed)
    centre = [0 if border else n / 2 for n in shape]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"))
    made = []
    for _ in range(2):
        shift = np.array(centre) + rng.normal(0, 0.6, len(shape))
        distance = np.sqrt(((grid - shift.reshape(-1, *[1] * len(shape))) ** 2).sum(0))
        made.append(torch.from_numpy(distance + rng.normal(0, 0.7, shape) < 0.35 * max(shape)))
    return made[0], made[1]


def _monai(prediction: Tensor, target: Tensor, spacing: tuple[float, ...], tolerance: float) -> float:
    metric = SurfaceDiceMetric([tolerance], include_background=True, use_subvoxels=True)
    return float(metric(prediction[None, None], target[None, None], spacing=list(spacing))[0, 0])


CASES = [
    ((14, 16, 15), (1.0, 1.0, 1.0)),
    ((14, 16, 9), (0.7, 0.7, 3.0)),
    ((24, 30), (1.0, 1.0)),
    ((24, 30), (0.4, 1.3)),
]


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("tolerance", [0.0, 0.7, 1.0, 2.0, 9.0])
@pytest.mark.parametrize(("shape", "spacing"), CASES)
def test_equals_monai(shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float, border: bool) -> None:
    prediction, target = _masks(shape, border=border)
    expected = _monai(prediction, target, spacing, tolerance)
    bound = 1e-6 if len(set(spacing)) == 1 else 1e-3
    assert surface_dice(prediction, target, spacing, tolerance) == pytest.approx(expected, abs=bound)
    assert expected > 0
    assert tolerance > 0 or expected < 0.9


@given(st.integers(0, 2**27 - 1), st.integers(0, 2**27 - 1), st.sampled_from([0.0, 1.0, 1.5, 2.0]))
def test_equals_monai_on_every_kind_of_corner(first: int, second: int, tolerance: float) -> None:
    prediction, target = (
        torch.tensor([bits >> i & 1 for i in range(27)]).bool().reshape(3, 3, 3) for bits in (first, second)
    )
    if not (prediction.any() and target.any()):
        return
    for spacing in ((1.0, 1.0, 1.0), (0.5, 1.0, 2.0)):
        expected = _monai(prediction, target, spacing, tolerance)
        assert surface_dice(prediction, target, spacing, tolerance) == pytest.approx(expected, abs=1e-6)


def test_areas_known_in_closed_form() -> None:
    x, y, z = 0.5, 2.0, 3.0
    area = surface._measures((x, y, z))
    assert area[0] == area[255] == 0
    assert area[0b11110000] == area[0b00001111] == pytest.approx(y * z)
    assert area[0b11001100] == pytest.approx(x * z)
    assert area[0b10101010] == pytest.approx(x * y)
    corner = 0.5 * math.sqrt((y * z) ** 2 + (x * z) ** 2 + (x * y) ** 2) / 4
    assert area[0b10000000] == area[0b01111111] == pytest.approx(corner)
    assert area[0b11000000] == pytest.approx(math.hypot(x, y) / 2 * z)
    np.testing.assert_array_equal(area, area[::-1])


def test_oneself_swapping_and_turning() -> None:
    prediction, target = _masks((12, 14, 10))
    spacing = (1.0, 0.8, 1.5)
    assert surface_dice(target, target, spacing, 0.0) == pytest.approx(1.0)
    found = surface_dice(prediction, target, spacing, 0.9)
    assert found == pytest.approx(surface_dice(target, prediction, spacing, 0.9))
    assert found == pytest.approx(surface_dice(prediction.flip(0), target.flip(0), spacing, 0.9))
    turned = surface_dice(prediction.permute(2, 0, 1), target.permute(2, 0, 1), (1.5, 1.0, 0.8), 0.9)
    assert found == pytest.approx(turned)
    assert found == pytest.approx(surface_dice(prediction, target, [10 * s for s in spacing], 9.0))
    wider = [surface_dice(prediction, target, spacing, t) for t in (0.0, 0.5, 1.0, 2.0, 4.0, 40.0)]
    assert wider == sorted(wider)
    assert wider[-1] == pytest.approx(1.0)


@pytest.mark.parametrize("tolerance", [1.0, 2.3, 3.0])
def test_offsets_and_tree_agree(tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    prediction, target = _masks((12, 14, 10), seed=3)
    spacing = (1.0, 0.8, 1.5)
    found = surface_dice(prediction, target, spacing, tolerance)
    surface._ball.cache_clear()
    monkeypatch.setattr(surface, "BALL", 0)
    assert surface_dice(prediction, target, spacing, tolerance) == pytest.approx(found, abs=1e-12)
    surface._ball.cache_clear()


def test_a_distance_equal_to_the_tolerance_counts_whatever_the_rounding() -> None:
    target = torch.zeros(3, 20, dtype=torch.bool)
    target[:, :8] = True
    assert surface_dice(target.roll(3, 1), target, (0.1, 0.1), 0.3) == pytest.approx(
        _monai(target.roll(3, 1), target, (0.1, 0.1), 0.3)
    )


def test_empty_masks() -> None:
    empty = torch.zeros(5, 6, 7, dtype=torch.bool)
    full = ~empty
    assert math.isnan(surface_dice(empty, empty, (1, 1, 1), 1.0))
    assert surface_dice(full, empty, (1, 1, 1), 1.0) == surface_dice(empty, full, (1, 1, 1), 1.0) == 0.0
    assert surface_dice(full, full, (1, 1, 1), 0.0) == 1.0


def test_wrong_arguments_are_named() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    with pytest.raises(SpecError, match="one grid"):
        surface_dice(mask, mask[:3], (1, 1), 1)
    with pytest.raises(SpecError, match=r"torch\.bool"):
        surface_dice(mask.long(), mask, (1, 1), 1)
    with pytest.raises(SpecError, match="2 or 3"):
        surface_dice(mask[0], mask[0], (1,), 1)
    with pytest.raises(SpecError, match="spacing"):
        surface_dice(mask, mask, (1, 0), 1)
    with pytest.raises(SpecError, match="tolerance"):
        surface_dice(mask, mask, (1, 1), -1)
