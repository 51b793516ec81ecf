"""A tiny study on phantoms that every method of the table can run in a second or two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from allograft.phantoms.brain import write_brain
from allograft.phantoms.histology import write_histology
from allograft.results.record import Record, read_all
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.plan import Row
from allograft.study.spec import make_study
from allograft.study.world import World
from allograft.table import rows

SMALL: dict[str, dict[str, Any]] = {
    # method -> arguments that make it quick; a method that is not named runs with its defaults
    "fourier": {"beta": 0.1, "donors": 2},
    "unlearning": {"attributes": ["scanner"]},
    "catenorm": {"warmup": 0.34},
    "adabn": {"first": "start"},  # two processes normalise by batches of half the size
    "stain_aglr": {"regeneration": 0.001},  # the decoder, too, normalises by batches of half the size
    "stain_normalisation": {"method": "macenko"},
}
PATCHES: dict[str, Any] = {
    "task": {"classification": {"classes": ["small", "large"]}},
    "preprocessing": {"intensity": "unit"},
}
STUDY: dict[str, dict[str, Any]] = {
    # method -> what it asks of the study
    "adabn": {"network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}},
    "dsbn": {"network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}},
    "msnet": {"network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}},
    "stain_aglr": PATCHES,
    "stain_normalisation": PATCHES,
}
MOMENTUM = {"octl"}  # methods that go on from an optimizer's history, which SGD has with momentum only
METHODS = sorted(rows("method"))


def write_cohort(folder: Path) -> Path:
    """Two sites of four subjects, 32 px. Those of "a" have two images each, from two scanners, for methods that need an attribute."""
    manifest = write_brain(folder, sites={"a": "none", "b": "severe", "c": "none"}, subjects=4, size=32)
    header, *lines = manifest.read_text().splitlines()
    told = [f"{line},one" for line in lines if not line.endswith(",c")]
    told += [f"{line.removesuffix(',c').replace(',c-', ',a-')},a,two" for line in lines if line.endswith(",c")]
    manifest.write_text("\n".join([f"{header},scanner", *told, ""]))
    write_histology(folder / "patches", sites={"a": "none", "b": "severe"}, subjects=4, size=32)  # for methods of H&E
    return manifest


def session_of(manifest: Path, out: Path, recipe: Any, *, fabric: Any = None, **changes: Any) -> Session:
    """A session for one recipe."""
    name = recipe if isinstance(recipe, str) else next(iter(recipe))
    tree: dict[str, Any] = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"channels": [4, 8], "num_res_units": 1}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": {"subjects": 2},
        "recipes": [recipe],
        "test": {"fraction": 0.5, "val": 0.5},
        "seeds": 1,
        "budget": {"steps": 3, "adapt_steps": 3, "batch_size": 2},
        **STUDY.get(name, {}),
        **changes,
    }
    if STUDY.get(name) is PATCHES:
        tree["cohort"] = str(manifest.parent / "patches" / "manifest.csv")
    if name in MOMENTUM and "sgd" in tree.get("optimizer", {}):
        tree["optimizer"] = {"sgd": {"momentum": 0.9, **tree["optimizer"]["sgd"]}}
    return Session(
        make_study(tree),
        out,
        None,
        fabric or local_fabric(accelerator="cpu"),
        0,
        changes.pop("checkpoint_seconds", 60.0),
        lambda line: None,
    )


def request(name: str) -> dict[str, Any]:
    """The YAML tree of a method, made quick."""
    return {name: SMALL.get(name, {})}


def run(session: Session) -> tuple[World, Row, dict[str, Record]]:
    """Run the session's one recipe; its world, row and all records."""
    world = session.prepare()
    recipe = session.study.recipes[0]
    row = next(row for row in session.plan(world).rows if row.recipe == recipe)
    session.run(world, row, "1 of 1")
    return world, row, read_all(session.out)


def told(records: dict[str, Record]) -> dict[str, Any]:
    """All of the records that must be the same bytes; costs are not."""
    return {name: (r.metrics, r.cases, r.status, r.error, r.ordinal, r.seen, r.labelled_subjects, r.data) for name, r in records.items()}
