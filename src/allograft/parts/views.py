"""Views of a patch that differ in intensity alone, pixel by pixel of the same place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort.loader import Transform
from allograft.transforms.augmentation import Draw, apply
from allograft.transforms.free_form import deform, draw_displacement

SECOND, UNDISTORTED = "second view", "undistorted"
"""Views of a batch: the patch once more with other intensities, and with its own."""


@dataclass(frozen=True)
class Views:
    """A patch moved with its mask, elastically and by an affine map, and two views of it by shifts,
    gamma, smoothing and noise; the second and the undistorted patch are under ``SECOND`` and
    ``UNDISTORTED``.

    The ranges are ours: 15 degrees, a tenth of the size, control points moved by a twentieth of it;
    half a standard deviation of intensity, gamma 0.7 to 1.5, a blur of 0.5 to 1 pixel, noise of up
    to a tenth of a standard deviation.

    Args:
        sample: crops the case.
        moved: the chance of the elastic, and of the affine, movement.
        distorted: the chance of each distortion of intensity.
    """

    sample: Transform
    moved: float = 0.5
    distorted: float = 0.2

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        """``case`` has B = 1; of its labels the mask is kept."""
        patch = self.sample(case, rng)
        image, mask = patch.image[0], patch.labels.get("mask")
        labels = {"mask": mask[0]} if isinstance(mask, Tensor) else {}
        elastic, affine = (torch.rand(2, generator=rng) < self.moved).tolist()
        if elastic:
            image, labels = deform(image, labels, draw_displacement(image.shape[1:], rng))
        if affine:
            image, labels = apply(image, labels, _turn(image.ndim - 1, rng), rng)
        first, second = (apply(image, {}, self._intensity(rng), rng)[0] for _ in range(2))
        return replace(
            patch,
            image=first[None],
            views={SECOND: second[None], UNDISTORTED: image[None]},
            labels={name: value[None] for name, value in labels.items()},
            region=None,
        )

    def _intensity(self, rng: torch.Generator) -> Draw:
        opened = (torch.rand(4, generator=rng) < self.distorted).tolist()
        shift, gamma, blur, noise = torch.rand(4, generator=rng, dtype=torch.float64).tolist()
        return Draw(
            brightness=shift - 0.5 if opened[0] else 0.0,
            gamma=0.7 + 0.8 * gamma if opened[1] else 1.0,
            blur_sigma=0.5 + 0.5 * blur if opened[2] else 0.0,
            noise_sd=0.1 * noise if opened[3] else 0.0,
        )


def _turn(dims: int, rng: torch.Generator) -> Draw:
    values = (2 * torch.rand(4, generator=rng, dtype=torch.float64) - 1).tolist()
    return Draw(angles=tuple(15 * value for value in values[: 1 if dims == 2 else 3]), log_scale=0.1 * values[3])
