"""Surface Dice at 1 mm of a skull-strip-like mask of 128^3 voxels, against MONAI's two and against
its definition.

MONAI's default counts the edge voxels, which is another number; it stands here for its time. Its
sub-voxel one and the definition, which weigh by area as ours does, give the same number.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.metrics import compute_surface_dice
from ratio import compare
from scipy.ndimage import gaussian_filter

from allograft.metrics.surface import surface_dice

sys.path.append(str(Path(__file__).parent.parent))
from tests.references.surface import surface_dice_by_definition


def brain(rng: np.random.Generator) -> torch.Tensor:
    """A lumpy ellipsoid that fills most of the box."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 128)] * 3, indexing="ij")) / np.array([0.75, 0.9, 0.7]).reshape(
        3, 1, 1, 1
    )
    lumps = gaussian_filter(rng.normal(size=(128, 128, 128)), 4)
    return torch.from_numpy((grid**2).sum(0) + 3 * lumps < 1)


def main() -> None:
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(0)
    prediction, target = brain(rng), brain(rng)
    batch = prediction[None, None], target[None, None]

    def ours() -> float:
        return surface_dice(prediction, target, (1.0, 1.0, 1.0), 1.0)

    def default() -> float:
        return float(compute_surface_dice(*batch, [1.0], include_background=True))

    def subvoxel() -> float:
        return float(
            compute_surface_dice(*batch, [1.0], include_background=True, spacing=[1.0, 1.0, 1.0], use_subvoxels=True)
        )

    def definition() -> float:
        return surface_dice_by_definition(prediction.numpy(), target.numpy(), (1.0, 1.0, 1.0), 1.0)

    for theirs in (subvoxel, definition):
        assert abs(theirs() - ours()) < 1e-6, (theirs(), ours())
    compare("surface_dice_to_monai_default", ours, default, limit=0.1)
    compare("surface_dice_to_monai_subvoxel", ours, subvoxel, limit=0.1)
    compare("surface_dice_to_definition", ours, definition, limit=0.05)


if __name__ == "__main__":
    main()
