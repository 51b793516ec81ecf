"""Cut H&E tiles with boxes of nuclei into patches with a label: a nucleus in the middle, or
background.

A patch is 64 x 64 pixels around a box's centre (``nucleus``), or one whose mask covers under 5 %
(``background``): equal numbers of both a tile, 16 at most, none across a tile's edge. A patch's
subject is its tile's, so that a tile is never on both sides of a split. A site of one subject
cannot be split: all of it is for testing.

    python examples/he_nuclei_patches.py data/he_nuclei/manifest.csv runs/he_nuclei_patches
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, MOST, COVERED = 64, 16, 0.05


def corners(boxes: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Upper left corners (N, 2) as (row, column) of each class, the same N for both."""
    limit = np.array(mask.shape) - SIZE
    found = {"nucleus": np.rint((boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2).astype(int) - SIZE // 2}
    drawn = rng.integers(0, limit + 1, (4000, 2))
    found["background"] = np.array(
        [at for at in drawn if mask[at[0] : at[0] + SIZE, at[1] : at[1] + SIZE].mean() < COVERED]
    ).reshape(-1, 2)
    inside = {kind: at[((at >= 0) & (at <= limit)).all(1)] for kind, at in found.items()}
    count = min(MOST, *map(len, inside.values()))
    return {kind: rng.permutation(at)[:count] for kind, at in inside.items()}


def main(manifest: Path, out: Path) -> None:
    """Write ``images/`` and ``manifest.csv`` below ``out``."""
    with open(manifest, newline="", encoding="utf-8") as file:
        tiles = list(csv.DictReader(file))
    (out / "images").mkdir(parents=True, exist_ok=True)
    subjects = {tile["site"]: {other["subject"] for other in tiles if other["site"] == tile["site"]} for tile in tiles}
    rows = []
    for number, tile in enumerate(tiles):
        image = np.asarray(Image.open(manifest.parent / tile["image"]).convert("RGB"))
        mask = np.asarray(Image.open(manifest.parent / tile["mask"])) > 0
        boxes = np.array(json.loads((manifest.parent / tile["boxes"]).read_text())["boxes"], dtype=float).reshape(-1, 4)
        for label, places in corners(boxes, mask, np.random.default_rng(number)).items():
            for place, (row, column) in enumerate(places):
                name = f"images/{Path(tile['image']).stem}-{label}-{place}.png"
                Image.fromarray(image[row : row + SIZE, column : column + SIZE]).save(out / name)
                split = "test" if len(subjects[tile["site"]]) == 1 else ""
                rows.append(
                    {"image": name, "label": label, "subject": tile["subject"], "site": tile["site"], "split": split}
                )
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="the manifest of the tiles, with columns mask and boxes")
    parser.add_argument("out", type=Path, help="the folder for the patches and their manifest")
    arguments = parser.parse_args()
    try:
        main(arguments.manifest, arguments.out)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "expected the manifest of the tiles and the files that it lists; run 'allograft import' first"
        parser.exit(2, f"no such file: {error.filename or error}; {hint}\n")
