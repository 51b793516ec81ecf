"""Images that are masks at once: a square whose Dice with itself, moved, is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_square(path: Path, shift: int = 0) -> None:
    """12 x 12 pixels, a square of 5 x 5 in it, so many rows lower; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((12, 12), np.uint8)
    pixels[3 + shift : 8 + shift, 3:8] = 1
    Image.fromarray(pixels).save(path)
