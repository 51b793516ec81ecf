"""Surface Dice at 1 mm of a skull-strip-like mask of 128^3 voxels, against MONAI's sub-voxel one: same number, fewer seconds."""

from __future__ import annotations

import numpy as np
import torch
from monai.metrics import SurfaceDiceMetric
from ratio import compare
from scipy.ndimage import gaussian_filter

from allograft.metrics.surface import surface_dice


def brain(rng: np.random.Generator) -> torch.Tensor:
    """A lumpy ellipsoid that fills most of the box."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 128)] * 3, indexing="ij")) / np.array([0.75, 0.9, 0.7]).reshape(3, 1, 1, 1)
    lumps = gaussian_filter(rng.normal(size=(128, 128, 128)), 4)
    return torch.from_numpy((grid**2).sum(0) + 3 * lumps < 1)


def main() -> None:
    rng = np.random.default_rng(0)
    prediction, target = brain(rng), brain(rng)
    metric = SurfaceDiceMetric([1.0], include_background=True, use_subvoxels=True)

    def theirs() -> float:
        return float(metric(prediction[None, None], target[None, None], spacing=[1.0, 1.0, 1.0])[0, 0])

    def ours() -> float:
        return surface_dice(prediction, target, (1.0, 1.0, 1.0), 1.0)

    assert abs(theirs() - ours()) < 1e-6, (theirs(), ours())
    compare("surface_dice_to_monai", ours, theirs, limit=0.1)


if __name__ == "__main__":
    main()
