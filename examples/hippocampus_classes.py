"""Write a copy of the hippocampus cohort as one site with a class for each volume: the tertile of
the hippocampus's size.

Where the tertiles lie is found on the training subjects alone, and the split is written into the
manifest with them: 10 % of the subjects are tested. It is the stand-in for a structure that is
absent, small or present.

    python examples/hippocampus_classes.py data/hippocampus/manifest.csv runs/hippocampus_classes
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np

CLASSES = ("small", "middle", "large")
TEST = 0.1


def volume(path: Path) -> float:
    """The labelled volume in mm^3."""
    mask = nib.load(path)
    return float((np.asanyarray(mask.dataobj) > 0).sum() * np.prod(mask.header.get_zooms()))


def drawn(subjects: list[str], seed: int = 0) -> set[str]:
    """The subjects that are tested: a share of them, drawn once."""
    order = np.random.default_rng(seed).permutation(sorted(subjects))
    return set(order[: round(TEST * len(order))].tolist())


def main(manifest: Path, out: Path) -> None:
    """Copy every case to ``out`` and write its manifest."""
    with open(manifest, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    test = drawn([row["subject"] for row in rows])
    sizes = {row["subject"]: volume(manifest.parent / row["mask"]) for row in rows}
    limits = np.quantile([size for subject, size in sizes.items() if subject not in test], [1 / 3, 2 / 3])
    for row in rows:
        for column in ("image", "mask"):
            (out / row[column]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(manifest.parent / row[column], out / row[column])
        row["site"] = "hippocampus"
        row["split"] = "test" if row["subject"] in test else "train"
        row["label"] = CLASSES[int(np.searchsorted(limits, sizes[row["subject"]]))]
    with open(out / "manifest.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="the manifest of the hippocampi")
    parser.add_argument("out", type=Path, help="the folder for the copy")
    arguments = parser.parse_args()
    try:
        main(arguments.manifest, arguments.out)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "expected the manifest of the hippocampi and the files that it lists; run 'allograft import msd' first"
        parser.exit(2, f"no such file: {error.filename or error}; {hint}\n")
