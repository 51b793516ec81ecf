"""Models Genesis' distortions as a mix, beside a plain loop over blocks and windows per image: at
most a fifth of its time was promised."""

from __future__ import annotations

import random

import numpy as np
import torch
from numpy.typing import NDArray
from ratio import compare

from allograft.transforms.genesis import BLOCKS, KNOTS, Genesis

SHAPES = [(1, 448, 448), (3, 224, 224), (1, 64, 64, 64), (1, 32, 64, 32), (1, 64, 64)]


def looped(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shuffled pixels, an intensity curve and outer windows, as one writes them down."""
    shape = image.shape[1:]
    shuffled = image.copy()
    for _ in range(BLOCKS[len(shape)]):
        box = window([random.randint(1, max(1, side // 10)) for side in shape], shape, 0)
        pixels = image[box].reshape(len(image), -1)
        shuffled[box] = pixels[:, np.random.permutation(pixels.shape[1])].reshape(image[box].shape)
    corners = np.array([[0, 0], np.random.rand(2), np.random.rand(2), [1, 1]])
    t = np.linspace(0, 1, KNOTS)
    x, y = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1).dot(corners).T
    curved = np.interp(shuffled, np.sort(x), np.sort(y))
    painted: NDArray[np.float64] = np.random.rand(*image.shape)
    for _ in range(5):
        box = window([side - random.randint(3 * side // 7, 4 * side // 7) for side in shape], shape, 3)
        painted[box] = curved[box]
    return painted


def window(size: list[int], shape: tuple[int, ...], margin: int) -> tuple[slice, ...]:
    """Somewhere in the image."""
    starts = [random.randint(margin, side - length - margin) for length, side in zip(size, shape, strict=True)]
    return (slice(None), *(slice(start, start + length) for start, length in zip(starts, size, strict=True)))


def main() -> None:
    mix = Genesis(shuffle=1, remap=1, paint=1, inside=0)
    for shape in SHAPES:
        image, rng = torch.rand(shape), torch.Generator().manual_seed(0)
        plain = image.double().numpy()
        name = "x".join(map(str, shape))
        compare(f"genesis_{name}", lambda: mix(image, rng), lambda: looped(plain), limit=0.2)  # noqa: B023


if __name__ == "__main__":
    main()
