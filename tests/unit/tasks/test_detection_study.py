"""Detection through a whole study: sites, do-nothing, AdaBN, fine-tuning and strong augmentation,
each judged against three readers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from allograft.adapt import adaptation
from allograft.methods.sissi import Sissi
from allograft.phantoms.cells import write_cells
from allograft.results.analysis.correction import FILE
from allograft.results.record import read_all
from allograft.studies import rebuild, run_study
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


def test_a_correction_is_compared_with_true_boxes_that_the_method_never_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sissi, "_begins", lambda self, curve: len(curve) == 1)  # which takes a longer training
    manifest = write_cells(tmp_path / "cells", sites={"a": "none", "b": "severe"}, subjects=5, size=48)
    keys = {
        "cohort": str(manifest),
        "task": {"detection": {"classes": ["cell"]}},
        "network": {"faster_rcnn": {"backbone": "tiny", "anchors": [8, 12, 16], "detections": 20}},
        "source": ["a"],
        "target": ["b"],
        "target_labels": "all",
        # whatever is found is kept: the correction is bad, and is there to be counted
        "recipes": [{"sissi": {"score": 0.0, "skip": 0.0, "most": 7}}],
        "baselines": False,
        "budget": {"steps": 1, "adapt_steps": 2, "batch_size": 2, "steps_per_epoch": 1},
        "seeds": 1,
    }
    result = run_study(make_study(keys), tmp_path / "out")
    assert not result.failed
    page = (tmp_path / "out" / "report.html").read_text()
    came, corrected = csv.DictReader((tmp_path / "out" / FILE).read_text().splitlines())
    rows = list(csv.DictReader(manifest.read_text().splitlines()))
    training = [row for row in rows if (row["site"], row["split"]) == ("b", "train")]
    drawn = [
        sum(len(json.loads((manifest.parent / row[column]).read_text())["boxes"]) for row in training)
        for column in ("boxes", "boxes_reader_true")
    ]
    assert [came["boxes"], float(came["count"]), float(came["reader_count"])] == ["that came", *drawn]
    # 40 % are missing; a tenth of its own length moves few boxes by more than half
    assert float(came["precision"]) > 0.8
    assert 0.35 < float(came["recall"]) < 0.8
    assert (corrected["boxes"], float(corrected["count"])) == ("corrected", 7.0 * len(training))
    assert corrected["images"] == corrected["subjects"] == "3"

    rebuild(tmp_path / "out", pictures=False)
    without = (tmp_path / "out" / "report.html").read_text()
    for text in (page, without):
        assert "Are the corrected boxes better?" in text
        assert "precision, reader_true" in text
        assert "the boxes trained on, against each reader" in text
        assert not any(Path(row["image"]).name in text for row in rows)
    assert "data:image/png" in page
    assert "data:image/png" not in without
