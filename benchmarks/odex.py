"""ODEx against sequential training at equal steps: processor time and peak memory."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from ratio import keep

LIMIT = 1.05
"""Of processor time, and of the peak memory of a process, whose noise is as large."""
REPEATS = 3


def measured(manifest: Path, out: Path, recipe: Any) -> tuple[float, float]:
    """Processor seconds and peak memory in MB of a study of one recipe, after a study of the same
    kind has warmed up everything."""
    from allograft.run.fabric import local_fabric
    from allograft.studies import run_study

    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [16, 32, 64], "norm": "batch"}},
        "stream": [["a"], ["b"], ["c"]],
        "recipes": [recipe],
        "augmentation": "none",
        "seeds": 1,
        "budget": {"steps": 100, "batch_size": 8},
    }
    fabric = local_fabric(accelerator="cpu")
    run_study({**tree, "budget": {"steps": 2, "batch_size": 8}}, out / "warm", fabric=fabric, report=False)
    began = time.process_time()
    run_study(tree, out / "measured", fabric=fabric, report=False)
    return time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def alone(manifest: Path, out: Path, recipe: str) -> tuple[float, float]:
    """As ``measured``, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, str(manifest), str(out), recipe], capture_output=True, text=True, check=True
    )
    seconds, memory = done.stdout.split()[-2:]
    return float(seconds), float(memory)


def main() -> None:
    from allograft.phantoms.brain import write_brain

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sites = {"a": "none", "b": "medium", "c": "severe"}
        manifest = write_brain(folder / "cohort", sites=sites, subjects=12, size=64)
        pairs = [
            tuple(alone(manifest, folder / f"{recipe}-{turn}", recipe) for recipe in ("odex", "sequential"))
            for turn in range(REPEATS)
        ]
    seconds, memory = ([ours[part] / theirs[part] for ours, theirs in pairs] for part in (0, 1))
    keep("odex", {"steps_per_stage": 100}, ratio=(seconds, LIMIT), memory_ratio=(memory, LIMIT))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*measured(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
    else:
        main()
