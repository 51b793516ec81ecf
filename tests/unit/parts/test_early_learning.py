"""The score against noisy boxes over all target cohorts, and the figure of its curve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.tiny import a_context, write_photographs, write_rows
from torch import nn

from allograft.batch import Boxes
from allograft.cohort import Cohort
from allograft.parts.early_learning import early_learning_figure, fit_early_learning, noisy_ap50
from allograft.tasks.detection import Detection


class Finding(nn.Module):
    """Finds the same boxes in every image, of which the more certain one is nowhere."""

    multiple = 1

    def forward(self, image: torch.Tensor) -> dict[str, Any]:
        xyxy = torch.tensor([[30.0, 40, 60, 60], [4.0, 4, 24, 20]])
        return {"boxes": (Boxes(xyxy, torch.ones(2).long(), torch.tensor([0.9, 0.6])),) * len(image)}


def boxed(folder: Path, boxes: dict[str, list[list[int]]]) -> Cohort:
    manifest = write_photographs(folder, {"a": 1, "b": 2}, size=(64, 64))
    rows = []
    for name, own in boxes.items():
        (folder / f"{name}.json").write_text(json.dumps({"boxes": own, "labels": ["cell"] * len(own)}))
        rows.append({"image": f"{name}.png", "boxes": f"{name}.json", "subject": name, "site": name[0]})
    return Cohort.read(write_rows(manifest, rows), Detection(("cell",)).coding)


def test_the_score_is_ap50_over_all_images_of_all_cohorts(tmp_path: Path) -> None:
    cohort = boxed(tmp_path, {"a0": [[4, 4, 24, 16]], "b0": [[30, 4, 60, 20], [4, 4, 24, 20]], "b1": []})
    sites = [cohort.site("a"), cohort.site("b")]
    network: Any = Finding()
    # overlaps of 0.75, 0 and 1: two of three true boxes, each behind three that are nowhere
    assert noisy_ap50(network, sites, a_context()) == pytest.approx(67 / 101 * 2 / 5)
    assert noisy_ap50(network, sites[:1], a_context()) == pytest.approx(0.5)
    nothing = [cohort.where(lambda case: case.name == "b1.png")]
    assert noisy_ap50(network, nothing, a_context()) == 0.0


def test_the_figure_shows_curve_and_fit_by_epoch_from_1_and_where_correction_starts() -> None:
    figure = early_learning_figure("AP50", [0.4, 0.2, 0.5], 2, (0.8, 0.5, 2.0))
    assert figure.x == (1.0, 2.0, 3.0)
    assert figure.y["AP50"] == (0.4, 0.2, 0.5)
    assert figure.y["fitted"] == pytest.approx([0.8 * (1 - np.exp(-(epoch**0.5) / 2)) for epoch in (1, 2, 3)])
    assert figure.title == "early learning; correction starts after epoch 2"
    never = early_learning_figure("loss", [0.4, 0.2], None, None)
    assert never.title == "early learning; correction never starts"
    assert set(never.y) == {"loss"}


def test_three_epochs_are_fitted_with_the_last_counting_most_and_a_and_b_up_to_1() -> None:
    assert fit_early_learning([0.1, 0.2]) is None
    assert fit_early_learning([0.1, 0.2, 0.3]) is not None
    x = np.linspace(0, 5, 5)
    steep = fit_early_learning([min(1.0, float(value)) for value in x**2 / 10])
    assert steep is not None
    assert max(steep[:2]) <= 1
    bent = [0.5, 0.1, 0.5, 0.5, 0.6]
    fitted = fit_early_learning(bent)
    assert fitted is not None
    a, b, c = fitted

    def loss(a: float, b: float, c: float) -> float:
        missed = a * (1 - np.exp(-(x**b) / c)) - np.array(bent)
        return float(((missed / np.geomspace(1, 0.1, 5)) ** 2).sum())

    assert all(
        loss(a, b, c) <= loss(a * da, b * db, c * dc) for da in (0.98, 1) for db in (0.98, 1) for dc in (0.98, 1.02)
    )
