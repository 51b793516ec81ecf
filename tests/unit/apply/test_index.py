"""The database of a model that retrieves: the card keeps every image that was ever learned from or added."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.unit.methods.test_mris import manifest as manifest
from tests.unit.methods.test_mris import model as model
from tests.unit.tiny import write_rows

from allograft.apply.index import add_to_index, recall_of, remove_from_index
from allograft.cohort.prepared_images import file_hash


def test_added_images_join_those_of_the_training_and_a_removal_takes_none_away(model: Path, manifest: Path) -> None:
    card = json.loads((model / "card.json").read_text())
    (model / "card.json").write_text(json.dumps({**card, "training_images": ["0-old", "z-old"]}))
    rows = [row for row in csv.DictReader(manifest.read_text().splitlines()) if row["subject"] == "a-004"][:3]
    listed = write_rows(manifest.parent / "some.csv", rows)
    changed = add_to_index(model, listed, device="cpu")
    assert (changed.changed, changed.total, changed.unmatched) == (3, 15, ())
    new = {file_hash(manifest.parent / row["image"]) for row in rows}
    wanted = sorted({"0-old", "z-old", *new})
    assert json.loads((model / "card.json").read_text())["training_images"] == wanted
    changed = remove_from_index(model, "a-004")
    assert (changed.changed, changed.total) == (3, 12)
    assert json.loads((model / "card.json").read_text())["training_images"] == wanted


def test_every_column_that_is_named_must_fit(model: Path, manifest: Path) -> None:
    rows = [row for row in csv.DictReader(manifest.read_text().splitlines()) if row["subject"] > "a-001"]
    listed = write_rows(manifest.parent / "others.csv", rows)

    def pairs(**where: str) -> int:
        return recall_of(model, listed, where=where, device="cpu").pairs

    assert (pairs(), pairs(timepoint="0"), pairs(side="left")) == (18, 6, 9)
    assert pairs(timepoint="0", side="left") == 3
