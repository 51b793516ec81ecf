"""All segmentation metrics of one case, large and small, against MONAI's Dice, HD95 and average
surface distance of the same masks.

The masks are lumpy ellipsoids that fill most of the box. The distances are compared too.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from monai.metrics import compute_average_surface_distance, compute_dice, compute_hausdorff_distance
from ratio import compare
from scipy.ndimage import gaussian_filter

from allograft.metrics.segmentation import case_metrics

SIZES = {"128^3": ((128,) * 3, 0.17, 9), "1024^2": ((1024,) * 2, 0.12, 15), "256^2": ((256,) * 2, 0.37, 31)}
"""Name -> shape, what was promised, and how many pairs are timed."""


def blob(rng: np.random.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """A lumpy ellipsoid, boolean."""
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    radii = np.array([0.75, 0.9, 0.7][: len(shape)]).reshape(-1, *(1,) * len(shape))
    lumps = gaussian_filter(rng.normal(size=shape), shape[0] / 32)
    return torch.from_numpy(((np.stack(axes) / radii) ** 2).sum(0) + 0.15 * lumps / lumps.std() < 1)


def main() -> None:
    warnings.filterwarnings("ignore")
    rng = np.random.default_rng(0)
    for name, (shape, limit, rounds) in SIZES.items():
        prediction, target = blob(rng, shape), blob(rng, shape)
        batch, spacing = (prediction[None, None], target[None, None]), (1.0,) * len(shape)

        def ours(maps: tuple[torch.Tensor, ...] = (prediction.long(), target.long())) -> dict[str, float]:
            return case_metrics(maps[0], maps[1], ["blob"], (1.0,) * maps[0].ndim)

        def theirs(
            batch: tuple[torch.Tensor, ...] = batch, spacing: tuple[float, ...] = spacing
        ) -> tuple[float, float, float]:
            options = {"include_background": True, "spacing": spacing}
            return (
                float(compute_dice(*batch)),
                float(compute_hausdorff_distance(*batch, percentile=95, **options)),
                float(compute_average_surface_distance(*batch, symmetric=True, **options)),
            )

        made = ours()
        assert np.allclose([made["dice"], made["hd95"], made["asd"]], theirs(), rtol=1e-5), (made, theirs())
        compare(f"judging_{name.replace('^', '_')}_to_monai", ours, theirs, limit=limit, rounds=rounds)


if __name__ == "__main__":
    main()
