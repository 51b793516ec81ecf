from __future__ import annotations

import csv
from pathlib import Path

from tests.faults.world import study_of

from allograft.phantoms.brain import write_brain
from allograft.run.fabric import local_fabric
from allograft.studies import run_study


def test_the_sites_of_another_study_in_the_folder_are_in_no_table(tmp_path: Path) -> None:
    """Both use one source model, which is judged at the sites of each."""
    sites = {"a": "none", "b": "severe", "c": "medium"}
    study = study_of(write_brain(tmp_path / "cohort", sites=sites, subjects=2, size=32)) | {"recipes": []}
    out, fabric = tmp_path / "out", local_fabric(accelerator="cpu")
    run_study(study | {"target": ["b"]}, out, fabric=fabric, report=False)
    result = run_study(study | {"target": ["c"]}, out, fabric=fabric, report=False)
    for name in ("results.csv", "metrics.csv"):
        with open(out / name, newline="", encoding="utf-8") as file:
            assert {row["site"] for row in csv.DictReader(file)} == {"a", "c"}
    assert {line.worst[0] for line in result.lines if line.worst} <= {"a", "c"}
