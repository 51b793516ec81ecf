"""Does a sampler of ten steps name the class that the study's own sampler names? For every seed of a
study with a row of ``diffmic``: the classes of the test images as the study recorded them, beside
those of the same model by ten steps of DDIM.

    python examples/diffmic_sampler.py runs/diffmic_pneumonia runs/pneumonia_mnist/manifest.csv -o runs/classes.csv

OUT.csv has a row for each seed and test image; ``classes`` is the recorded class, that of ten steps,
and the true one, by their numbers.
"""

from __future__ import annotations

import argparse
import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch

from allograft import load
from allograft.cohort import read_manifest
from allograft.metrics.classification import confusion, macro_f1
from allograft.predictor import load_predictor
from allograft.predictor.denoising import DiffMicPredictor
from allograft.results.record import read_all

STEPS = 10


def answers(study: Path, manifest: Path) -> list[tuple[int, str, int, int, int]]:
    """Seed, case, recorded class, class of ten steps and true class of every test image."""
    cases = {case.name: case for case in read_manifest(manifest)}
    rows = []
    for record in sorted(read_all(study).values(), key=lambda record: record.seed):
        stage = study / "units" / record.unit / "stages" / record.stage
        if record.part != "test" or record.recipe["name"] != "diffmic":
            continue
        predictor, _ = load_predictor(stage)
        if not isinstance(predictor, DiffMicPredictor):
            continue  # the guidance alone
        folder = next(path for path in (study / "models").glob("diffmic*"))
        model = replace(load(folder), predictor=replace(predictor, sampler="ddim", steps=STEPS))
        named = [cases[str(case["case"])] for case in record.cases]
        for case, short in zip(record.cases, model.predict(named), strict=True):
            shares = [short.answer.values[name] for name in model.task.classes]
            recorded = torch.tensor(case["probabilities"]).argmax()
            rows.append(
                (record.seed, str(case["case"]), int(recorded), int(torch.tensor(shares).argmax()), case["label"])
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of a study that has ended, with a row of diffmic")
    parser.add_argument("manifest", type=Path, help="the manifest of its images")
    parser.add_argument("-o", dest="out", type=Path, required=True, help="the CSV file to write")
    arguments = parser.parse_args()
    for needed, what in ((arguments.study / "models", "a study that has ended"), (arguments.manifest, "a manifest")):
        if not needed.exists():
            parser.exit(2, f"{needed}: no such file or folder; expected {what}\n")
    rows = answers(arguments.study, arguments.manifest)
    if not rows:
        parser.exit(2, f"{arguments.study}: no test record of a row of diffmic; run a study with one\n")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with open(arguments.out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("seed", "case", "classes"))
        writer.writerows((seed, case, f"{long}/{short}/{true}") for seed, case, long, short, true in rows)
    long, short, true = (torch.tensor([row[at] for row in rows]) for at in (2, 3, 4))
    count = int(torch.stack([long, short, true]).max()) + 1
    same = (long == short).float().mean()
    print(f"{len(rows)} answers of {len({row[0] for row in rows})} seeds; the same class {same:.1%}")
    for name, found in {"as recorded": long, f"DDIM, {STEPS} steps": short}.items():
        f1 = macro_f1(confusion(found, true, count))
        print(f"{name}: macro-F1 {f1:.3f}, predicted classes {dict(sorted(Counter(found.tolist()).items()))}")


if __name__ == "__main__":
    main()
