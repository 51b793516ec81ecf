"""Seg-JDOT: a run, and inputs that it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context
from torch import nn

from allograft.batch import Batch
from allograft.context import Store
from allograft.errors import MissingExtraError, SpecError
from allograft.methods.segjdot import SegJdot, TransportObjective
from allograft.networks import Wrapped, build
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification

CONTRACT = {"options": {"alpha": 0.5, "label_weight": 0.1}}


def test_a_missing_library_is_named_with_its_line_before_anything_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ot" else real(name, *rest))
    with pytest.raises(MissingExtraError, match=r"pip install 'allograft\[ot\]'"):
        next(SegJdot().run(Scenario(), Wrapped(nn.Identity(), "mask"), a_context()))


def test_the_papers_weight_is_the_default() -> None:
    assert SegJdot().alpha == 1e-3


def test_other_networks_and_tasks_are_refused() -> None:
    pytest.importorskip("ot")
    with pytest.raises(SpecError, match="segjdot: the network is one opaque module"):
        next(SegJdot().run(Scenario(), Wrapped(nn.Identity(), "mask"), a_context()))
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"label": 2}, "channels": [4, 8]}}})
    context = a_context()
    object.__setattr__(context, "task", Classification(("no", "yes")))
    with pytest.raises(SpecError, match="use it with task: segmentation"):
        next(SegJdot().run(Scenario(), network, context))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_run_moves_features_and_labels_with_their_own_weights(
    batch_size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ot")
    weights: list[tuple[float, float]] = []
    real = TransportObjective.__call__

    def watched(self: TransportObjective, network: Any, batch: Batch) -> Any:
        weights.append((self.alpha, self.label_weight))
        return real(self, network, batch)

    monkeypatch.setattr(TransportObjective, "__call__", watched)
    budget = {"steps": 1, "adapt_steps": 2, "batch_size": batch_size}
    recipe = {"segjdot": {"first": "start", "alpha": 0.25, "label_weight": 0.75}}
    _, row, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget))
    assert all(record.status == "done" for record in records.values())
    assert weights == [(0.25, 0.75)] * 2
    loss: Any = Store(tmp_path / "out" / "units" / row.unit).figures()["loss-train"]
    assert all(value > 0 for key in ("feature_transport", "label_transport") for value in loss.y[key])


def test_labels_outside_the_region_do_not_count() -> None:
    pytest.importorskip("ot")
    torch.manual_seed(0)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "num_res_units": 1}}}
    )
    image, mask, region = (
        torch.rand(4, 1, 16, 16),
        torch.randint(0, 2, (4, 1, 16, 16)),
        torch.ones(4, 1, 16, 16, dtype=torch.bool),
    )
    region[..., :6] = False

    def terms(labels: torch.Tensor) -> list[float]:
        batch = Batch(image, torch.tensor([0, 0, 1, 1]), tuple("abcd"), {"mask": labels}, region=region)
        return [float(value.detach()) for value in TransportObjective(VESSEL, 1e-3, 1.0)(network, batch).values()]

    assert terms(mask.where(region, 1 - mask)) == terms(mask)
    assert terms(1 - mask) != terms(mask)
