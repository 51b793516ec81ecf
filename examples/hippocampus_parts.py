"""Three data sets of different labels from one with both, split by subject: masks of the anterior part, of the
posterior part, and of both.

    python examples/hippocampus_parts.py MANIFEST OUT

Writes OUT/anterior.csv, OUT/posterior.csv and OUT/whole.csv, with copies of the images and masks below OUT.
"""

import argparse
import csv
import shutil
from pathlib import Path

import nibabel
import numpy as np

KEPT = {"anterior": (1,), "posterior": (2,), "whole": (1, 2)}


def main(manifest: Path, out: Path) -> None:
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    subjects = sorted({row["subject"] for row in rows})
    for number, (name, values) in enumerate(KEPT.items()):
        mine = set(subjects[number :: len(KEPT)])
        for folder in ("images", "masks"):
            (out / name / folder).mkdir(parents=True, exist_ok=True)
        written = []
        for row in rows:
            if row["subject"] not in mine or not row["mask"]:
                continue
            image, mask = (
                f"{name}/{key}/{Path(row[column]).name}" for key, column in (("images", "image"), ("masks", "mask"))
            )
            shutil.copyfile(manifest.parent / row["image"], out / image)
            stored = nibabel.load(manifest.parent / row["mask"])
            labels = np.asarray(stored.dataobj).astype(np.uint8)
            kept = np.where(np.isin(labels, values), labels, 0).astype(np.uint8)
            nibabel.save(nibabel.Nifti1Image(kept, stored.affine), out / mask)
            written.append({"image": image, "mask": mask, "subject": row["subject"], "site": name})
        with (out / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["image", "mask", "subject", "site"])
            writer.writeheader()
            writer.writerows(written)
        print(f"{name}: {len(written)} images of {len(mine)} subjects")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="the manifest of the hippocampi, with both labels in a mask")
    parser.add_argument("out", type=Path, help="the folder for the three manifests and their files")
    arguments = parser.parse_args()
    try:
        main(arguments.manifest, arguments.out)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "expected the manifest of the hippocampi and the files that it lists; run 'allograft import msd' first"
        parser.exit(2, f"no such file: {error.filename or error}; {hint}\n")
