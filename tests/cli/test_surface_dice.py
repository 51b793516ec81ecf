"""``task: {segmentation: {surface_dice: 1.0}}`` through a study: records, table, and what is done
again when the tolerance changes."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tests.cli.conftest import Command, write_study

from allograft.phantoms.brain import write_brain

FEW = ("--set", "recipes=[supervised]", "--set", "baselines=false", "--set", "target_labels=none")
TASK = "task={{segmentation: {{classes: [white, grey], surface_dice: {}}}}}"


def shown(out: Path) -> dict[str, float]:
    with open(out / "metrics.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == "b"]
    return {row["metric"]: float(row["mean"]) for row in rows if row["mean"]}


def test_from_the_judge_to_the_table(tmp_path: Path, allograft: Command) -> None:
    write_brain(tmp_path, dims=3, subjects=4, size=32, sites={"a": "none", "b": "severe"})
    study, out = write_study(tmp_path, "manifest.csv"), tmp_path / "out"
    found = {}
    for tolerance in ("null", "1.0"):
        done = allograft("study", study, "-o", out, *FEW, "--set", TASK.format(tolerance))
        assert done.code == 0, done.err
        found[tolerance] = shown(out)
        assert len(list((out / "units").iterdir())) == 1  # nothing is trained again
    assert not any("surface" in metric for metric in found["null"])
    near = found["1.0"]
    assert 0 < near["surface_dice"] < 1
    assert {key: near[key] for key in found["null"]} == found["null"]
    assert "surface_dice" in (out / "report.html").read_text()
    record = json.loads(next((out / "records").glob("*test*.json")).read_text())
    assert {"surface_dice", "surface_dice/white", "surface_dice/grey"} <= record["metrics"].keys()


def test_photographs_are_refused_before_anything_is_trained(tmp_path: Path, allograft: Command) -> None:
    write_brain(tmp_path, dims=2, subjects=4, size=32, sites={"a": "none", "b": "severe"})
    done = allograft("study", write_study(tmp_path), "-o", tmp_path / "out", *FEW, "--set", TASK.format("1.0"))
    assert done.code == 2
    assert "found pixels without a size in mm" in done.err
    assert not (tmp_path / "out" / "records").exists()
    done = allograft("study", write_study(tmp_path), "-o", tmp_path / "out", *FEW, "--set", TASK.format("0"))
    assert (done.code, "expected a tolerance in mm above 0" in done.err) == (2, True)
