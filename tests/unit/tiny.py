"""Cohorts of a few pixels, and batches, networks and contexts to go with them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from PIL import Image

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget, Context, Node, Settings
from allograft.phantoms.brain import SHIFTS, acquire, anatomy
from allograft.recipe import total_needs
from allograft.run.fabric import local_fabric
from allograft.seeds import Seeds
from allograft.study.keys import Question
from allograft.study.plan import Row
from allograft.tasks.segmentation import Segmentation

VESSEL = Segmentation(("vessel",))
PLAIN: dict[str, Any] = {
    "cohort": "manifest.csv",
    "task": {"segmentation": {"classes": ["vessel"]}},
    "source": ["a"],
    "target": ["b"],
    "recipes": ["supervised"],
}
"""The keys that a study needs."""


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    """A manifest from dicts."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_photographs(
    folder: Path, sites: Mapping[str, int], size: tuple[int, int] = (16, 16), per_subject: int = 1, seed: int = 7
) -> Path:
    """Noise with a bright square, its mask, ``images * sites`` rows; the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for site, subjects in sites.items():
        for number in range(subjects):
            for picture in range(per_subject):
                rng = np.random.default_rng([len(rows), seed])
                name = f"{site}{number}" + (f"-{picture}" if per_subject > 1 else "")
                mask = np.zeros(size, np.uint8)
                mask[2 + number % 3 : 9, 3:10] = 1
                Image.fromarray((rng.integers(0, 90, size) + 120 * mask).astype(np.uint8)).save(folder / f"{name}.png")
                Image.fromarray(mask).save(folder / f"{name}-mask.png")
                rows.append(
                    {"image": f"{name}.png", "mask": f"{name}-mask.png", "subject": f"{site}{number}", "site": site}
                )
    return write_rows(folder / "manifest.csv", rows)


def write_volumes(folder: Path, shapes: Iterable[tuple[int, int, int]]) -> Path:
    """NIfTI volumes whose value tells the place: 100 i + 10 j + k."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number, shape in enumerate(shapes):
        i, j, k = np.indices(shape)
        nibabel.save(
            nibabel.Nifti1Image((100 * i + 10 * j + k).astype(np.int16), np.diag([1, 2, 3, 1])),
            folder / f"v{number}.nii.gz",
        )
        nibabel.save(
            nibabel.Nifti1Image((k % 2).astype(np.uint8), np.diag([1, 2, 3, 1])), folder / f"v{number}-mask.nii.gz"
        )
        rows.append(
            {"image": f"v{number}.nii.gz", "mask": f"v{number}-mask.nii.gz", "subject": f"v{number}", "site": "a"}
        )
    return write_rows(folder / "manifest.csv", rows)


def write_brains(folder: Path, size: tuple[int, ...]) -> Path:
    """Eight subjects of two sites, slices or volumes: brains with masks and a class each."""
    folder.mkdir()
    rows = []
    for number in range(8):
        rng = np.random.default_rng(number)
        tissue = anatomy(rng, size)
        image = acquire(tissue, SHIFTS["none"], rng)
        for name, values in (("image", image.astype(np.float32)), ("mask", (tissue > 1).astype(np.uint8))):
            whole = values[..., None] if len(size) == 2 else values
            nibabel.save(nibabel.Nifti1Image(whole, np.eye(4)), folder / f"{number}-{name}.nii.gz")
        files = {name: f"{number}-{name}.nii.gz" for name in ("image", "mask")}
        rows.append({**files, "label": "xyz"[number % 3], "subject": f"{number}", "site": "ab"[number // 4]})
    return write_rows(folder / "manifest.csv", rows)


def read(manifest: Path, **options: Any) -> Cohort:
    """The cohort of a manifest, one class, intensities as stored."""
    return Cohort.read(manifest, VESSEL.coding, preprocessing=Preprocessing(intensity="none"), **options)


def case(name: str, value: float = 0.0, **more: Any) -> Batch:
    """One case of 2 x 2 pixels."""
    return Batch(torch.full((1, 1, 2, 2), value), torch.tensor([0]), (name,), **more)


def a_context(folder: Path | None = None, *, seed: int = 0, seconds: float = 60.0, **settings: Any) -> Context:
    """A context on the CPU, three steps of two cases."""
    made = Settings(
        budget=settings.pop("budget", Budget(steps=3, adapt_steps=3, batch_size=2)), augmentation="none", **settings
    )
    return Context(
        local_fabric(accelerator="cpu"), Seeds(seed), VESSEL, made, folder, checkpoint_seconds=seconds, progress=False
    )


def a_row(recipe: Any, target: str, seed: int, fold: int, unit: str = "", line: str = "") -> Row:
    """A row about one target, answered by one unit."""
    nodes = (Node(unit, recipe, total_needs(recipe)),) if unit else ()
    return Row(recipe, Question(target, (target,)), seed, fold, line, nodes)
