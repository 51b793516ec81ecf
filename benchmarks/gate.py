"""The leakage gate over 20,000 images of 256 x 256 pixels: every one read, every pair that looks
alike compared."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from ratio import keep

from allograft.cohort import Case
from allograft.cohort.copies import find_duplicates

IMAGES, SIDE, COPIES, LIMIT = 20_000, 256, 20, 300.0


def write_images(folder: Path) -> list[Case]:
    """Blurred noise on a common disc, so that all look somewhat alike, as radiographs do; the last
    are near-copies of the first."""
    rows, columns = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    disc = 60 * np.exp(-8 * (rows**2 + columns**2))
    cases = []
    for number in range(IMAGES):
        rng = np.random.default_rng(number if number < IMAGES - COPIES else number - (IMAGES - COPIES))
        coarse = rng.normal(0, 40, (16, 16)).astype(np.float32)
        image = 90 + disc + cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        if number >= IMAGES - COPIES:
            image = image + np.random.default_rng(number).normal(0, 2, image.shape)
        path = folder / f"{number}.png"
        cv2.imwrite(str(path), np.clip(image, 0, 255).astype(np.uint8))
        cases.append(Case(f"{number}", f"s{number}", "a" if number % 2 else "b", (path,)))
    return cases


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        cases = write_images(Path(name))
        began = time.perf_counter(), time.process_time()
        found = find_duplicates(cases)
        wall, processor = time.perf_counter() - began[0], time.process_time() - began[1]
    assert len(found.near) == COPIES, f"{len(found.near)} near-duplicates found, {COPIES} planted"
    keep("gate_20000", {"processor_seconds": round(processor, 1), "images": IMAGES}, seconds=([wall], LIMIT))


if __name__ == "__main__":
    main()
