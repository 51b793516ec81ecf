"""Fourier domain adaptation: the style of one image (low-frequency amplitude) on the content of
another (phase)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from allograft.errors import SpecError
from allograft.transforms.low_frequencies import (
    Window,
    disc,
    disc_block,
    low_block,
    low_frequencies,
    spectrum_and_phase,
    waves,
)

SMALL_BLOCK = 0.07
"""Columns, as a fraction of the width, up to which a block of frequencies is summed along the
height without a Fourier transform."""


def swap_amplitude(
    target: Tensor, style: Tensor, beta: float, *, window: Window = "circle", rescale: bool = False
) -> Tensor:
    """Replace the low-frequency amplitude of ``target`` by that of ``style``; the phase stays.

    ``F^-1(M * |F(style)| + (1 - M) * |F(target)|, phase of F(target))`` of Zakazov et al. 2022,
    "Feather-Light Fourier Domain Adaptation in Magnetic Resonance Imaging", section 3, where M
    selects the low frequencies. A frequency at which the target has no amplitude has phase 0. Image
    planes are independent: every channel is swapped with its own counterpart.

    Where we differ: the paper does not say what becomes of the complex result. We return its real
    part (the imaginary one is 0 up to rounding); the released code returns ``abs(.) / max``, which
    folds negative values and drops the intensity scale: ``rescale=True``.

    Args:
        target: (..., H, W) float, the image whose content is kept. float16 is computed in float32
            and returned as float16.
        style: (..., H, W) float, leading dimensions broadcast against the target's; (7, 1, H, W)
            donors give 7 versions.
        beta: size of the window as a fraction of the short side, 0 to 0.5.
        window: "circle": frequencies whose distance to (H//2, W//2) in the shifted spectrum is
            strictly less than ``beta * min(H, W)``, so that 0 selects nothing and returns the
            target bit by bit. "square": half-width ``floor(beta * min(H, W))``, inclusive, as in
            the original method of Yang and Soatto 2020; 0 still swaps the mean.
        rescale: take the absolute value and divide each (H, W) plane by its maximum; a plane of
            zeros stays so.

    Returns:
        (..., H, W) of the target's dtype, a new tensor.

    Raises:
        SpecError: heights or widths differ, a tensor is not real floating point, beta is outside
            [0, 0.5], or the window is unknown.

    Example:
        >>> target, style = torch.rand(2, 1, 8, 8), 3.0 * torch.ones(8, 8)
        >>> mixed = swap_amplitude(target, style, 0.1)  # only the mean lies within 0.8 of the centre
        >>> bool(torch.allclose(mixed, target - target.mean(dim=(-2, -1), keepdim=True) + 3, atol=1e-5))
        True
    """
    shape = _check(target, style, beta, window)
    unchanged = window == "circle" and beta == 0
    mixed = target.expand(shape).clone() if unchanged else _swap(target, style, beta, window).to(target.dtype)
    if not rescale:
        return mixed
    folded = mixed.abs()
    largest = folded.amax(dim=(-2, -1), keepdim=True)
    return folded / torch.where(largest > 0, largest, torch.ones_like(largest))


def low_amplitude(style: Tensor, beta: float) -> Tensor:
    """The low-frequency amplitudes of ``style``, all that ``swap_amplitude`` with a circle ever
    reads of it.

    Args:
        style: (..., H, W) float.
        beta: radius of the disc as a fraction of the short side, 0 to 0.5.

    Returns:
        (..., 2 r + 1, r + 1) float with r the largest whole frequency inside the disc: rows are the
        frequencies -r to r, columns 0 to r; corners outside the disc are 0. (..., 1, 0) when the
        disc is empty.

    Example:
        >>> low_amplitude(torch.ones(1, 8, 8), 0.2)[0].round()
        tensor([[ 0.,  0.],
                [64.,  0.],
                [ 0.,  0.]])
    """
    _check(style, style, beta, "circle")
    height, width = style.shape[-2:]
    rows, columns = disc_block(height, width, beta)
    amplitude = torch.fft.rfft2(style.to(torch.promote_types(style.dtype, torch.float32))).abs()[..., :columns]
    low = low_frequencies(height, width, beta, "circle")[..., :columns].to(style.device)
    return (amplitude * low)[..., rows, :]


def cut_low_amplitude(amplitude: Tensor, size: tuple[int, int], beta: float) -> Tensor:
    """``low_amplitude`` of the same images for a smaller disc: (..., 2 R + 1, R + 1) -> (..., 2 r +
    1, r + 1).

    Args:
        amplitude: of a disc at least as large.
        size: (H, W) of the images.
        beta: of the disc that is wanted.

    Raises:
        SpecError: the disc is larger than that of the amplitudes.
    """
    rows, columns = disc_block(*size, beta)
    margin = (amplitude.shape[-2] - len(rows)) // 2
    if margin < 0 or columns > amplitude.shape[-1]:
        raise SpecError(
            f"beta {beta} needs {len(rows)} x {columns} frequencies, {tuple(amplitude.shape[-2:])} were kept; keep a "
            "larger disc"
        )
    return amplitude[..., margin : margin + len(rows), :columns] * disc(*size, beta).to(amplitude.device)


def swap_low_amplitude(target: Tensor, amplitude: Tensor, beta: float) -> Tensor:
    """``swap_amplitude(target, style, beta)`` with ``amplitude = low_amplitude(style, beta)`` in
    place of the style.

    Only a low block of the spectrum differs, so the image of that difference is added to the
    target: one transform forward, and for each donor two small products, or a transform of that
    block alone, instead of a whole one back.

    Args:
        target: (..., H, W) float.
        amplitude: (..., 2 r + 1, r + 1), leading dimensions broadcast against the target's: seven
            donors in one call.
        beta: radius of the disc as a fraction of the short side, 0 to 0.5.

    Returns:
        (..., H, W) of the target's dtype, a new tensor.

    Raises:
        SpecError: the amplitudes were taken from images of another size.
    """
    rows, columns = _kept_block(target, amplitude, beta)
    height, width = target.shape[-2:]
    precise = target.to(torch.promote_types(target.dtype, torch.float32))
    block = low_block(precise, len(rows), columns)
    size = block.abs()
    louder = (amplitude - size) * disc(height, width, beta).to(target.device)
    # F / |F| times the change of |F|; where F is 0 the phase is 0, whose factor is 1.
    zero = size == 0
    change = torch.where(zero, torch.ones_like(block), block / torch.where(zero, torch.ones_like(size), size)) * louder
    mixed: Tensor = _image_of(change, height, width).add_(precise).to(target.dtype)
    return mixed


def swap_kept_amplitude(target: Tensor, amplitude: Tensor, beta: float) -> Tensor:
    """``swap_amplitude(target, style, beta)`` to the bit, for a beta above 0;
    ``amplitude = low_amplitude(style, beta)`` is of the style.

    ``swap_low_amplitude`` is quicker, and differs by rounding. Arguments and errors are the same.
    """
    rows, columns = _kept_block(target, amplitude, beta)
    height, width = target.shape[-2:]
    spectrum, phase = spectrum_and_phase(target)
    block = (..., rows, slice(columns))
    mixed = torch.where(disc(height, width, beta).to(target.device), phase[block] * amplitude, spectrum[block])
    # only the disc differs from donor to donor
    whole = spectrum.expand(*mixed.shape[:-2], *spectrum.shape[-2:]).clone()
    whole[block] = mixed
    lines = torch.fft.ifft(whole, dim=-2)
    # three such tensors at once are more than the allocator keeps for the next call
    del whole, mixed
    image: Tensor = torch.fft.irfft(lines, n=width).to(target.dtype)
    return image


def _kept_block(target: Tensor, amplitude: Tensor, beta: float) -> tuple[list[int], int]:
    """Rows and number of columns of the target's disc, where the amplitudes are of the same."""
    _check(target, target, beta, "circle")
    height, width = target.shape[-2:]
    rows, columns = disc_block(height, width, beta)
    if amplitude.shape[-2:] != (len(rows), columns):
        raise SpecError(
            f"the target's disc has {len(rows)} x {columns} frequencies, the amplitudes have "
            f"{tuple(amplitude.shape[-2:])}; "
            "take them from images of the target's size and with the same beta"
        )
    return rows, columns


def _image_of(block: Tensor, height: int, width: int) -> Tensor:
    """The real image (..., H, W) whose low frequencies are ``block`` (..., 2 r + 1, c), and whose
    others are 0.

    Along the height by a product with a matrix of waves where the block is small, else by a
    transform of its own columns; along the width by a product, which costs less than a transform of
    mostly zeros and needs no room for them.
    """
    rows, columns = block.shape[-2:]
    down, across = waves(height, width, rows, columns)
    if columns > SMALL_BLOCK * width:
        r = rows // 2
        spectrum = block.new_zeros(*block.shape[:-2], height, columns)
        spectrum[..., : r + 1, :] = block[..., r:, :]
        spectrum[..., height - r :, :] = block[..., :r, :]
        lines = torch.fft.ifft(spectrum, dim=-2)
        # three such tensors at once are more than the allocator keeps for the next call
        del spectrum
        lines = lines.contiguous()
    else:
        lines = down.to(block) @ block
    # (..., H, 2 c): real and imaginary part of each column in turn
    parts = torch.view_as_real(lines).flatten(-2)
    return parts @ across.to(parts)


def crop_or_pad(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bring the last two dimensions to ``size`` about the centre, by cutting or by adding zeros:
    for donors of another size.

    Padding and then cropping back returns the image; a cut of an odd number of pixels takes the
    extra one from the end.

    Args:
        image: (..., H, W).
        size: the new (H, W) in pixels, both positive.

    Returns:
        (..., *size), a new tensor unless the size is already right.

    Raises:
        SpecError: size is not two positive numbers, or the image has fewer than two dimensions.

    Example:
        >>> crop_or_pad(torch.ones(3, 1), (1, 3))
        tensor([[0., 1., 0.]])
    """
    if len(size) != 2 or min(size) < 1 or image.ndim < 2:
        found = f"image has shape {tuple(image.shape)}, size is {tuple(size)}"
        raise SpecError(f"{found}; expected (..., H, W) and two positive numbers of pixels")
    for axis, wanted in zip((-2, -1), size, strict=True):
        given = image.shape[axis]
        if given > wanted:
            image = image.narrow(axis, (given - wanted) // 2, wanted)
        elif given < wanted:
            before = (wanted - given) // 2
            margins = (before, wanted - given - before)
            image = torch.nn.functional.pad(image, (0, 0, *margins) if axis == -2 else margins)
    return image


def _swap(target: Tensor, style: Tensor, beta: float, window: Window) -> Tensor:
    precise = torch.promote_types(target.dtype, torch.float32)  # no half-precision FFT on the CPU
    return _mixed(target, torch.fft.rfft2(style.to(precise)).abs(), beta, window)


def _mixed(target: Tensor, amplitude: Tensor, beta: float, window: Window) -> Tensor:
    """The target with the low frequencies of an amplitude of the half spectrum, (..., H, W // 2 +
    1)."""
    spectrum, phase = spectrum_and_phase(target)
    height, width = target.shape[-2:]
    low = low_frequencies(height, width, beta, window).to(target.device)
    # The window is symmetric about the mean frequency, so the half spectrum says it all and the
    # result is real.
    mixed: Tensor = torch.fft.irfft2(torch.where(low, phase * amplitude, spectrum), s=(height, width))
    return mixed


def _check(target: Tensor, style: Tensor, beta: float, window: str) -> tuple[int, ...]:
    """The shape of the result, when the arguments are right."""
    for name, image in (("target", target), ("style", style)):
        if not image.is_floating_point() or image.ndim < 2:
            raise SpecError(
                f"{name} is {image.dtype} of shape {tuple(image.shape)}, expected (..., H, W) real floating point"
            )
    if target.shape[-2:] != style.shape[-2:]:
        shapes = f"target has (H, W) {tuple(target.shape[-2:])}, style {tuple(style.shape[-2:])}"
        raise SpecError(f"{shapes}; bring the style to the target's size with crop_or_pad")
    if not 0 <= beta <= 0.5:
        raise SpecError(f"beta is {beta}, expected a fraction of the short side from 0 to 0.5")
    if window not in ("circle", "square"):
        raise SpecError(f"window is {window!r}, expected 'circle' or 'square'")
    try:
        return np.broadcast_shapes(target.shape, style.shape)
    except ValueError as error:
        message = (
            f"style of shape {tuple(style.shape)} does not broadcast against target of shape {tuple(target.shape)}"
        )
        raise SpecError(f"{message}; expected equal leading dimensions, or 1") from error
