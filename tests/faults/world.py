"""A study of four units, two of which share a source training, and everything of it that a fault
must not change."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from allograft import tree
from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.studies import run_study

DEAD = 2**22 + 1
"""Above any process number."""
COSTS = ("cost", "checksum")
UNLIKE = ("results.csv", "metrics.csv", "report.html", "study.json", "looks.jsonl")
"""What is made again, or has a time in it."""


def write_cohort(folder: Path) -> Path:
    """Two sites of two subjects."""
    return write_brain(folder, sites={"a": "none", "b": "severe"}, subjects=2, size=32)


def study_of(manifest: Path) -> dict[str, Any]:
    """Two recipes on one source training, one seed, two steps; and the two rows that every study
    has."""
    return {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1}},
        "source": ["a"],
        "target": ["b"],
        "recipes": [{"fourier": {"beta": 0.1, "donors": 1}}, {"fourier": {"beta": 0.2, "donors": 1}}],
        "test": {"fraction": 0.5, "val": 0.0},
        "seeds": 1,
        "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2},
    }


def run(manifest: Path, out: Path, **changes: Any) -> Any:
    """Run the study with a checkpoint after every step."""
    fabric = local_fabric(accelerator="cpu")
    return run_study({**study_of(manifest), **changes}, out, fabric=fabric, report=False, checkpoint_seconds=0)


def told(out: Path) -> dict[str, Any]:
    """Every kept file of a study by name, without what it cost: weights, carries, models, records,
    splits."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file() and not litter(path)):
        name = path.relative_to(out).as_posix()
        if name.startswith("cache/") or name in UNLIKE:
            continue
        if path.name == "carry.safetensors":
            found[name] = {key: comparable(value) for key, value in tree.load(path).items() if key != "cost"}
        elif path.suffix == ".json":
            found[name] = without_costs(json.loads(path.read_text()))
        else:
            found[name] = path.read_bytes()
    return found


def litter(path: Path) -> bool:
    """What a process that was killed while it wrote leaves, and nobody reads."""
    return path.name.startswith(".") and path.name.endswith(".part")


def comparable(thing: Any) -> Any:
    """Tensors as their bytes."""
    if hasattr(thing, "numpy"):
        return str(thing.dtype), tuple(thing.shape), thing.numpy().tobytes()
    if isinstance(thing, dict):
        return {key: comparable(value) for key, value in thing.items()}
    return [comparable(value) for value in thing] if isinstance(thing, (list, tuple)) else thing


def without_costs(thing: Any) -> Any:
    """JSON without seconds and megabytes."""
    if isinstance(thing, dict):
        return {key: without_costs(value) for key, value in thing.items() if key not in COSTS}
    return [without_costs(value) for value in thing] if isinstance(thing, list) else thing


def scores(result: Any) -> list[Any]:
    """The table: each line's number of finished runs and its scores, so that nothing is counted
    twice."""
    return [(line.title, line.done, len(line.runs), line.score("a"), line.score("b")) for line in result.lines]


def bury(out: Path) -> None:
    """The process that wrote this is gone: so are those that its locks name."""
    for lock in out.glob("units/*/lock"):
        lock.write_text(of_another(lock.read_text(), DEAD))


def of_another(lock: str, process: int) -> str:
    """The text of a lock as another process of this machine writes it."""
    return re.sub("token=.*", "token=another", re.sub("pid=.*", f"pid={process}", re.sub("start=.*\n", "", lock)))


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Filled with the recipe of every ``train`` call that makes a step."""
    from allograft.step import GradientStep

    made: list[str] = []
    real = GradientStep.__call__

    def counted(step: Any, batch: Any) -> Any:
        made.append("step")
        return real(step, batch)

    monkeypatch.setattr(GradientStep, "__call__", counted)
    return made


def truncated(path: Path) -> None:
    """The last quarter is lost."""
    content = path.read_bytes()
    path.write_bytes(content[: 3 * len(content) // 4])


def flipped(path: Path) -> None:
    """One bit of the last tensor or number is another, and the file as long as before."""
    content = bytearray(path.read_bytes())
    place = (
        len(content) - 5
        if path.suffix == ".safetensors"
        else next(i for i in range(len(content) // 2, len(content)) if 48 <= content[i] <= 57)
    )
    content[place] ^= 1
    path.write_bytes(bytes(content))


def emptied(path: Path) -> None:
    """Created, never written."""
    path.write_bytes(b"")
    assert os.path.getsize(path) == 0
