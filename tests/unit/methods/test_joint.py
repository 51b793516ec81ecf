"""Joint training: every site has the same share of a batch, and of the target only the budget is
seen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import run, session_of, write_cohort

from allograft.batch import Batch
from allograft.step import GradientStep
from allograft.study.plan import scenario_of

CONTRACT = {"options": {"augmentation": "none"}}


def test_every_site_has_the_same_share_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    real = GradientStep.__call__

    def watched(self: GradientStep, batch: Batch) -> Any:
        seen.append(sorted(Path(name).name[0] for name in batch.cases))
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", watched)
    budget = {"steps": 4, "adapt_steps": 1, "batch_size": 6}
    world, row, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "joint", budget=budget))
    assert seen == [list("aabbdd")] * 4  # whatever the sites' sizes
    assert {record.labelled_subjects for record in records.values()} == {scenario_of(world, row).target[0].subjects}
