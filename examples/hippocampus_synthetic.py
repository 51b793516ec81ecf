"""Write a SYNTHETIC copy of the hippocampus cohort in which one group has another contrast: its
intensities in [0, 1] are cubed.

A scale or an offset is removed by normalising each image; a curve is not. Everything else stays as
it is.

    python examples/hippocampus_synthetic.py data/hippocampus/manifest.csv
    runs/hippocampus_synthetic intensity-high
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np


def curved(volume: np.ndarray, power: float = 3.0) -> np.ndarray:
    """Intensities scaled to [0, 1] and raised to a power."""
    low, high = float(volume.min()), float(volume.max())
    return np.asarray(((volume - low) / max(high - low, 1e-9)) ** power, dtype=np.float32)


def main(manifest: Path, out: Path, site: str) -> None:
    """Copy every case to ``out``; the images of ``site`` are curved, and the site is called
    ``SITE-synthetic``."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column in ("image", "mask"):
            (out / row[column]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(manifest.parent / row[column], out / row[column])
        if row["site"] == site:
            image = nib.load(manifest.parent / row["image"])
            nib.save(nib.Nifti1Image(curved(image.get_fdata()), image.affine), out / row["image"])
            row["site"] = f"{site}-synthetic"
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
