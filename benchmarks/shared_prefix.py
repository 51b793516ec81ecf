"""Four recipes on one source training, against that training and the four adaptations, each timed
alone.

The study is a small one on phantoms. Its whole time is set against the sum of: a study of the rows
that every table has, and for each recipe a study that finds everything but that recipe's adaptation
finished, less what such a study takes when nothing at all is left to do. The ratio is of processor
time, which a busy machine disturbs less than wall time; both are printed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from ratio import keep
from torch import Tensor

from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.studies import run_study

RECIPES: list[Any] = [{"finetune": {"scope": scope}} for scope in ("full", "decoder", "top")] + ["l2sp"]
LIMIT = 1.15


def timed(manifest: Path, out: Path, recipes: list[Any]) -> Tensor:
    """Processor time and wall time of a study, in seconds."""
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [8, 16, 32]}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": recipes,
        "augmentation": "none",
        "seeds": 1,
        "budget": {"steps": 60, "adapt_steps": 30, "batch_size": 4},
    }
    fabric = local_fabric(accelerator="cpu")
    began = time.process_time(), time.perf_counter()
    run_study(tree, out, fabric=fabric)
    return torch.tensor([time.process_time() - began[0], time.perf_counter() - began[1]])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_brain(folder / "cohort", sites={"a": "none", "b": "severe"}, subjects=6, size=48)
        timed(manifest, folder / "warm", RECIPES)
        together = timed(manifest, folder / "together", RECIPES)
        alone = timed(manifest, folder / "source", [])
        nothing_left = timed(manifest, folder / "source", [])
        parts = alone
        for number, recipe in enumerate(RECIPES):
            shutil.copytree(folder / "source", folder / f"out-{number}")
            parts = parts + timed(manifest, folder / f"out-{number}", [recipe]) - nothing_left
    ratio, wall = (together / parts).tolist()
    keep("shared_prefix", {"wall_ratio": round(wall, 3), "recipes": len(RECIPES)}, ratio=([ratio], LIMIT))


if __name__ == "__main__":
    main()
