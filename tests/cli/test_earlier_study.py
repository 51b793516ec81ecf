"""A study folder that an earlier version wrote is reported, and its models predict what they
predicted then."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Command

KEPT = Path(__file__).with_name("kept") / "study-0.1.0.zip"
"""``cohort``, ``out`` (a study on phantom brains at commit 81753c7, with records of schema 1) and
``masks``, which that version predicted with two of its models."""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("earlier")
    with zipfile.ZipFile(KEPT) as archive:
        archive.extractall(folder)
    study = folder / "out" / "study.json"
    study.write_text(study.read_text().replace("cohort/manifest.csv", str(folder / "cohort" / "manifest.csv")))
    return folder


@pytest.mark.parametrize("model", ["finetune", "fourier-beta-0.1"])
def test_its_models_predict_the_same_masks(model: str, earlier: Path, allograft: Command, tmp_path: Path) -> None:
    model_folder, images = earlier / "out" / "models" / f"{model}@b", earlier / "cohort" / "images"
    done = allograft("predict", str(model_folder), str(images), "-o", str(tmp_path / "masks"))
    assert done.code == 0, done.err
    expected = sorted((earlier / "masks" / model).glob("*.png"))
    assert len(expected) == 12
    for mask in expected:
        differ = np.asarray(Image.open(tmp_path / "masks" / mask.name)) != np.asarray(Image.open(mask))
        assert differ.sum() <= 2  # of 1,024 pixels: processors round differently


def test_its_scores_are_reported_as_they_were(earlier: Path, allograft: Command) -> None:
    def means() -> dict[tuple[str, ...], float]:
        with (earlier / "out" / "results.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        return {tuple(row[key] for key in ("recipe", "target", "site")): float(row["mean"]) for row in rows}

    before = means()
    done = allograft("report", str(earlier / "out"))
    assert done.code == 0, done.err
    assert "fourier beta=0.1" in (earlier / "out" / "report.html").read_text()
    assert means() == pytest.approx(before, rel=1e-12)
