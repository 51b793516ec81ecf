"""How to measure a missed class is a question to the judge: nothing is trained again for it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from tests.unit.tiny import write_photographs

from allograft import run_study
from allograft.results.record import read_all
from allograft.tasks.segmentation import Segmentation
from allograft.tree import plain


def test_the_option_is_no_part_of_a_unit() -> None:
    one, other = Segmentation(("vessel",)), Segmentation(("vessel",), missed="diagonal")
    assert plain(one) == plain(other)
    assert one == other


def test_another_measure_of_missed_classes_judges_again_and_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = write_photographs(tmp_path / "cohort", {"a": 4, "b": 4})

    def tree(**changes: Any) -> dict[str, Any]:
        return {
            "cohort": str(manifest),
            "task": {"segmentation": {"classes": {"square": [1], "nowhere": [9]}, **changes}},
            "network": {"unet": {"spatial_dims": 2, "channels": [2, 4]}},
            "source": ["a"],
            "target": ["b"],
            "recipes": [],
            "seeds": 1,
            "budget": {"steps": 2, "batch_size": 2},
            "augmentation": "none",
        }

    run_study(tree(), tmp_path / "out")
    before = read_all(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("allograft.step.GradientStep.__call__", lambda *_: pytest.fail("trained again"))
        run_study(tree(missed="diagonal"), tmp_path / "out")
    after = read_all(tmp_path / "out")
    assert after.keys() == before.keys()
    for name, record in after.items():
        for case, earlier in zip(record.measured, before[name].measured, strict=True):
            assert {key: value for key, value in case.items() if "diagonal" not in key} == earlier
            # 16 x 16 pixels; a class that is nowhere counts only where it was found
            found = [
                float(case[f"hd95_diagonal/{name}"])
                for name in ("square", "nowhere")
                if case[f"dice/{name}"] is not None
            ]
            assert case["hd95_diagonal"] == pytest.approx(sum(found) / len(found))
            for missed in ("square", "nowhere"):
                if case[f"dice/{missed}"] is not None and case[f"hd95/{missed}"] is None:
                    assert case[f"hd95_diagonal/{missed}"] == pytest.approx(512**0.5)
    with open(tmp_path / "out" / "metrics.csv", newline="") as file:
        names = {row["metric"] for row in csv.DictReader(file)}
    assert {"hd95", "hd95_diagonal", "asd_diagonal/square"} <= names
