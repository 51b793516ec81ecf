"""Write a SYNTHETIC copy of the hippocampus cohort in which one group has another contrast: its
intensities in [0, 1] are cubed.

A scale or an offset is removed by normalising each image; a curve is not. Everything else stays as
it is.

    python examples/hippocampus_synthetic.py data/hippocampus/manifest.csv runs/hippocampus_synthetic intensity-high
"""

from __future__ import annotations

import argparse
import csv
import shutil
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="the manifest of the hippocampi")
    parser.add_argument("out", type=Path, help="the folder for the copy")
    parser.add_argument("site", help="the group whose contrast is changed")
    arguments = parser.parse_args()
    try:
        main(arguments.manifest, arguments.out, arguments.site)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "expected the manifest of the hippocampi and the files that it lists; run 'allograft import msd' first"
        parser.exit(2, f"no such file: {error.filename or error}; {hint}\n")
