"""What must be equal when amplitudes are swapped, and a slow loop written from the paper's
formula."""

import cmath
import math

import pytest
import torch

from allograft.errors import SpecError
from allograft.transforms.fourier import crop_or_pad, swap_amplitude

SIZES = [(16, 16), (15, 20), (9, 7), (8, 5), (1, 6)]
WINDOWS = ["circle", "square"]


def _images(*shape, dtype=torch.float64, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(2, *shape, generator=rng, dtype=torch.float64).to(dtype).unbind()


def _slow(target, style, beta, window):
    """Sums of exponentials over every pixel and frequency, in Python's complex numbers."""
    height, width = target.shape

    def coefficient(image, u, v):
        pixels = ((r, c) for r in range(height) for c in range(width))
        return sum(float(image[r, c]) * cmath.exp(-2j * math.pi * (u * r / height + v * c / width)) for r, c in pixels)

    mixed = {}
    for u in range(height):
        for v in range(width):
            row, column = (u if u < height / 2 else u - height), (v if v < width / 2 else v - width)
            content = coefficient(target, u, v)
            if window == "circle":
                low = math.hypot(row, column) < beta * min(height, width)
            else:
                low = max(abs(row), abs(column)) <= math.floor(beta * min(height, width))
            mixed[u, v] = cmath.rect(abs(coefficient(style, u, v)), cmath.phase(content)) if low else content
    result = torch.empty(height, width, dtype=torch.float64)
    for r in range(height):
        for c in range(width):
            value = sum(m * cmath.exp(2j * math.pi * (u * r / height + v * c / width)) for (u, v), m in mixed.items())
            assert abs(value.imag) < 1e-9 * height * width
            result[r, c] = value.real / (height * width)
    return result


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("beta", [0.1, 0.17, 0.25, 0.34, 0.5])
def test_slow_reference(window, beta):
    target, style = _images(7, 6)
    torch.testing.assert_close(
        swap_amplitude(target, style, beta, window=window), _slow(target, style, beta, window), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_swapping_with_oneself_is_the_identity(size, window, dtype):
    target, _ = _images(2, *size, dtype=dtype)
    mixed = swap_amplitude(target, target, 0.3, window=window)
    assert mixed.dtype == dtype
    torch.testing.assert_close(mixed, target)


def test_beta_zero_changes_nothing_in_a_circle_and_the_mean_in_a_square():
    target, style = _images(9, 8, dtype=torch.float32)
    same = swap_amplitude(target, style, 0.0)
    assert torch.equal(same, target)
    assert same.data_ptr() != target.data_ptr()
    torch.testing.assert_close(
        swap_amplitude(target, style, 0.0, window="square"), target - target.mean() + style.mean()
    )
    torch.testing.assert_close(swap_amplitude(target, style, 0.0, rescale=True), target / target.max())


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", SIZES)
def test_phase_is_the_targets_and_low_amplitude_the_styles(size, window):
    target, style = _images(*size)
    mixed, content, donor = (
        torch.fft.fft2(each) for each in (swap_amplitude(target, style, 0.3, window=window), target, style)
    )
    torch.testing.assert_close(mixed / mixed.abs(), content / content.abs())
    swapped = (mixed.abs() - donor.abs()).abs() < 1e-9
    kept = (mixed.abs() - content.abs()).abs() < 1e-9
    assert bool((swapped ^ kept).all())
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) * n for n in size)
    expected = rows[:, None].hypot(columns) < 0.3 * min(size)
    if window == "square":
        expected = (rows[:, None].abs() <= int(0.3 * min(size))) & (columns.abs() <= int(0.3 * min(size)))
    assert torch.equal(swapped, expected)


def test_linear_in_the_styles_amplitude():
    target, style = _images(10, 11)
    once, none = swap_amplitude(target, style, 0.3), swap_amplitude(target, torch.zeros_like(style), 0.3)
    torch.testing.assert_close(swap_amplitude(target, 2.5 * style, 0.3) - none, 2.5 * (once - none))
    torch.testing.assert_close(swap_amplitude(target, -style, 0.3), once)


def test_where_the_target_has_no_amplitude_the_phase_is_zero():
    _, style = _images(8, 6)
    mixed = torch.fft.fft2(swap_amplitude(torch.zeros(8, 6, dtype=torch.float64), style, 0.4))
    low = mixed.abs() > 1e-12
    assert int(low.sum()) == 21, "whole-number points within 2.4 of the centre"
    torch.testing.assert_close(mixed[low], torch.fft.fft2(style).abs()[low].to(mixed.dtype))


@pytest.mark.parametrize("rescale", [False, True])
def test_batch_is_a_loop_of_singles(rescale):
    target, style = _images(3, 2, 9, 10)
    batch = swap_amplitude(target, style, 0.2, rescale=rescale)
    for b in range(3):
        for c in range(2):
            torch.testing.assert_close(batch[b, c], swap_amplitude(target[b, c], style[b, c], 0.2, rescale=rescale))


def test_style_broadcasts():
    target, styles = _images(4, 2, 6, 6)
    one = swap_amplitude(target, styles[0, 0], 0.2)
    torch.testing.assert_close(one, swap_amplitude(target, styles[0, 0].expand_as(target), 0.2))
    assert swap_amplitude(target[0], styles, 0.2).shape == swap_amplitude(target[0], styles, 0.0).shape == (4, 2, 6, 6)


def test_inputs_stay_as_they_are_and_a_black_plane_stays_black():
    target, style = _images(6, 6)
    before = target.clone(), style.clone()
    swap_amplitude(target, style, 0.3, rescale=True)
    assert torch.equal(target, before[0])
    assert torch.equal(style, before[1])
    black = torch.zeros(6, 6)
    assert torch.equal(swap_amplitude(black, black, 0.2, rescale=True), black)


def test_wrong_arguments_are_named():
    image = torch.rand(2, 8, 8)
    with pytest.raises(SpecError, match=r"\(8, 8\).*\(8, 9\).*crop_or_pad"):
        swap_amplitude(image, torch.rand(8, 9), 0.1)
    for beta in (-0.01, 0.51, math.nan):
        with pytest.raises(SpecError, match="beta is"):
            swap_amplitude(image, image, beta)
    with pytest.raises(SpecError, match="'ring'"):
        swap_amplitude(image, image, 0.1, window="ring")
    with pytest.raises(SpecError, match="broadcast"):
        swap_amplitude(image, torch.rand(3, 8, 8), 0.1)
    with pytest.raises(SpecError, match=r"torch\.uint8"):
        swap_amplitude(image, image.to(torch.uint8), 0.1)
    with pytest.raises(SpecError, match="two positive"):
        crop_or_pad(image, (0, 4))


def test_crop_or_pad_is_central_and_comes_back():
    image = torch.arange(20.0).reshape(1, 4, 5)
    assert torch.equal(crop_or_pad(image, (4, 5)), image)
    assert crop_or_pad(image, (2, 3)).tolist() == [[[6.0, 7.0, 8.0], [11.0, 12.0, 13.0]]]
    for size in [(7, 9), (4, 10), (5, 6)]:
        padded = crop_or_pad(image, size)
        assert padded.shape[1:] == size
        assert padded.sum() == image.sum()
        assert torch.equal(crop_or_pad(padded, (4, 5)), image)
    assert torch.equal(crop_or_pad(image, (6, 3)), torch.nn.functional.pad(image[..., 1:4], (0, 0, 1, 1)))
