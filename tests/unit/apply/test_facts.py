"""What a predictor says beside its answer reaches the table of predictions."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import write_photographs

from allograft.apply import predictions
from allograft.apply.model import Model
from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.tasks.classification import Classification


def sampled(batch: Batch) -> Any:
    """Two classes, and all that a prediction may say beside them."""
    bright = batch.image.flatten(1).mean(1)
    return {
        "label": torch.stack([bright, -bright], 1),
        "spread": bright.abs() + 0.25,
        "score": torch.full_like(bright, 2.0),
        "chosen": torch.ones(len(batch), dtype=torch.int64),
        "neighbours": tuple("a.png; b.png" for _ in batch.cases),
        "warnings": tuple("far from all that was seen" for _ in batch.cases),
    }


def test_spread_score_and_neighbours_are_columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_photographs(tmp_path / "images", {"a": 2})
    card = {
        "task": {"classification": {"classes": ["no", "yes"]}},
        "preprocessing": {"intensity": "unit"},
        "channels": 1,
    }
    model = Model(sampled, card, torch.device("cpu"))
    monkeypatch.setattr(predictions, "load", lambda folder, **_: model)
    images = [tmp_path / "images" / f"a{number}.png" for number in (0, 1)]
    predictions.write_predictions(tmp_path, images, tmp_path / "out")
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    facts = ["score", "spread", "chosen", "neighbours"]
    assert list(rows[0]) == ["image", "label", "no", "yes", *facts, "warnings"]
    for row in rows:
        assert row["neighbours"] == "a.png; b.png"
        assert row["warnings"] == "far from all that was seen"
        assert (row["score"], row["chosen"]) == ("2.0", "1")
        assert float(row["spread"]) > 0.25
    assert rows[0]["spread"] != rows[1]["spread"]


def test_a_class_cannot_have_the_name_of_a_column() -> None:
    with pytest.raises(SpecError, match="'spread' cannot be a class name"):
        Classification(("no", "spread"))
