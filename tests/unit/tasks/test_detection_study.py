"""Detection through a whole study: sites, do-nothing, AdaBN, fine-tuning and strong augmentation,
each judged against three readers."""

from __future__ import annotations

from pathlib import Path

from allograft.adapt import adaptation
from allograft.phantoms.cells import write_cells
from allograft.results.record import read_all
from allograft.studies import run_study
from allograft.study.reading import make_study

METRICS = [f"{name}{reader}" for reader in ("", "/reader2", "/reader3") for name in ("ap50", "ap75", "ap", "ar")]


def test_boxes_are_adapted_as_masks_are_and_judged_by_each_reader(tmp_path: Path) -> None:
    manifest = write_cells(tmp_path / "cells", sites={"a": "none", "d": "severe"}, subjects=10, size=48)
    keys = {
        "cohort": str(manifest),
        "task": {"detection": {"classes": ["cell"]}},
        "network": {"faster_rcnn": {"backbone": "tiny", "anchors": [8, 12, 16], "detections": 20}},
        "source": ["a"],
        "target": ["d"],
        "target_labels": {"subjects": 2},
        "recipes": ["adabn", "finetune", {"supervised": {"augmentation": "strong"}}],
        "baselines": False,
        "budget": {"steps": 3, "adapt_steps": 2, "batch_size": 2},
        "seeds": 1,
    }
    run_study(make_study(keys), tmp_path / "out")
    records = [one for one in read_all(tmp_path / "out").values() if one.part == "test"]
    titles = {str(one.recipe["title"]) for one in records}
    assert titles == {"supervised", "adabn", "finetune", "supervised augmentation=strong"}
    for record in records:
        assert record.status == "done"
        assert sorted(record.metrics) == sorted(METRICS)
        assert len(record.cases) == 2  # one subject in five tests
    again = adaptation(tmp_path / "out" / "models" / "supervised@d", manifest, "finetune")
    assert again.target_labels == "all"
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Against each reader" in page
    assert "ap75, reader3" in page
    assert "Results by class" not in page
    assert page.count("data:image/png") >= 3  # the boxes found, drawn over their images
    lines = (tmp_path / "out" / "metrics.csv").read_text().splitlines()
    assert sum(",ar/reader2," in line for line in lines) == 2 * len(titles)
