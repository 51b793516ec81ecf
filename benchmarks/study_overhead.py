"""What a study costs beside its trainings, as its rows grow: one-step trainings on tiny phantoms,
the report on.

Processor seconds of studies of 16 to 128 units; of the same command run once more, when nothing is
left to do; of the largest study without reports; and what one more unit costs among many, against
one among few.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ratio import keep

from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.studies import run_study

SEEDS = (2, 4, 8, 16)
RECIPES: list[Any] = [{"finetune": {"scope": scope}} for scope in ("full", "first", "decoder", "top")]
RECIPES += ["l2sp", "dsbn"]
LIMITS = {"growth": 1.2, "with_reports": 1.35, "nothing_left": 0.4}
"""What a unit costs from 64 to 128, against from 16 to 32; what the largest study costs with
reports, and then once more, against one without."""


def study(manifest: Path, seeds: int) -> dict[str, Any]:
    """8 units per seed: six recipes, and the two rows that every table has."""
    return {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8], "norm": "batch"}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": RECIPES,
        "augmentation": "none",
        "seeds": seeds,
        "budget": {"steps": 1, "adapt_steps": 1, "batch_size": 1},
    }


def processor_seconds(tree: dict[str, Any], out: Path, *, report: bool) -> tuple[float, int]:
    """Of a study, and how many units it has."""
    fabric = local_fabric(accelerator="cpu")
    began = time.process_time()
    result = run_study(tree, out, fabric=fabric, report=report)
    return time.process_time() - began, len(result.plan.units)  # type: ignore[union-attr]


def main(seeds: tuple[int, ...] = SEEDS) -> None:
    cold, warm, units = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=6, size=32)
        processor_seconds(study(manifest, 1), folder / "first", report=True)  # imports
        for count in seeds:
            tree, out = study(manifest, count), folder / f"seeds-{count}"
            seconds, number = processor_seconds(tree, out, report=True)
            again, _ = processor_seconds(tree, out, report=True)
            cold.append(seconds), warm.append(again), units.append(number)
            print(f"{number} units: {seconds:.1f} s, once more {again:.1f} s", flush=True)
        bare, _ = processor_seconds(study(manifest, seeds[-1]), folder / "no-reports", report=False)
    result: dict[str, object] = {f"seconds_{number}": round(one, 1) for number, one in zip(units, cold, strict=True)}
    result |= {f"nothing_left_{number}": round(one, 1) for number, one in zip(units, warm, strict=True)}
    result[f"no_reports_{units[-1]}"] = round(bare, 1)
    marginal = [(b - a) / (m - n) for a, b, n, m in zip(cold, cold[1:], units, units[1:], strict=False)]
    measured = {"with_reports": cold[-1] / bare, "nothing_left": warm[-1] / bare}
    if len(marginal) > 2:
        measured["growth"] = marginal[2] / marginal[0]
    keep("study_overhead", result, **{name: ([value], LIMITS[name]) for name, value in measured.items()})


if __name__ == "__main__":
    main(tuple(map(int, sys.argv[1:])) or SEEDS)
