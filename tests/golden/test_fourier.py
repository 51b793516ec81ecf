"""Amplitude swapping against arrays made with the released code of Feather-light FDA."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from allograft.transforms.fourier import swap_amplitude


@pytest.fixture(scope="module")
def arrays():
    folder = os.environ.get("ALLOGRAFT_VECTORS")
    if not folder:
        pytest.skip("ALLOGRAFT_VECTORS is not set: the folder of reference vectors is needed")
    with np.load(Path(folder) / "fda_featherlight.npz") as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored}


@pytest.mark.parametrize("beta", [0.05, 0.1])
def test_real_part(arrays, beta):
    mixed = swap_amplitude(arrays["target_sq"], arrays["styles_sq"][0], beta)
    torch.testing.assert_close(mixed, arrays[f"complexreal_sq_b{beta}".replace(".", "p")], rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.01, 0.02, 0.05, 0.1, 0.25])
def test_released_rescaling(arrays, beta):
    mixed = swap_amplitude(arrays["target_sq"], arrays["styles_sq"][0], beta, rescale=True)
    torch.testing.assert_close(mixed, arrays[f"mixed_sq_b{beta}".replace(".", "p")], rtol=0, atol=1e-5)


def test_mean_of_three_styles(arrays):
    # The swap is linear in the style's amplitude, so averaging results is swapping the averaged
    # amplitude.
    mixed = swap_amplitude(arrays["target_sq"], arrays["styles_sq"], 0.05).mean(dim=0).abs()
    torch.testing.assert_close(mixed / mixed.max(), arrays["mixed_avg3_sq_b0p05"], rtol=0, atol=1e-5)
