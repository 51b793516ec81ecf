"""Three cohorts of cells with boxes of one class, ``cell``: nuclei in two kinds of images, and red
blood cells whose training boxes are weak.

Of the blood smears, in the order of their file names, the first 60 train and the next 60 test. The
training images have the boxes that ``allograft label boxes`` wrote; the red cells drawn by hand are
listed as those of a further reader (``boxes_reader_true``), which no method sees. Test images have
the red cells drawn by hand. White cells and platelets are no cells here.

    allograft label boxes data/bccd/images -o runs/bccd/weak --method hough --radius 35,65
    python examples/bccd_cells.py data runs/bccd
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from pathlib import Path

TRAIN, TEST = 60, 60
SOURCES = {"dsb2018": "colour", "he_nuclei": "emory"}
"""Cohort -> the site of it that is taken."""
Row = dict[str, str]


def rows_of(manifest: Path) -> list[Row]:
    """The rows of a manifest."""
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def boxes_of(file: Path, kind: str, folder: Path) -> str:
    """Write the boxes of one kind to ``folder`` as those of cells; their path from its parent."""
    tree = json.loads(file.read_text(encoding="utf-8"))
    kept = [box for box, label in zip(tree["boxes"], tree["labels"], strict=True) if label == kind]
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"boxes": kept, "labels": ["cell"] * len(kept)})
    (folder / file.name).write_text(text + "\n", encoding="utf-8")
    return f"{folder.name}/{file.name}"


def image_of(file: Path, folder: Path) -> str:
    """Copy an image to ``folder``; its path from its parent."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    return f"{folder.name}/{file.name}"


def nuclei(data: Path, site: str, out: Path) -> list[Row]:
    """The rows of one site, all of whose boxes are true."""
    return [
        {
            "image": image_of(data / row["image"], out / "images"),
            "boxes": boxes_of(data / row["boxes"], "nucleus", out / "boxes"),
            "subject": row["subject"],
            "site": site,
        }
        for row in rows_of(data / "manifest.csv")
        if row["site"] == site
    ]


def smears(data: Path, weak: Path, out: Path) -> list[Row]:
    """The rows of the smears, with weak boxes where they train."""
    rows = []
    for number, row in enumerate(sorted(rows_of(data / "manifest.csv"), key=lambda row: row["image"])[: TRAIN + TEST]):
        drawn = boxes_of(data / row["boxes"], "rbc", out / "drawn")
        train = number < TRAIN
        made = boxes_of(weak / Path(row["boxes"]).name, "cell", out / "weak") if train else drawn
        seen = {"image": image_of(data / row["image"], out / "images"), "boxes": made}
        seen |= {"boxes_reader_true": drawn if train else "", "subject": row["subject"], "site": "smears"}
        rows.append({**seen, "split": "train" if train else "test"})
    return rows


def main(data: Path, out: Path) -> None:
    """Write a folder with ``manifest.csv`` for each of the three below ``out``, where ``weak`` is."""
    cohorts = {name: nuclei(data / name, site, out / name) for name, site in SOURCES.items()}
    cohorts["bccd"] = smears(data / "bccd", out / "weak" / "boxes", out / "bccd")
    for name, rows in cohorts.items():
        with open(out / name / "manifest.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that has the cohorts bccd, dsb2018 and he_nuclei")
    parser.add_argument(
        "out", type=Path, help="the folder for the three cohorts, in which the weak boxes already are, below weak/"
    )
    arguments = parser.parse_args()
    weak = arguments.out / "weak" / "boxes"
    images = arguments.data / "bccd" / "images"
    if images.is_dir() and not weak.is_dir():
        command = f"allograft label boxes {images} -o {weak.parent} --method hough --radius 35,65"
        parser.exit(2, f"no such folder: {weak}; expected the weak boxes; run '{command}' first\n")
    try:
        main(arguments.data, arguments.out)
    except (FileNotFoundError, IsADirectoryError) as error:
        hint = "expected cohorts of 'allograft import' and boxes of 'allograft label boxes'; run these first"
        parser.exit(2, f"no such file: {error.filename or error}; {hint}\n")
