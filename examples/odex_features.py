"""How the values of ODEx's feature decide what it sees: the distance of a severe shift, and the threshold.

python examples/odex_features.py runs/odex_features -o runs/odex_features/features.csv
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from pathlib import Path

from allograft.methods.odex import Expert, Gaussian
from allograft.parts.domain_features import features_of
from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.plan import scenario_of
from allograft.study.reading import make_study

ASKED = ((10_000, 0.0), (10_000, 0.1), (512, 0.0), (128, 0.0), (32, 0.0))
"""(limit, shrinkage)."""
FITTED, HELD_OUT = (8, 20, 40, 72), 40


def main(folder: Path, out: Path) -> None:
    """Train on the first scanner, and write a row for each number of fitted cases and each feature."""
    manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=160, size=64)
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [8, 16, 32], "norm": "batch"}},
        "preprocessing": {"size": [64, 64], "intensity": "zscore"},
        "stream": [["a"], ["b"]],
        "recipes": ["sequential"],
        "test": {"fraction": 0.3},
        "seeds": 1,
        "budget": {"steps": 100, "batch_size": 8},
        "optimizer": {"adam": {"lr": 3e-3}},
    }
    session = Session(make_study(tree), folder / "out", None, local_fabric(accelerator="cpu"), 0, 60.0, print)
    world = session.prepare()
    row, context = session.plan(world).rows[0], session.context(0)
    scenario = scenario_of(world, row)
    network = next(context.run(row.recipe, scenario, session.start(world, 0))).predictor.network  # type: ignore[union-attr]
    rows = []
    for limit, shrinkage in ASKED:
        own, far = (
            features_of(network, replace(stage, sites=()), context, "batch-norm", limit) for stage in scenario.stream
        )
        for count in FITTED:
            fit = Gaussian.fit(own[:count], shrinkage=shrinkage)
            model = Expert(network, (fit,), fit.mahalanobis(own[-HELD_OUT:]))
            distance = float(model.scaled(model.distance(far)).mean())
            rows.append((count, f"limit {limit}, shrinkage {shrinkage}", distance, 2 * model.mean))
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["fitted", "feature", "distance", "threshold"])
        writer.writerows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for the phantom and the study")
    parser.add_argument("-o", "--out", type=Path, required=True, help="the CSV file to write")
    main(**vars(parser.parse_args()))
