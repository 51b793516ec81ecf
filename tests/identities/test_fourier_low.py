"""Keeping only the donors' low amplitudes changes nothing: ``low_amplitude`` +
``swap_low_amplitude`` is ``swap_amplitude``."""

import pytest
import torch

from allograft.errors import SpecError
from allograft.transforms import fourier
from allograft.transforms.fourier import low_amplitude, swap_amplitude, swap_low_amplitude

SIZES = [(16, 16), (15, 20), (20, 15), (9, 7), (8, 5), (1, 6), (6, 1), (33, 64)]
BETAS = [0.0, 0.03, 0.1, 0.17, 0.25, 0.34, 0.499, 0.5]


def _images(*shape, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(2, *shape, generator=rng, dtype=torch.float64).to(dtype).unbind()


@pytest.mark.parametrize("small_block", [0.0, 0.07, 1.0])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("size", SIZES)
def test_equals_swapping_with_the_image(size, beta, small_block, monkeypatch):
    # always a transform, as shipped, always waves
    monkeypatch.setattr(fourier, "SMALL_BLOCK", small_block)
    target, style = _images(2, 3, *size)
    found = swap_low_amplitude(target, low_amplitude(style, beta), beta)
    torch.testing.assert_close(found, swap_amplitude(target, style, beta), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float16, 2e-3)])
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.2, 0.4])
def test_other_dtypes(dtype, bound, beta):
    target, style = _images(2, 40, 33, dtype=dtype)
    found = swap_low_amplitude(target, low_amplitude(style, beta), beta)
    assert found.dtype == dtype
    torch.testing.assert_close(found, swap_amplitude(target, style, beta), rtol=0, atol=bound)


@pytest.mark.parametrize("beta", [0.1, 0.3])
def test_channels_donors_and_volumes(beta):
    target, _ = _images(2, 5, 12, 11)  # channels and slices of a volume: (C, D, H, W)
    donors = torch.stack(_images(2, 5, 12, 11, seed=1))
    found = swap_low_amplitude(target, low_amplitude(donors, beta), beta)
    assert found.shape == (2, 2, 5, 12, 11)
    for donor, mixed in zip(donors, found, strict=True):
        for channel in range(2):
            for plane in range(5):
                expected = swap_amplitude(target[channel, plane], donor[channel, plane], beta)
                torch.testing.assert_close(mixed[channel, plane], expected)


@pytest.mark.parametrize("beta", [0.1, 0.3])
def test_swapping_with_oneself_is_the_identity_and_beta_zero_copies(beta):
    target, _ = _images(3, 21, 18)
    torch.testing.assert_close(swap_low_amplitude(target, low_amplitude(target, beta), beta), target)
    same = swap_low_amplitude(target, low_amplitude(target, 0.0), 0.0)
    assert torch.equal(same, target)
    assert same.data_ptr() != target.data_ptr()


@pytest.mark.parametrize("beta", [0.1, 0.4])
def test_a_black_target_takes_phase_zero(beta):
    _, style = _images(12, 13)
    black = torch.zeros(12, 13, dtype=torch.float64)
    torch.testing.assert_close(
        swap_low_amplitude(black, low_amplitude(style, beta), beta), swap_amplitude(black, style, beta)
    )


def test_inputs_stay_as_they_are():
    target, style = _images(10, 10)
    amplitude = low_amplitude(style, 0.2)
    before = target.clone(), amplitude.clone()
    swap_low_amplitude(target, amplitude, 0.2)
    assert torch.equal(target, before[0])
    assert torch.equal(amplitude, before[1])


def test_nothing_but_the_disc_is_kept():
    _, style = _images(16, 16)
    kept = low_amplitude(style, 0.2)  # a radius of 3.2
    assert kept.shape == (7, 4)
    assert int((kept > 0).sum()) == int((torch.arange(-3, 4)[:, None] ** 2 + torch.arange(4) ** 2 < 3.2**2).sum())


def test_amplitudes_of_another_size_are_named():
    target, style = _images(16, 16)
    with pytest.raises(SpecError, match="same beta"):
        swap_low_amplitude(target, low_amplitude(style, 0.3), 0.2)
