"""The script that makes the cohorts of red cells: which boxes train, and which test."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.cohort.manifest import read_manifest

SCRIPT = Path(__file__).parents[2] / "examples" / "bccd_cells.py"


def write_data(data: Path, name: str, rows: list[dict[str, str]], labels: list[str]) -> None:
    """A cohort whose images all have a box of each label."""
    (data / name).mkdir(parents=True)
    for number, row in enumerate(rows):
        Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(data / name / row["image"])
        tree = {"boxes": [[place, 0, place + 4, 4] for place, _ in enumerate(labels)], "labels": labels}
        (data / name / row["boxes"]).write_text(json.dumps(tree))
    write_rows(data / name / "manifest.csv", rows)


def test_training_smears_have_weak_boxes_and_test_smears_drawn_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("bccd_cells", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "TRAIN", 1)
    monkeypatch.setattr(script, "TEST", 1)

    def row(name: str, site: str) -> dict[str, str]:
        return {"image": f"{name}.png", "boxes": f"{name}.json", "subject": name, "site": site}

    write_data(tmp_path, "dsb2018", [row("one", "colour"), row("two", "fluo")], ["nucleus"])
    write_data(tmp_path, "he_nuclei", [row("three", "emory")], ["nucleus"])
    write_data(tmp_path, "bccd", [row(name, "bccd") for name in "cba"], ["wbc", "rbc", "rbc"])
    weak = tmp_path / "out" / "weak" / "boxes"
    weak.mkdir(parents=True)
    for name in "abc":
        (weak / f"{name}.json").write_text(json.dumps({"boxes": [[9, 9, 12, 12]], "labels": ["cell"]}))
    script.main(tmp_path, tmp_path / "out")

    def boxes(case: Any, column: str = "boxes") -> Any:
        tree = json.loads(case.labels[column].read_text())
        assert set(tree["labels"]) == {"cell"}
        return tree["boxes"]

    (nucleus,) = read_manifest(tmp_path / "out" / "dsb2018" / "manifest.csv")
    assert (nucleus.subject, nucleus.split, boxes(nucleus)) == ("one", None, [[0, 0, 4, 4]])
    first, second = read_manifest(tmp_path / "out" / "bccd" / "manifest.csv")
    drawn = [[1, 0, 5, 4], [2, 0, 6, 4]]  # no white cell
    assert (first.subject, first.split, boxes(first)) == ("a", "train", [[9, 9, 12, 12]])
    assert boxes(first, "boxes_reader_true") == drawn
    assert (second.subject, second.split, boxes(second)) == ("b", "test", drawn)
    assert second.further_readers == {}
    assert sum(1 for _ in csv.DictReader((tmp_path / "out" / "he_nuclei" / "manifest.csv").open())) == 1
