"""Stain jitter against scikit-image's conversions, and against a loop over pixels in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.color import hed2rgb, rgb2hed
from skimage.color import hed_from_rgb as skimage_hed_from_rgb
from skimage.color import rgb_from_hed as skimage_rgb_from_hed

from allograft.transforms.stain import RGB_FROM_HED, hed_from_rgb, jitter_hed, rgb_from_hed


def test_the_matrices_are_scikit_images() -> None:
    np.testing.assert_allclose(RGB_FROM_HED, skimage_rgb_from_hed, atol=0)
    np.testing.assert_allclose(np.linalg.inv(RGB_FROM_HED), skimage_hed_from_rgb, atol=1e-12)


def test_any_colour_with_stains_clipped_as_scikit_image_clips_them() -> None:
    image = np.random.default_rng(0).random((13, 11, 3))
    image[0, 0] = 0  # black
    image[0, 1] = 1
    scale, bias = np.array([0.2, -0.15, 0.05]), np.array([-0.04, 0.03, 0.1])
    expected = hed2rgb(rgb2hed(image) * (1 + scale) + bias)
    found = jitter_hed(torch.from_numpy(image), torch.from_numpy(scale), torch.from_numpy(bias), clip_stains=True)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_mixtures_of_stains_need_no_clipping() -> None:
    stain = np.random.default_rng(1).uniform(0, 0.12, (9, 7, 3))
    image = hed2rgb(stain)
    scale, bias = np.array([-0.2, 0.2, 0.1]), np.array([0.02, 0.05, 0.01])
    expected = hed2rgb(rgb2hed(image) * (1 + scale) + bias)
    found = jitter_hed(torch.from_numpy(image), torch.from_numpy(scale), torch.from_numpy(bias))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(hed_from_rgb(torch.from_numpy(image)), stain, atol=1e-12)
    np.testing.assert_allclose(rgb_from_hed(torch.from_numpy(stain)), image, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_loop_over_pixels_and_stains(dtype: torch.dtype) -> None:
    image = torch.rand(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    scale, bias = torch.tensor([0.1, -0.2, 0.05], dtype=dtype), torch.tensor([0.03, 0.0, -0.02], dtype=dtype)
    inverse = np.linalg.inv(np.array(RGB_FROM_HED))
    found = jitter_hed(image, scale, bias)
    for row in range(4):
        for column in range(5):
            density = [math.log(float(value)) / math.log(1e-6) for value in image[row, column]]
            stains = [
                sum(density[c] * inverse[c, s] for c in range(3)) * (1 + float(scale[s])) + float(bias[s])
                for s in range(3)
            ]
            for c in range(3):
                colour = math.exp(math.log(1e-6) * sum(stains[s] * RGB_FROM_HED[s][c] for s in range(3)))
                assert float(found[row, column, c]) == pytest.approx(
                    min(max(colour, 0), 1), abs=1e-5 if dtype == torch.float32 else 1e-12
                )
