"""What every phantom draws at every site is pinned: turned by a quarter it would still look like
one.

``python -m tests.unit.phantoms.test_pinned`` writes ``pinned.json`` again. A changed line means
other images for those who draw the phantom; CHANGELOG.md then says so.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.numbers import Summary, agrees, pinned, summary

from allograft import table
from allograft.phantoms.box_noise import BoxNoise

KEPT = Path(__file__).with_name("pinned.json")
MORE: dict[str, dict[str, Any]] = {
    "brain, volumes": {"dims": 3},
    "brain, sulcus": {"structure": "sulcus"},
    "cells": {"subjects": 5, "noise": {"severe": BoxNoise(drop=0.3, jitter=0.2, merge=0.3, invent=0.5)}},
    "skin": {"subjects": 3, "confounding": 0.5, "hairy": 0.5},
    "organs": {"dims": 3},
}
"""Phantom, and a word on it -> its arguments."""
PHANTOMS = sorted({*(name for name, row in table.PHANTOMS.items() if row.startswith("allograft.")), *MORE})


def drawn(phantom: str) -> dict[str, dict[str, Summary]]:
    """Site -> column of the manifest -> summary of two subjects'; a site for every shift."""
    write = table.find("phantom", phantom.partition(",")[0])
    module = import_module(write.__module__)
    shifts = getattr(module, "SHIFTS", None) or module.SITES.values()
    sites = {shift.replace(" ", "-"): shift for shift in dict.fromkeys(shifts)}
    with tempfile.TemporaryDirectory() as folder:
        manifest = write(
            Path(folder), **{"sites": sites, "subjects": 2, "size": 32, "seed": 3, **MORE.get(phantom, {})}
        )
        rows = list(csv.DictReader(manifest.read_text(encoding="utf-8").splitlines()))
        read = {(row["site"], column): [] for row in rows for column in row}  # type: ignore[var-annotated]
        for row in rows:
            for column, text in row.items():
                read[row["site"], column] += _read(Path(folder), text)
    made: dict[str, dict[str, Summary]] = {site: {} for site in sites}
    for (site, column), values in read.items():
        if values:
            made[site][column] = summary(values)
    return made


def _read(folder: Path, text: str) -> list[Any]:
    """An image, boxes or a number; of another text nothing."""
    if text.endswith(".json"):
        return [json.loads((folder / text).read_text())["boxes"]]
    if text.endswith(".nii.gz"):
        return [torch.from_numpy(np.asarray(nibabel.load(folder / text).dataobj, np.float64))]  # type: ignore[attr-defined]
    if text and (folder / text).is_file():
        return [torch.from_numpy(np.asarray(Image.open(folder / text), np.float64))]
    try:
        return [float(text)]
    except ValueError:
        return []


@pytest.mark.parametrize("phantom", PHANTOMS)
def test_a_phantom_is_drawn_as_pinned(phantom: str) -> None:
    kept: Mapping[str, Mapping[str, Summary]] = json.loads(KEPT.read_text())[phantom]
    made = drawn(phantom)
    assert {site: set(each) for site, each in kept.items()} == {site: set(each) for site, each in made.items()}
    differ = [
        f"{site}: {column}"
        for site, each in kept.items()
        for column, value in each.items()
        if not agrees(made[site][column], value)
    ]
    assert not differ, "if it should be so: python -m tests.unit.phantoms.test_pinned, and a word in CHANGELOG.md"


if __name__ == "__main__":
    kept = {
        phantom: {
            site: {column: pinned(value, value) for column, value in each.items()}
            for site, each in drawn(phantom).items()
        }
        for phantom in PHANTOMS
    }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in kept.items())
    KEPT.write_text("{\n" + lines + "\n}\n")
