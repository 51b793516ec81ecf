"""Structural similarity as a loss: against three libraries, and what it refuses."""

from __future__ import annotations

import piq
import pytest
import torch
from monai.losses import SSIMLoss
from skimage.metrics import structural_similarity

from allograft.errors import SpecError
from allograft.nn.ssim import Ssim, multi_scale_ssim, ssim


def images(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=rng)
    return x, (x + 0.3 * torch.randn(shape, generator=rng)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(2, 1, 20, 24), (2, 2, 14, 12, 16)])
@pytest.mark.parametrize("span", [1.0, 4.0])
def test_it_is_monais(shape: tuple[int, ...], span: float) -> None:
    x, y = images(*shape)
    ours = ssim(span * x, span * y, torch.full((2,), span))
    theirs = [SSIMLoss(len(shape) - 2, data_range=span)(span * x[i : i + 1], span * y[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(1 - ours, torch.stack(theirs), rtol=1e-4, atol=1e-5)


def test_it_is_that_of_scikit_image_with_other_constants() -> None:
    x, y = images(1, 1, 32, 30)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 2.0}
    _, whole = structural_similarity(x[0, 0].numpy(), y[0, 0].numpy(), K1=0.05, K2=0.2, full=True, **settings)
    ours = ssim(x, y, torch.tensor([2.0]), Ssim(k1=0.05, k2=0.2))
    assert ours.item() == pytest.approx(whole[5:-5, 5:-5].mean(), abs=1e-5)


def test_each_image_has_its_own_range() -> None:
    x, y = images(2, 1, 16, 16)
    together = ssim(x, y, torch.tensor([1.0, 5.0]))
    alone = [ssim(x[i : i + 1], y[i : i + 1], torch.tensor([span])).item() for i, span in enumerate((1.0, 5.0))]
    assert together.tolist() == pytest.approx(alone, abs=1e-6)
    assert together[1] > ssim(x, y, torch.ones(2))[1]


def test_an_image_costs_nothing_against_itself_and_gradients_lead_there() -> None:
    x, y = images(1, 1, 16, 16)
    assert 1 - ssim(x, x, torch.ones(1)).item() == pytest.approx(0, abs=1e-6)
    y.requires_grad_(True)
    before = 1 - ssim(y, x, torch.ones(1))
    (gradient,) = torch.autograd.grad(before.sum(), y)
    assert 1 - ssim(y - 0.1 * gradient / gradient.norm(), x, torch.ones(1)) < before


def test_multi_scale_is_that_of_piq() -> None:
    x, y = images(2, 1, 176, 192)  # it pads where a side is odd
    ours, scales = multi_scale_ssim(x, y, torch.ones(2))
    assert scales == 5
    theirs = piq.multi_scale_ssim(x, y, kernel_size=11, kernel_sigma=1.5, data_range=1.0, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_fewer_scales_have_exponents_of_sum_1() -> None:
    x, y = images(1, 1, 21, 21)
    ours, scales = multi_scale_ssim(x, y, torch.ones(1))
    assert scales == 1
    assert ours.item() == pytest.approx(ssim(x, y, torch.ones(1)).item(), abs=1e-6)


def test_what_it_refuses() -> None:
    x, y = images(1, 1, 16, 16)
    with pytest.raises(SpecError, match="image of 16x8 is smaller than the window of 11"):
        ssim(x[..., :8], y[..., :8], torch.ones(1))
    with pytest.raises(SpecError, match="one value throughout"):
        ssim(torch.zeros_like(x), y, torch.zeros(1))
    with pytest.raises(SpecError, match=r"x has shape \(1, 1, 16, 16\), y \(1, 1, 16, 15\)"):
        ssim(x, y[..., :15], torch.ones(1))
    with pytest.raises(SpecError, match="window is 8; expected an odd number"):
        Ssim(window=8)
    with pytest.raises(SpecError, match="k2 is 0"):
        Ssim(k2=0)
