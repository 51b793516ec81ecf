"""A tiny study on phantoms that every method of the table can run in a second or two.

Little in it is alike, so that a mix-up shows: two source sites of different size and scanner, more target subjects than the label
budget, subjects with one image and with two, images with a region and without, batch normalisation and dropout in the network.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from allograft.phantoms.brain import write_brain
from allograft.phantoms.histology import write_histology
from allograft.results.record import Record, read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.plan import Row, scenario_of
from allograft.study.spec import make_study
from allograft.study.world import World
from allograft.table import rows as table_rows

SMALL: dict[str, dict[str, Any]] = {
    # method -> arguments that make it quick; a method that is not named runs with its defaults
    "fourier": {"beta": 0.1, "donors": 2},
    "unlearning": {"attributes": ["scanner"]},
    "catenorm": {"warmup": 0.34},
    "stain_normalisation": {"method": "macenko"},
}
PATCHES: dict[str, Any] = {
    "task": {"classification": {"classes": ["small", "large"]}},
    "preprocessing": {"intensity": "unit"},
}
STUDY: dict[str, dict[str, Any]] = {
    # method -> what it asks of the study
    "stain_aglr": PATCHES,
    "stain_normalisation": PATCHES,
}
PROCESSES: dict[str, dict[str, Any]] = {
    # method -> arguments where two processes must equal one up to rounding
    "adabn": {"first": "start"},  # each process normalises by batches of half the size
    "aiva": {"first": "start", "rounds": 1},  # t-SNE makes much of the rounding of what was trained before
    "stain_aglr": {"regeneration": 0.001},  # the decoder, too, normalises by batches of half the size
}
BATCH_NORM = {"adabn", "dsbn", "msnet"}  # methods that are about it
MOMENTUM = {"octl"}  # methods that go on from an optimizer's history, which SGD has with momentum only
METHODS = sorted(table_rows("method"))


BUDGET = 2
"""Labelled subjects of "b"; it has four that train."""
NETWORK = {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch", "dropout": 0.2}}
SHIFTS = {"a": "none", "a-two": "medium", "d": "subtle", "b": "severe", "b-two": "medium"}
"""What is drawn: a site's images by its first scanner, and by another one."""
SUBJECTS = {"a": 4, "a-two": 4, "d": 3, "b": 6, "b-two": 3}
"""How many subjects have such an image: all of "a" two, those of "d" one, half of those of the target "b" two."""
HIDDEN = 6
"""Columns at the left that do not count in the images of a second scanner and of "d"."""


def write_cohort(folder: Path) -> Path:
    """Sites "a" and "d" with labels, and a target "b", 32 px; beside it ``patches`` for methods of H&E, as many and no second image.

    The files are written in formats without compression: their bytes, and so the content keys, are the same on every machine.
    """
    drawn = write_brain(folder / "drawn", sites=SHIFTS, subjects=max(SUBJECTS.values()), size=32)
    rows = []
    for row in _listed(drawn):
        site, _, scanner = row["site"].partition("-")
        image, mask = (_uncompressed(drawn.parent / row[key], folder) for key in ("image", "mask"))
        region = _region(folder / f"regions/{Path(image).name}") if scanner or site == "d" else ""
        subject = row["subject"].replace(row["site"], site)
        rows.append({"image": image, "mask": mask, "region": region, "subject": subject, "site": site, "scanner": scanner or "one"})
    patches = write_histology(folder / "drawn-patches", sites={site: SHIFTS[site] for site in "adb"}, subjects=6, size=32)
    one_each = [{**row, "image": _uncompressed(patches.parent / row["image"], folder / "patches")} for row in _listed(patches)]
    _write(folder / "patches" / "manifest.csv", one_each)
    return _write(folder / "manifest.csv", rows)


def _listed(manifest: Path) -> list[dict[str, str]]:
    """The rows of the subjects that are kept."""
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    return [row for row in rows if int(row["subject"].rpartition("-")[2]) < SUBJECTS[row["site"]]]


def _uncompressed(png: Path, folder: Path) -> str:
    """The same pixels as PGM or PPM; their path from the folder on."""
    with Image.open(png) as image:
        name = f"{png.parent.name}/{png.stem}{'.ppm' if image.mode == 'RGB' else '.pgm'}"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return name


def _region(path: Path) -> str:
    counts = np.full((32, 32), 1, np.uint8)
    counts[:, :HIDDEN] = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(counts).save(path)
    return f"{path.parent.name}/{path.name}"


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def session_of(manifest: Path, out: Path, recipe: Any, *, fabric: Any = None, **changes: Any) -> Session:
    """A session for one recipe."""
    name = recipe if isinstance(recipe, str) else next(iter(recipe))
    tree: dict[str, Any] = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": NETWORK,
        "source": ["a", "d"],
        "target": ["b"],
        "target_labels": {"subjects": BUDGET},
        "recipes": [recipe],
        "test": {"fraction": 0.3, "val": 0.3},
        "seeds": 1,
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 2},
        **STUDY.get(name, {}),
        **changes,
    }
    if STUDY.get(name) is PATCHES:
        tree["cohort"] = str(manifest.parent / "patches" / "manifest.csv")
    if name in MOMENTUM and "sgd" in tree.get("optimizer", {}):
        tree["optimizer"] = {"sgd": {"momentum": 0.9, **tree["optimizer"]["sgd"]}}
    return Session(make_study(tree), out, None, fabric or local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)


def session_of_processes(manifest: Path, out: Path, name: str, fabric: Any = None) -> Session:
    """A session that one process and two run alike.

    Without dropout, whose masks differ between processes, and by SGD: Adam divides by the gradient's own size, so where a gradient is
    0 but for rounding (a bias before a normalisation) its step has the size of the learning rate and the sign of the rounding.
    """
    norm = "batch" if name in BATCH_NORM else "instance"
    network = {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": norm}}
    recipe = {name: {**SMALL.get(name, {}), **PROCESSES.get(name, {})}}
    return session_of(manifest, out, recipe, fabric=fabric, network=network, optimizer={"sgd": {"lr": 0.1}})


def request(name: str) -> dict[str, Any]:
    """The YAML tree of a method, made quick."""
    return {name: SMALL.get(name, {})}


def run(session: Session) -> tuple[World, Row, dict[str, Record]]:
    """Run the session's one recipe; its world, row and all records."""
    world = session.prepare()
    row = row_of(session, world)
    session.run(world, row, "1 of 1")
    return world, row, read_all(session.out)


def row_of(session: Session, world: World) -> Row:
    """The row of the session's one recipe."""
    return next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])


def draws_of(session: Session) -> str:
    """What the row of the session's one recipe draws from."""
    world = session.prepare()
    row = row_of(session, world)
    return session.context(row.seed).draws(row.recipe, scenario_of(world, row), session.start(world, row.seed))


def told(records: dict[str, Record]) -> dict[str, Any]:
    """All of the records that must be the same bytes; costs are not."""
    return {name: (r.metrics, r.cases, r.status, r.error, r.ordinal, r.seen, r.labelled_subjects, r.data) for name, r in records.items()}
