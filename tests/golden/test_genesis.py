"""The distortions of Models Genesis against arrays made by POPAR's released code."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from allograft.transforms.genesis import (
    Shuffle,
    Windows,
    bezier_curve,
    paint_in,
    paint_out,
    remap_intensity,
    shuffle_pixels,
)


def stored(vectors_root: Path, name: str) -> dict[str, Tensor]:
    with np.load(vectors_root / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def test_blocks_are_shuffled_channels_mixed(vectors_root: Path) -> None:
    arrays = stored(vectors_root, "popar_local_shuffle.npz")
    size, start = arrays["blocks"].split(2, dim=1)
    order = torch.cat([row[row >= 0] for row in arrays["perm"]])
    torch.testing.assert_close(
        shuffle_pixels(arrays["x"], drawn=Shuffle(Windows(start, size), order)), arrays["y"], rtol=0, atol=0
    )


@pytest.mark.parametrize("case", [0, 1])
def test_intensities_follow_the_curve(case: int, vectors_root: Path) -> None:
    arrays = stored(vectors_root, "popar_nonlinear.npz")
    drawn = arrays[f"draws{case}"]
    remapped = remap_intensity(arrays["x"], points=drawn[1:5].view(2, 2), falls=bool(drawn[5] < 0.5))
    torch.testing.assert_close(remapped, arrays[f"y{case}"], rtol=1e-12, atol=1e-12)


def test_the_curve_has_the_released_knots(vectors_root: Path) -> None:
    arrays = stored(vectors_root, "popar_paint.npz")
    x, y = bezier_curve(arrays["bezier_points"][1:3], falls=True)
    torch.testing.assert_close(x.flip(0), arrays["bezier_x"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(y, arrays["bezier_y"], rtol=1e-12, atol=1e-12)


def test_inner_windows_are_filled(vectors_root: Path) -> None:
    arrays = stored(vectors_root, "popar_paint.npz")
    drawn = arrays["in_draws"].view(5, 5)[:, 1:].long()
    noise = torch.zeros(1, 64, 64, dtype=torch.float64)
    for number, (height, width, row, column) in enumerate(drawn.tolist()):
        noise[0, row : row + height, column : column + width] = arrays[f"in_noise{number}"]
    painted = paint_in(arrays["x"], windows=Windows(drawn[:, 2:], drawn[:, :2]), noise=noise)
    torch.testing.assert_close(painted, arrays["in_y"], rtol=0, atol=0)


def test_outer_windows_are_kept(vectors_root: Path) -> None:
    arrays = stored(vectors_root, "popar_paint.npz")
    first, more = arrays["out_draws"][:4], arrays["out_draws"][4:].view(4, 5)[:, 1:]
    drawn = torch.cat([first[None], more]).long()
    windows = Windows(drawn[:, 2:], 64 - drawn[:, :2])
    painted = paint_out(arrays["x"], windows=windows, noise=arrays["out_noise"])
    torch.testing.assert_close(painted, arrays["out_y"], rtol=0, atol=0)
