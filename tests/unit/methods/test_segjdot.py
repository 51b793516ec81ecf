"""Seg-JDOT: a run, and inputs that it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import a_context
from torch import nn

from allograft.errors import MissingExtraError, SpecError
from allograft.methods.segjdot import SegJdot
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
def test_a_run_moves_features_and_labels(batch_size: int, tmp_path: Path) -> None:
    pytest.importorskip("ot")
    budget = {"steps": 1, "adapt_steps": 2, "batch_size": batch_size}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", {"segjdot": {"first": "start"}}, budget=budget)
    _, _, records = run(session)
    assert all(record.status == "done" for record in records.values())
