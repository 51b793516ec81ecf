"""Surface Dice against its definition by distance transforms, masks at the border of the image
included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from tests.references.surface import surface_dice_by_definition

from allograft.metrics.surface import surface_dice

SHAPES = [(13, 17, 15), (1, 9, 12), (31, 24)]
SPACINGS = [(1.0, 1.0, 1.0), (0.5, 0.5, 0.5), (0.7, 0.9, 3.0), (2.5, 0.8, 1.1)]


def _mask(shape: tuple[int, ...], seed: int, border: bool) -> NDArray[np.bool_]:
    """Lumps all over the image, cut by its border; or only what is two voxels away from it, along
    axes that are long enough."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    mask = noise > np.quantile(noise, 0.6)
    if border:
        return mask
    inner = np.zeros_like(mask)
    inside = tuple(slice(2, -2) if size > 4 else slice(None) for size in shape)
    inner[inside] = mask[inside]
    return inner


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("tolerance", [0.0, 0.6, 1.0, 2.05, 6.3])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_definition(
    shape: tuple[int, ...], spacing: tuple[float, ...], tolerance: float, border: bool
) -> None:
    size = spacing[: len(shape)]
    bound = 1e-6 if len(set(size)) == 1 else 1e-3
    for seed in range(3):
        first, second = _mask(shape, 2 * seed, border), _mask(shape, 2 * seed + 1, border)
        expected = surface_dice_by_definition(first, second, size, tolerance)
        found = surface_dice(torch.from_numpy(first), torch.from_numpy(second), size, tolerance)
        assert found == pytest.approx(expected, abs=bound)
        assert 0 < expected <= 1
        assert tolerance > 0 or expected < 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_mask_that_fills_the_image(spacing: tuple[float, ...]) -> None:
    """All its surface is the border of the image."""
    full, part = np.ones((6, 7, 5), dtype=bool), np.ones((6, 7, 5), dtype=bool)
    part[:, :4] = False
    expected = surface_dice_by_definition(full, part, spacing, 1.0)
    assert 0 < expected < 1
    assert surface_dice(torch.from_numpy(full), torch.from_numpy(part), spacing, 1.0) == pytest.approx(
        expected, abs=1e-6
    )
