"""Stain jitter: other amounts of haematoxylin, eosin and DAB in the same tissue."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from allograft.errors import SpecError, nearest

Preset = Literal["light", "strong"]

PRESETS = {"light": 0.05, "strong": 0.2}
"""Largest absolute factor and bias of HED-light and HED-strong of Tellez et al. 2019, as the
augmentation code of their group lists them (Faryna et al. 2021, pathology-he-auto-augment; it
leaves patches of a mean outside [0.15, 0.85] as they are, which we do not). stainlib calls 0.1
light and 1.0 strong."""

RGB_FROM_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
"""Optical density of haematoxylin, eosin and DAB in red, green, blue (Ruifrok and Johnston 2001),
as scikit-image has them."""

DARKEST = 1e-6
"""Transmittance below which a pixel counts as black; a stain of 1 lets this share of the light
through where its density is 1."""


def hed_from_rgb(image: Tensor) -> Tensor:
    """Amounts of stain: ``log(max(rgb, 1e-6)) / log(1e-6) @ RGB_FROM_HED^-1``, (..., 3) in [0, 1]
    -> (..., 3).

    Amounts may be negative, where a colour is no mixture of the three; scikit-image sets them to 0
    from version 0.19 on, and its scale was another one up to 0.17.

    Example:
        >>> hed_from_rgb(torch.ones(3)).abs().tolist()
        [0.0, 0.0, 0.0]
    """
    density = image.clamp_min(DARKEST).log() / math.log(DARKEST)
    return density @ torch.linalg.inv(torch.tensor(RGB_FROM_HED, dtype=torch.float64)).to(image)


def rgb_from_hed(stain: Tensor) -> Tensor:
    """Back to colours, ``exp(log(1e-6) * stain @ RGB_FROM_HED)`` clipped to [0, 1]: (..., 3) ->
    (..., 3).

    Example:
        >>> rgb_from_hed(torch.zeros(3)).tolist()
        [1.0, 1.0, 1.0]
    """
    density = stain @ torch.tensor(RGB_FROM_HED, dtype=torch.float64).to(stain)
    return torch.exp(math.log(DARKEST) * density).clamp(0, 1)


def jitter_hed(image: Tensor, scale: Tensor, bias: Tensor, *, clip_stains: bool = False) -> Tensor:
    """Change the amount of each stain, ``stain' = stain * (1 + scale) + bias``, and go back to
    colours clipped to [0, 1].

    Without jitter the image comes back, but for colours below 1e-6. The amounts are those of
    scikit-image 0.19 and later, so a bias of 0.05 is a factor of ``1e-6 ** (0.05 * 0.65) = 0.64``
    on red for haematoxylin; a bias found with an older version means another shift.

    Where we differ: stains below 0 are kept, so that colours which are no mixture of the stains are
    left alone too. ``clip_stains=True`` sets them to 0 before the jitter, which is
    ``skimage.color.hed2rgb`` of ``rgb2hed`` with the jitter between.

    Args:
        image: (..., 3) RGB in [0, 1]; half precision is computed in float32.
        scale, bias: (3,) for haematoxylin, eosin, DAB, or any shape that broadcasts, (B, 1, 1, 3)
            for one draw an image.

    Returns:
        (..., 3) of the image's dtype, a new tensor.

    Raises:
        SpecError: an image that is not floating point with three channels last.

    Example:
        >>> image = rgb_from_hed(torch.tensor([0.1, 0.05, 0.0]))
        >>> stronger = jitter_hed(image, torch.tensor([1.0, 0.0, 0.0]), torch.zeros(3))
        >>> hed_from_rgb(stronger).round(decimals=3).abs().tolist() == torch.tensor([0.2, 0.05, 0.0]).tolist()
        True
    """
    if not image.is_floating_point() or image.ndim == 0 or image.shape[-1] != 3:
        raise SpecError(
            f"image is {image.dtype} of shape {tuple(image.shape)}; expected RGB floats in [0, 1], channels last: "
            "(..., 3)"
        )
    precise = image.to(torch.promote_types(image.dtype, torch.float32))
    stain = hed_from_rgb(precise)
    if clip_stains:
        stain = stain.clamp_min(0)
    return rgb_from_hed(stain * (1 + scale.to(stain)) + bias.to(stain)).to(image.dtype)


@dataclass(frozen=True)
class StainJitter:
    """A factor and a bias for each image and stain, both uniform in [-strength, strength].

    Args:
        preset: "light" 0.05, "strong" 0.2; see ``PRESETS`` for how little these numbers are
            verified.

    Example:
        >>> jitter = StainJitter("strong")
        >>> scale, bias = jitter.draw(2, torch.Generator().manual_seed(0))
        >>> jitter.apply(torch.rand(2, 3, 8, 8), scale, bias).shape
        torch.Size([2, 3, 8, 8])
    """

    preset: Preset = "light"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise SpecError(nearest(self.preset, PRESETS, "stain jitter"))

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Factor and bias for ``count`` images: (count, 3) each."""
        scale, bias = (2 * torch.rand(2, count, 3, generator=rng, device=rng.device) - 1) * PRESETS[self.preset]
        return scale, bias

    def apply(self, image: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        """Jitter a batch at once: (B, 3, H, W) in [0, 1], draws (B, 3) -> (B, 3, H, W), a new
        tensor."""
        if image.ndim != 4 or image.shape[1] != 3 or not len(image) == len(scale) == len(bias):
            found = f"image {tuple(image.shape)}, draws {tuple(scale.shape)} and {tuple(bias.shape)}"
            raise SpecError(f"{found}; expected (B, 3, H, W) and one draw (B, 3) an image")
        last = image.movedim(1, -1)
        return jitter_hed(last, scale[:, None, None], bias[:, None, None]).movedim(-1, 1).contiguous()
