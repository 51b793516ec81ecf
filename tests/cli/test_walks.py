"""Walks that a user takes: no labels at the target, labels later, a model without its source, a
recipe that raises, odd orientations."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from allograft.adapt import adapt_model
from allograft.apply import load
from allograft.apply.evaluate import evaluate
from allograft.errors import ModelError
from allograft.phantoms.brain import write_brain
from allograft.results.comparison import compare
from allograft.run.closing import Result
from allograft.studies import run_study
from allograft.study import read_study

STUDY = """
cohort: {cohort}
task: {{segmentation: {{classes: [white, grey]}}}}
network: {{unet: {{channels: [4, 8], num_res_units: 1}}}}
source: [a]
target: [b]
recipes: [{{fourier: {{beta: 0.1, donors: 2}}}}]
test: {{fraction: 0.5, val: 0.25}}
seeds: 1
budget: {{steps: 4, adapt_steps: 3, batch_size: 2}}
"""


def without_masks(manifest: Path, site: str, keep: int = 0) -> Path:
    """A manifest beside another one, in which all but ``keep`` subjects of a site have no mask."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    subjects = sorted({row["subject"] for row in rows if row["site"] == site})
    hidden = set(subjects[keep:])
    path = manifest.with_name("some.csv")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "mask": "" if row["subject"] in hidden else row["mask"]} for row in rows)
    return path


def study(folder: Path, manifest: Path, **changes: Any) -> Result:
    file = folder / "study.yaml"
    file.write_text(STUDY.format(cohort=manifest))
    return run_study(read_study(file, [f"{key}={json.dumps(value)}" for key, value in changes.items()]), folder / "out")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_brain(tmp_path_factory.mktemp("cohort"), sites={"a": "none", "b": "severe"}, subjects=8, size=32)


def test_a_target_without_labels_then_some(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = study(tmp_path, without_masks(cohort, "b"))
    assert all(line.score("b") is None for line in first.lines)
    assert not any(line.chosen for line in first.lines)
    assert first.standing.verdicts["b"].action == "not-measured"
    assert set(first.models) == {(line.title, "b") for line in first.lines}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not measured" in page
    assert "dice at b, no labels: estimated" in page
    assert page.count("error unknown") == 3
    assert page.count(">The site in the features<") == 1
    judged = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*-b-test.json")]
    assert judged
    for record in judged:
        assert set(record["metrics"]) == {"label-free/entropy"}
        assert all(set(case["calibration"]) == {"found", "overlap", "total"} for case in record["cases"])
        assert 0 < record["metrics"]["label-free/entropy"] < 1
    splits = (tmp_path / "out" / "splits.csv").read_text()

    steps = 0
    from allograft.step import GradientStep

    real = GradientStep.__call__

    def counted(self: GradientStep, batch: Any) -> Any:
        nonlocal steps
        steps += 1
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", counted)
    again = study(tmp_path, without_masks(cohort, "b", keep=5))
    assert steps == 0  # five masks more: the source training is reused, and judged anew
    assert (tmp_path / "out" / "splits.csv").read_text() == splits
    measured = [line for line in again.lines if line.score("b") is not None]
    assert len(measured) == len(again.lines)


def test_source_free_from_a_model_folder(cohort: Path, tmp_path: Path) -> None:
    made = study(tmp_path, cohort)
    model = made.models["supervised", "b"]
    other = write_brain(tmp_path / "third", sites={"c": "medium"}, subjects=6, size=32, seed=7)
    changes = {"budget": {"steps": 3, "adapt_steps": 3, "batch_size": 2}}
    adapted = adapt_model(
        model, other, "finetune", tmp_path / "adapted", compare=True, overrides=changes, say=lambda line: None
    )
    assert next(line.title for line in adapted.lines) == "start"
    assert not adapted.failed
    (folder,) = {path for (name, _), path in adapted.models.items() if name.startswith("finetune")}
    assert load(folder).card["target"] == "c"

    found = evaluate(model, other)
    assert set(found.metrics) == {"c"}
    with pytest.raises(ModelError, match="was trained on"):
        evaluate(model, cohort)


def test_source_free_from_a_plain_state_dict_of_monai(cohort: Path, tmp_path: Path) -> None:
    weights = tmp_path / "theirs.pt"
    theirs = UNet(
        spatial_dims=2, in_channels=1, out_channels=3, channels=(4, 8), strides=(2,), num_res_units=1, norm="instance"
    )
    torch.save(theirs.state_dict(), weights)
    file = tmp_path / "study.yaml"
    file.write_text(
        STUDY.format(cohort=cohort)
        .replace("source: [a]", "source: []")
        .replace("recipes: [", "recipes: [finetune, l2sp] #")
    )
    changes = [f"start={weights}", "target_labels={subjects: 2}"]
    made = run_study(read_study(file, changes), tmp_path / "out")
    by_title = {line.title: line for line in made.lines}
    assert list(by_title) == ["start", "target_supervised", "finetune first=start", "l2sp first=start"]
    assert not made.failed

    started = load(made.models["start", "b"]).card["start"]
    assert len(started["matched"]) == len(theirs.state_dict())
    assert not started["missing"]
    assert not started["skipped"]
    assert set(compare(made.lines, made.plan, "b")) == {"target_supervised", "finetune first=start", "l2sp first=start"}


def test_masks_of_another_tool_are_judged(cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "found").mkdir()
    for mask in (cohort.parent / "masks").iterdir():
        (tmp_path / "found" / mask.name).write_bytes(mask.read_bytes())
    found = evaluate(tmp_path / "found", cohort, task={"segmentation": {"classes": ["white", "grey"]}})
    assert {site: metrics["dice"] for site, metrics in found.metrics.items()} == {"a": 1.0, "b": 1.0}


def test_one_recipe_raises_and_the_rest_stands(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from allograft.methods.fourier import Fourier

    def broken(self: Fourier, scenario: Any, network: Any, context: Any) -> Iterator[Any]:
        raise RuntimeError("planted")
        yield

    monkeypatch.setattr(Fourier, "run", broken)
    made = study(tmp_path, cohort)
    by_title = {line.title: line for line in made.lines}
    assert by_title["fourier beta=0.1 donors=2"].done == 0
    assert "planted" in by_title["fourier beta=0.1 donors=2"].runs[0].error
    assert by_title["supervised"].score("b") is not None
    assert "planted" in (tmp_path / "out" / "report.html").read_text()


def test_shuffled_orientations_overlay_their_originals(tmp_path: Path) -> None:
    """The same volumes stored along other axes: masks come back on each volume's own grid, and say
    the same."""
    manifest = write_brain(tmp_path / "cohort", dims=3, sites={"a": "none", "b": "none"}, subjects=4, size=32)
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["white", "grey"]}},
        "network": {"unet": {"spatial_dims": 3, "channels": [4, 8], "num_res_units": 1}},
        "preprocessing": {"orientation": "RAS", "spacing": [2.0, 2.0, 2.0], "size": [16, 16, 16]},
        "source": ["a"],
        "target": ["b"],
        "recipes": ["supervised"],
        "test": {"fraction": 0.25, "val": 0.0},
        "seeds": 1,
        "budget": {"steps": 20, "batch_size": 2},
    }
    model = load(run_study(tree, tmp_path / "out").models["supervised", "b"])
    original = next((manifest.parent / "images").iterdir())
    image = nib.load(original)
    (straight,) = model.predict(original)
    codes = nib.orientations.axcodes2ornt(("I", "P", "R"))
    turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), codes))
    nib.save(turned, tmp_path / "turned.nii.gz")
    (found,) = model.predict(tmp_path / "turned.nii.gz")
    assert tuple(found.answer.mask.shape) == turned.shape
    there = nib.Nifti1Image(found.answer.mask.numpy().astype(np.uint8), turned.affine)
    back = there.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(turned.affine), nib.io_orientation(image.affine))
    )
    assert np.array_equal(np.asarray(back.dataobj), straight.answer.mask.numpy())
    assert straight.answer.mask.any()
