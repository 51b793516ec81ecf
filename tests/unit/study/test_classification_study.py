"""Classification end to end: a study on tiny images, its records, report and models, and a saved
model that predicts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.apply import load
from allograft.apply.predictions import write_predictions
from allograft.results.record import read_all, read_records
from allograft.results.table import print_tables
from allograft.studies import run_study
from allograft.study import read_study

CLASSES = ("dark", "bright")
SAID: list[str] = []
"""What the study of the fixture said."""


def write_blobs(folder: Path, sites: dict[str, float], subjects: int = 8) -> Path:
    """One image a subject: noise, and in every second one a bright disc; a site adds its own
    offset. The last site has one class only."""
    folder.mkdir(parents=True)
    rows = []
    for site, offset in sites.items():
        for number in range(subjects):
            bright = number % 2 if site != list(sites)[-1] else 1
            rng = np.random.default_rng([len(rows), 3])
            image = rng.normal(60 + offset, 12, (12, 12))
            image[4:9, 4:9] += 70 * bright
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(folder / f"{site}{number}.png")
            rows.append(
                {"image": f"{site}{number}.png", "label": CLASSES[bright], "subject": f"{site}{number}", "site": site}
            )
    return write_rows(folder / "manifest.csv", rows)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Any]:
    folder = tmp_path_factory.mktemp("blobs")
    manifest = write_blobs(folder / "cohort", {"a": 0.0, "b": 40.0, "c": 20.0})
    tree = {
        "cohort": str(manifest),
        "task": {"classification": {"classes": list(CLASSES)}},
        "network": {"vit": {"image_size": 12, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}},
        "source": ["a"],
        "target": ["b", "c"],
        "target_labels": {"subjects": 2},
        "recipes": [{"finetune": {"scope": "decoder"}}, "l2sp"],
        "test": {"fraction": 0.5, "val": 0.3},
        "seeds": 1,
        "budget": {"steps": 40, "adapt_steps": 4, "batch_size": 4},
        "optimizer": {"adam": {"lr": 0.01}},
        "augmentation": "none",
    }
    with pytest.MonkeyPatch.context() as patch:  # thousands of draws a row, tested elsewhere
        patch.setattr("allograft.results.scores.bootstrap_pooled", lambda *arguments, **options: {})
        result = run_study(tree, folder / "out", say=SAID.append)
    return manifest, folder / "out", result


def test_records_hold_labels_and_probabilities(done: tuple[Path, Path, Any]) -> None:
    _, out, result = done
    assert result.failed == 0
    records = read_all(out)
    assert records
    for record in records.values():
        if record.part == "train-unlabelled":  # training images of a target, judged without labels
            assert not record.measured
            continue
        assert all(len(case["probabilities"]) == 2 and case["label"] in (0, 1) for case in record.cases)
        told = {key: value for key, value in record.metrics.items() if not key.startswith("label-free/")}
        assert result.plan.task.aggregate(record.cases) == told
        assert (record.metrics["auroc"] is None) == (len({case["label"] for case in record.cases}) < 2)
        assert record.metrics["auroc"] is None or record.site != "c"
        assert record.metrics["accuracy"] is not None
    assert {"metrics/auroc", "metrics/accuracy", "metrics/ece"} <= set(read_records(out).columns)
    line = next(line for line in result.lines if line.title == "supervised" and line.target == "b")
    assert line.score("a") is not None
    assert line.score("a") > 0.9  # type: ignore[operator]


def test_the_report_says_undefined(done: tuple[Path, Path, Any]) -> None:
    page = (done[1] / "report.html").read_text()
    assert "balanced_accuracy" in page
    assert "undefined" in page
    assert "auroc is undefined on these test subjects" in page
    assert "no test subject has labels" not in page


def test_the_table_says_undefined_where_one_class_was_judged(
    done: tuple[Path, Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_tables(done[2].study, done[2].plan, done[2].lines)
    told = capsys.readouterr().out
    assert "undefined" in told
    note = "auroc is undefined on the test cases of c, which are all 'bright': nothing is ranked."
    assert told.count(note) == 1
    assert "undefined on the test cases of b" not in told
    assert "not measured" not in told


def test_a_test_set_of_one_class_is_named_before_anything_is_trained(done: tuple[Path, Path, Any]) -> None:
    (told,) = (number for number, line in enumerate(SAID) if "auroc is undefined" in line)
    assert SAID[told] == (
        "warning: target 'c': every labelled test case is 'bright', so auroc is undefined and no row is ranked there; "
        "add test subjects of another class"
    )
    assert told < next(number for number, line in enumerate(SAID) if line.startswith("[1 of"))


def test_a_kept_model_predicts_what_was_judged(done: tuple[Path, Path, Any], tmp_path: Path) -> None:
    manifest, _, result = done
    folder = result.models["l2sp", "b"]
    run = next(line for line in result.lines if (line.title, line.target) == ("l2sp", "b")).runs[0]
    judged = {case["case"]: case["probabilities"] for record in run.tests["b"] for case in record.cases}
    assert write_predictions(folder, [manifest], tmp_path / "p", overlay=True, probabilities=True) == 24
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["results.csv"]  # no pictures
    with open(tmp_path / "p" / "results.csv", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == ["image", "label", "dark", "bright", "ood_distance", "warnings"]
    for name, probabilities in judged.items():
        assert [float(rows[name][one]) for one in CLASSES] == pytest.approx(probabilities, abs=1e-6)
        assert rows[name]["label"] == CLASSES[int(np.argmax(probabilities))]
    (one,) = load(folder).predict(manifest.parent / "b0.png")
    assert one.answer.mask is None
    assert sum(float(one.answer.values[name]) for name in CLASSES) == pytest.approx(1)


def test_saved_is_live(done: tuple[Path, Path, Any]) -> None:
    from allograft.batch import Batch
    from allograft.predictor import Direct, load_predictor, save_predictor

    folder = done[2].models["supervised", "b"]
    predictor, _ = load_predictor(folder)
    batch = Batch(torch.randn(3, 1, 12, 12), torch.full((3,), -1), ("a", "b", "c"))
    live = predictor(batch)["label"]
    save_predictor(Direct(predictor.network), folder.parent / "again", {})
    assert torch.equal(load_predictor(folder.parent / "again")[0](batch)["label"], live)
    torch.testing.assert_close(predictor(batch[1:2])["label"], live[1:2])


@pytest.mark.parametrize(("name", "classes"), [("pneumonia", 2), ("chest_xray", 3)])
def test_the_examples_are_read(name: str, classes: int) -> None:
    study = read_study(Path(__file__).parents[3] / "examples" / f"{name}.yaml")
    assert study.made_task.outputs == {"label": classes}
    assert len(study.rows) >= 7
