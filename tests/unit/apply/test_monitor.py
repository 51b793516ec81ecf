"""This month's images against those of the validation: what a page and a table say, and what
cannot be compared."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cli.conftest import Command
from tests.cli.conftest import allograft as allograft
from tests.unit.tiny import write_photographs

from allograft.apply.monitor import monitor
from allograft.errors import ModelError
from allograft.metrics.mahalanobis import TiedGaussian
from allograft.networks import build
from allograft.predictor import Direct, save_predictor
from allograft.predictor.card import read_card
from allograft.predictor.deployment import DISTANCE, Deployment, write_deployment
from allograft.report.monitor import _table
from allograft.results.drift import Drift

CARD: dict[str, Any] = {
    "task": {"segmentation": {"classes": ["vessel"]}},
    "preprocessing": {"intensity": "zscore", "orientation": None},
    "channels": 1,
    "slices": None,
    "sites": ["a"],
}
CALIBRATION = {
    "a": {
        "cases": 30,
        "answers": 900,
        "temperature": 1.5,
        "error_before": 0.12,
        "error_after": 0.03,
        "reliability": [
            {"confidence": 0.6, "accuracy": 0.5, "count": 10},
            {"confidence": 0.9, "accuracy": 0.8, "count": 20},
        ],
    }
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose validation had volumes about 100 and distances about 10."""
    folder = tmp_path / "model"
    spec = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}}
    save_predictor(Direct(build(spec)), folder, CARD)
    rng = np.random.default_rng(0)
    distances = sorted(rng.normal(10, 1, 30).tolist())
    facts = {
        "checksum": read_card(folder)["checksum"],
        "held_out": "validation cases of a",
        "calibration": CALIBRATION,
        "fairness": [
            {"attribute": "sex", "headline": "auroc",
             "groups": [{"name": "f", "subjects": 14, "cases": 14, "scores": {"auroc": 0.8125}}]}
        ],
        "reference": {"vessel": sorted(rng.normal(100, 5, 30).tolist()), DISTANCE: distances},
        "units": ["pixels"],
        "notes": [],
    }  # fmt: skip
    gaussian = TiedGaussian(torch.zeros(1, 4).double(), torch.eye(4).double())
    write_deployment(folder, Deployment(gaussian, torch.tensor(distances).double(), facts))
    return folder


def results(path: Path, volume: float, distance: float, *, unit: str = "pixels", seed: int = 1) -> Path:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "unit", "vessel", DISTANCE, "abstain", "warnings"])
        for number in range(30):
            far = rng.normal(distance, 1)
            writer.writerow(
                [f"ward-7/{seed}-{number}.png", unit, rng.normal(volume, 5), far, "yes" if far > 12.5 else "no", ""]
            )
        writer.writerow([f"ward-7/{seed}-broken.png", "", "", "", "", "failed: cannot be read"])
    return path


def test_what_changed_is_said_and_written(model: Path, tmp_path: Path, allograft: Command) -> None:
    now = results(tmp_path / "march" / "results.csv", 100, 15)
    answer = allograft("monitor", model, now, "-o", tmp_path / "out")
    assert answer.code == 0, answer.err
    assert "vessel: no difference is shown" in answer.out
    assert f"{DISTANCE}: larger than at validation" in answer.out
    assert "abstain: more images are beyond the threshold than at validation" in answer.out
    assert f"These images differ from those of the validation: in {DISTANCE}, abstain." in answer.out
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "out" / "monitor.csv").open())}
    assert {name: row["differs"] for name, row in rows.items()} == {
        "vessel": "False", DISTANCE: "True", "abstain": "True"
    }  # fmt: skip
    assert (rows["vessel"]["before"], rows["vessel"]["now"]) == ("30", "30")
    page = (tmp_path / "out" / "monitor.html").read_text()
    for text in (
        "These images differ",
        "1 image",
        "validation cases of a",
        "<h3>Groups of patients</h3>",
        "sex: f",
        "0.8125",
        "Research use only",
    ):
        assert text in page, text
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert "ward-7" not in page  # nobody is named


def test_the_same_kind_of_images_show_no_difference(model: Path, tmp_path: Path) -> None:
    months = [results(tmp_path / f"{seed}.csv", 100, 10, seed=seed) for seed in (3, 4)]
    found = monitor(model, months)
    assert found.sentence[0] == "No difference is shown"
    assert [one.now for one in found.drifts] == [60, 60, 60]
    assert found.failed == 2


def test_abstained_images_count(model: Path, tmp_path: Path) -> None:
    file = results(tmp_path / "results.csv", 100, 15)
    rows = list(csv.reader(file.open()))
    for row in rows[1:-1]:
        if row[4] == "yes":
            row[2], row[5] = "", f"abstained: {DISTANCE} 15 is above 12"
    with open(file, "w", newline="") as out:
        csv.writer(out).writerows(rows)
    found = {one.name: one for one in monitor(model, [file]).drifts}
    assert found[DISTANCE].now == found["abstain"].now == 30
    assert found["vessel"].now == sum(row[4] == "no" for row in rows[1:-1])


def test_what_cannot_be_compared_is_refused(model: Path, tmp_path: Path) -> None:
    now = results(tmp_path / "march.csv", 100, 10)
    (tmp_path / "copy.csv").write_bytes(now.read_bytes())
    with pytest.raises(ModelError, match=r"copy\.csv: the same rows as .*march\.csv; give each file once"):
        monitor(model, [now, tmp_path / "copy.csv"])
    with pytest.raises(ModelError, match="volumes in mm3, those of the validation are in pixels"):
        monitor(model, [results(tmp_path / "mm.csv", 100, 10, unit="mm3")])
    other = tmp_path / "other.csv"
    other.write_text("image,unit,lesion,warnings\na.png,pixels,3,\n")
    with pytest.raises(ModelError, match="lacks the column 'vessel'"):
        monitor(model, [other])
    (tmp_path / "bad.csv").write_text(f"image,unit,vessel,{DISTANCE},warnings\na.png,pixels,many,3,\n")
    with pytest.raises(ModelError, match="column 'vessel': could not convert"):
        monitor(model, [tmp_path / "bad.csv"])
    with pytest.raises(ModelError, match=r"nothing\.csv: no such file; expected the results.csv of predict"):
        monitor(model, [tmp_path / "nothing.csv"])
    (model / "deployment.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no numbers of its validation"):
        monitor(model, [now])


def test_predictions_of_the_model_can_be_monitored(model: Path, tmp_path: Path, allograft: Command) -> None:
    manifest = write_photographs(tmp_path / "cohort", {"b": 6})
    done = allograft("predict", model, manifest, "-o", tmp_path / "out", "--device", "cpu")
    assert done.code == 0, done.err
    assert "validated by sex, auroc: f 0.812 (14 subjects)" in done.out
    assert "validated at a on 30 cases: calibration error 0.120, 0.030 at temperature 1.50" in done.out
    found = monitor(model, [tmp_path / "out" / "results.csv"])
    assert {one.name: one.now for one in found.drifts} == {"vessel": 6, DISTANCE: 6, "abstain": 6}


def test_the_table_has_before_and_now_and_the_adjusted_p() -> None:
    drift = Drift("dice", 12, 30, 0.8, 0.6, 0.4, 0.3, p=0.01, adjusted=0.07)
    bare = Drift("entropy", 12, 30, p=0.01)
    rows = [[cell.text for cell in cells] for _, cells in _table([drift, bare]).rows]
    assert rows[0][1:] == ["0.8", "0.6", "0.4", "0.3", "0.070", "12, 30"]
    assert rows[1][1:] == ["–", "–", "–", "–", "0.010", "12, 30"]
