"""Train on made maps of cartilage what is trained on true ones: grade, and progression within six
years (Chen and Niethammer 2023, section 3.3).

The subjects that the model has not seen are parted: two of three train (the paper's set 2), one
tests (set 3). Each of the studies in OUT has one site, ``made`` or ``true``, whose images are maps.

    python examples/knee_downstream.py runs/knee/models/mris@b knee/manifest.csv runs/knee_downstream
"""

from __future__ import annotations

import argparse
import csv
import shutil
from pathlib import Path
from typing import Any

from allograft import load, run_study
from allograft.apply.predictions import output_name, write_predictions
from allograft.cohort import Case, read_manifest
from allograft.cohort.prepared_images import file_hash
from allograft.errors import AllograftError

RATES = {"grade": 1e-5, "progression": 1e-4}
"""Of the paper, which starts from ImageNet; from scratch the grade needs the larger one too."""
CLASSES = {"grade": ["01", "2", "3", "4"], "progression": ["no", "yes"]}


def said(case: Case) -> dict[str, str]:
    """What a row of a manifest says of a case."""
    return {"grade": str(case.labels["label"]), "progression": case.attributes["progresses"]}


def write_maps(model: Path, manifest: Path, out: Path) -> None:
    """Maps of all cases that the model has not seen, and a manifest for each kind and question."""
    seen = set(load(model).card["training_images"])
    cases = [case for case in read_manifest(manifest) if file_hash(case.image[0]) not in seen]
    tested = sorted({case.subject for case in cases})[2::3]
    write_predictions(model, [Path(str(case.image[0])) for case in cases], out / "made")
    for kind in ("made", "true"):
        rows = []
        for number, case in enumerate(cases):
            image = out / f"{kind}-maps" / f"{number}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            made = out / "made" / f"{output_name(Path(str(case.image[0])).name)}_paired.png"
            shutil.copyfile(made if kind == "made" else Path(str(case.labels["paired"])), image)
            split = "test" if case.subject in tested else "train"
            rows.append({"image": str(image.relative_to(out)), "subject": case.subject, "split": split, "site": kind})
        for question in CLASSES:
            with open(out / f"{question}-{kind}.csv", "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, [*rows[0], "label"])
                writer.writeheader()
                told = zip(rows, cases, strict=True)
                writer.writerows({**row, "label": said(case)[question]} for row, case in told)


def study_of(question: str, kind: str, out: Path) -> dict[str, Any]:
    """A ResNet-18, AdamW, 30 epochs of 64 images, the rate a fifth after each ten."""
    return {
        "cohort": str(out / f"{question}-{kind}.csv"),
        "task": {"classification": {"classes": CLASSES[question]}},
        "network": {"resnet": {"depth": 18}},
        "preprocessing": {"orientation": None, "intensity": "unit"},
        **{"source": [kind], "target": [kind], "recipes": ["supervised"], "baselines": False, "seeds": 1},
        "optimizer": {"adamw": {"lr": RATES[question]}},
        "schedule": {"step": {"at": [1 / 3, 2 / 3], "factor": 0.2}},
        "budget": {"epochs": 30, "batch_size": 64},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the model's folder, below models/ of the study of mris.yaml")
    parser.add_argument("manifest", type=Path, help="the manifest of the knees")
    parser.add_argument("out", type=Path, help="the folder for the maps and the four studies")
    arguments = parser.parse_args()
    out = arguments.out
    try:
        write_maps(arguments.model, arguments.manifest, out)
        for question in CLASSES:
            for kind in ("true", "made"):
                run_study(study_of(question, kind, out), out / f"{question}-{kind}")
    except AllograftError as error:
        parser.exit(error.exit_code, f"{error}\n")
