"""Elastic deformation against SciPy, and its strength in numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, map_coordinates

from allograft.errors import SpecError
from allograft.transforms.elastic import ALPHA, SIGMA, deform, displacement, draw_displacement


@pytest.mark.parametrize(("size", "sigma"), [((24, 40), 9.0), ((96, 64), 10.4), ((32, 32), 1.3)])
def test_displacements_are_smoothed_noise(size: tuple[int, int], sigma: float) -> None:
    noise = 2 * torch.rand(2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    expected = np.stack([100 * gaussian_filter(one.numpy(), sigma, mode="constant", cval=0) for one in noise])
    np.testing.assert_allclose(displacement(noise, 100.0, sigma).numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(24, 40), (64, 64)])
def test_an_image_is_seen_at_displaced_places(size: tuple[int, int]) -> None:
    """Rows move rows and columns columns; beyond the border the image is mirrored."""
    rng = torch.Generator().manual_seed(1)
    image = torch.rand(3, *size, generator=rng, dtype=torch.float64)
    moved = 6 * torch.randn(2, *size, generator=rng, dtype=torch.float64)
    moved[1] *= 0.3
    rows, columns = np.meshgrid(*(np.arange(count) for count in size), indexing="ij")
    places = [rows + moved[0].numpy(), columns + moved[1].numpy()]
    expected = np.stack([map_coordinates(one.numpy(), places, order=1, mode="reflect") for one in image])
    found = deform(image, moved)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-9)
    assert found.min() >= image.min()
    assert found.max() <= image.max()


def test_without_displacement_nothing_moves() -> None:
    image = torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(deform(image, torch.zeros(2, 20, 31)), image, rtol=0, atol=1e-5)
    with pytest.raises(SpecError, match=r"shape \(2, 31, 20\); expected \(2, \*\(20, 31\)\)"):
        deform(image, torch.zeros(2, 31, 20))


def test_drawn_displacements_have_the_published_strength() -> None:
    """Uniform noise of variance 1/3 under a Gaussian of sigma: a root mean square of alpha / (sigma
    sqrt(12 pi)) away from the border, 1.63 pixels for 100 and 10."""
    assert ALPHA == (80.0, 120.0)
    assert SIGMA == (9.0, 11.0)
    drawn = [draw_displacement((192, 192), torch.Generator().manual_seed(seed)) for seed in range(8)]
    inside = torch.stack(drawn)[..., 44:-44, 44:-44]
    assert inside.square().mean().sqrt().item() == pytest.approx(100 / (10 * (12 * np.pi) ** 0.5), rel=0.15)
    assert abs(inside.mean().item()) < 0.4
    again = draw_displacement((192, 192), torch.Generator().manual_seed(0))
    assert torch.equal(again, drawn[0])
