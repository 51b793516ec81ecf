"""A tiny study on phantoms that every method of the table can run in a second or two.

Little in it is alike, so that a mix-up shows: two source sites of different size and scanner, more
target subjects than the label budget, subjects with one image and with two, images with a region
and without, batch normalisation and dropout in the network.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from PIL import Image
from torch import nn

from allograft.cohort.readers import read_mask
from allograft.phantoms.brain import write_brain
from allograft.phantoms.histology import write_histology
from allograft.recipe import parse_recipe, total_needs
from allograft.results.record import Record, read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.keys import Question
from allograft.study.plan import Row, scenario_of
from allograft.study.reading import make_study
from allograft.study.world import World
from allograft.table import rows

METHODS = sorted(rows("method"))


@dataclass(frozen=True)
class Contract:
    """What a method's test file states of it, as ``CONTRACT = {...}``.

    Args:
        arguments: of the recipe, to make it quick; its defaults otherwise.
        study: what it needs of the study; ``cohort`` lies beside the manifest.
        options: field -> another value, under which the recipe must leave other bytes; every field
            but ``first``.
        under: field -> ``{"arguments": ..., "study": ...}`` without which that option has nothing
            to act on.
        processes, processes_study: arguments and study where two processes must equal one up to
            rounding.
        averages: whether in the comparison of two processes its network keeps statistics of images
            instead of batches, which no normalisation shares: its own step has to average them.
        own_settings: settings of the study that do not reach it, because its paper has its own;
            ``loss`` where it minimises no loss of labels.
        own_optimizers: whether something of the network moves by an optimizer that the study's
            schedule does not reach.
        trains: whether it makes steps itself.
        in_evaluation_mode: whether it makes steps with dropout off.
        marks: after which of three steps there are checkpoints.
        patch: crops that are not square, where it takes such.
    """

    arguments: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    under: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    processes: Mapping[str, Any] = field(default_factory=dict)
    processes_study: Mapping[str, Any] = field(default_factory=dict)
    averages: bool = False
    own_settings: tuple[str, ...] = ()
    own_optimizers: bool = False
    trains: bool = True
    in_evaluation_mode: bool = False
    marks: tuple[int, ...] = (1, 2)
    patch: tuple[int, ...] = (16, 32)


@cache
def contract(name: str) -> Contract:
    """A method's statement, read from its test file without running that, which may import this
    module."""
    file = Path(__file__).parents[1] / "unit" / "methods" / f"test_{name}.py"
    assert file.is_file(), f"method '{name}' has no test file {file.name}; write one, with CONTRACT = {{...}}"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONTRACT":
            return Contract(**ast.literal_eval(node.value))
    raise AssertionError(f"{file.name}: states no CONTRACT = {{...}}; see tests.contract.world.Contract")


TARGET = Question("b", ("b",))
BUDGET = 2
"""Labelled subjects of "b"; it has four that train."""
NETWORK = {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch", "dropout": 0.2}}
SHIFTS = {"a": "none", "a-two": "medium", "d": "subtle", "b": "severe", "b-two": "medium"}
"""What is drawn: a site's images by its first scanner, and by another one."""
SUBJECTS = {"a": 4, "a-two": 4, "d": 3, "b": 6, "b-two": 3}
"""How many subjects have such an image: all of "a" two, those of "d" one, half of those of the
target "b" two."""
HIDDEN = 6
"""Columns at the left that do not count in the images of a second scanner and of "d"."""


def write_cohort(folder: Path) -> Path:
    """Sites "a" and "d" with labels, and a target "b", 32 px; beside it ``patches`` for methods of
    H&E, as many and no second image. Its ``halves.csv`` lists the same images with other labels, of
    which the training subjects of "a" have both; and ``paired.csv`` lists masks as images of
    another modality.

    The files are written in formats without compression: their bytes, and so the content keys, are
    the same on every machine.
    """
    drawn = write_brain(folder / "drawn", sites=SHIFTS, subjects=max(SUBJECTS.values()), size=32)
    rows = []
    for row in _listed(drawn):
        site, _, scanner = row["site"].partition("-")
        image, mask = (_uncompressed(drawn.parent / row[key], folder) for key in ("image", "mask"))
        region = _region(folder / f"regions/{Path(image).name}") if scanner or site == "d" else ""
        subject = row["subject"].replace(row["site"], site)
        rows.append(
            {
                "image": image,
                "mask": mask,
                "region": region,
                "subject": subject,
                "site": site,
                "scanner": scanner or "one",
            }
        )
    patches = write_histology(
        folder / "drawn-patches", sites={site: SHIFTS[site] for site in "adb"}, subjects=6, size=32
    )
    one_each = [
        {**row, "image": _uncompressed(patches.parent / row["image"], folder / "patches")} for row in _listed(patches)
    ]
    _write(folder / "patches" / "manifest.csv", one_each)
    names = sorted({row["label"] for row in one_each})
    halves = [{**row, "label": names[int(row["subject"].rpartition("-")[2]) // 2 % 2]} for row in one_each]
    _write(folder / "patches" / "halves.csv", halves)
    _write(folder / "paired.csv", [{**row, "paired": row["mask"]} for row in rows])
    manifest = _write(folder / "manifest.csv", rows)
    _write_boxes(manifest)
    # half of "a" as a site of its own
    halved = [
        {**row, "site": "e" if row["site"] == "a" and int(row["subject"][-1]) % 2 else row["site"]} for row in rows
    ]
    _write(folder / "three.csv", halved)
    return manifest


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


def _write_boxes(manifest: Path) -> None:
    """``boxes.csv`` beside the manifest: in the place of each mask the box around it, and another
    reader's, a pixel smaller on the right, of every image."""
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    for row in rows:
        y, x = np.nonzero(read_mask(manifest.parent / row.pop("mask")).array[0])
        box = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        row["boxes"] = f"{Path(row['image']).stem}.json"
        row["boxes_reader2"] = f"{Path(row['image']).stem}-reader2.json"
        for column, right in (("boxes", box[2]), ("boxes_reader2", box[2] - 1)):
            drawn = [[*box[:2], right, box[3]]]
            (manifest.parent / row[column]).write_text(json.dumps({"boxes": drawn, "labels": ["brain"]}))
    _write(manifest.with_name("boxes.csv"), rows)


def session_of(manifest: Path, out: Path, recipe: Any, *, fabric: Any = None, **changes: Any) -> Session:
    """A session for one recipe. Where a folder ``prepared`` lies beside the manifest, sessions
    share their prepared images there."""
    if (shared := manifest.parent / "prepared").is_dir() and not (out / "cache").exists():
        out.mkdir(parents=True, exist_ok=True)
        (out / "cache").symlink_to(shared)
    name = recipe if isinstance(recipe, str) else next(iter(recipe))
    tree: dict[str, Any] = {
        "cohort": manifest.name,
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": NETWORK,
        "source": ["a", "d"],
        "target": ["b"],
        "target_labels": {"subjects": BUDGET},
        "recipes": [recipe],
        "test": {"fraction": 0.3, "val": 0.3},
        "seeds": 1,
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 2},
        **contract(name).study,
        **changes,
    }
    tree["cohort"] = str(manifest.parent / tree["cohort"])
    return Session(make_study(tree), out, None, fabric or local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)


def session_of_processes(manifest: Path, out: Path, name: str, fabric: Any = None) -> Session:
    """A session that one process and two run alike.

    Without dropout, whose masks differ between processes, and by SGD: Adam divides by the
    gradient's own size, so where a gradient is 0 but for rounding (a bias before a normalisation)
    its step has the size of the learning rate and the sign of the rounding.
    """
    stated = contract(name)
    study = {
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "group" if stated.averages else "batch"}},
        "optimizer": {"sgd": {"lr": 0.1}},
        **stated.processes_study,
    }
    return session_of(manifest, out, {name: {**stated.arguments, **stated.processes}}, fabric=fabric, **study)


@contextmanager
def statistics_of_images() -> Iterator[None]:
    """Inside, networks with ``norm: group`` have instance normalisations that keep statistics."""

    def with_statistics(whole: nn.Module) -> None:
        for parent in [*whole.modules()]:
            for name, child in parent.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    made = nn.InstanceNorm2d(child.num_features, affine=True, track_running_stats=True)
                    setattr(parent, name, made)

    with patch("allograft.networks.unet.group_normalised", with_statistics):
        yield


def request(name: str) -> dict[str, Any]:
    """The YAML tree of a method, made quick."""
    return {name: dict(contract(name).arguments)}


def leaves_weights_only(name: str) -> bool:
    """Whether a method is a pre-training: it needs images of a pool alone, and predicts nothing."""
    return total_needs(parse_recipe(request(name))).only_pool


def run(session: Session) -> tuple[World, Row, dict[str, Record]]:
    """Run the session's one recipe; its world, row and all records."""
    world = session.prepare()
    row = row_of(session, world)
    session.run(world, row, "1 of 1")
    return world, row, read_all(session.out)


def row_of(session: Session, world: World) -> Row:
    """The row of the session's one recipe."""
    return next(row for row in session.plan(world).rows if row.recipe == session.study.recipes[0])


def draws_of(session: Session, world: World) -> str:
    """What the row of the session's one recipe draws from."""
    row = row_of(session, world)
    return session.context(row.seed).draws(row.recipe, scenario_of(world, row), session.start(world, row.seed))


def told(records: dict[str, Record]) -> dict[str, Any]:
    """All of the records that must be the same bytes; costs are not."""
    return {
        name: (r.metrics, r.cases, r.status, r.error, r.ordinal, r.seen, r.labelled_subjects, r.data)
        for name, r in records.items()
    }
