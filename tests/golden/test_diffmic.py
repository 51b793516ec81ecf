"""DiffMIC's arithmetic against the released code's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from allograft.methods.diffmic import denoise_step, diffuse, mmd, select_rois
from allograft.nn.diffusion import linear_alphas
from allograft.nn.rois import crop


def _arrays(root: Path, name: str) -> dict[str, Any]:
    with np.load(root / f"diffmic_{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored}


def test_the_discrepancy(vectors_root: Path) -> None:
    stored = _arrays(vectors_root, "mmd")
    for number in (0, 1):
        torch.testing.assert_close(mmd(stored[f"x{number}"], stored[f"y{number}"]), stored[f"mmd{number}"])


def test_the_forward_process(vectors_root: Path) -> None:
    stored = _arrays(vectors_root, "q_sample")
    alphas = linear_alphas(1000)
    torch.testing.assert_close(alphas.float(), stored["alphas"])
    noisy = diffuse(stored["y0"], stored["prior"], alphas.cumprod(0).float()[stored["t"]], stored["noise"])
    torch.testing.assert_close(noisy, stored["y_t"], rtol=0, atol=1e-5)


def test_the_reverse_process_step_by_step(vectors_root: Path) -> None:
    """The stored loop is of a network that predicts 0.3 y - 0.1 prior + 0.05 + t / 1000; its
    coefficients are rounded to float32."""
    stored = _arrays(vectors_root, "p_sample_loop")
    prior, noise, expected = stored["prior"], stored["noise"], stored["seq"]
    alphas = linear_alphas(1000)[:12].float()

    def predicted(y: Tensor, t: int) -> Tensor:
        return 0.3 * y - 0.1 * prior + 0.05 + t / 1000

    torch.testing.assert_close(prior + noise[0], expected[0], rtol=0, atol=1e-5)
    for number, t in enumerate(range(11, -1, -1)):
        drawn = noise[number + 1] if t else torch.full_like(prior, 99.0)  # which the last step leaves alone
        y = expected[number]
        found = denoise_step(y, t, prior, predicted(y, t), drawn, alphas)
        torch.testing.assert_close(found, expected[number + 1], rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", ["a", "b"])
def test_regions_of_interest(vectors_root: Path, case: str) -> None:
    stored = _arrays(vectors_root, "roi")
    height, width, crop_height, crop_width, count, *_ = stored[f"param_{case}"].tolist()
    corners = select_rois(stored[f"saliency_{case}"], (height, width), (crop_height, crop_width), count)
    assert torch.equal(corners, stored[f"big_{case}"].long())
    if case == "b":
        crops = crop(stored["image_ch0_b"][:, None], corners, (crop_height, crop_width))
        assert torch.equal(crops[:, :, 0], stored["crops_b"])
