"""Joint training on a whole stream: as many updates as its stages have together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import row_of, session_of, write_cohort

from allograft.step import GradientStep
from allograft.study.plan import scenario_of

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {},
    "marks": (2, 4),  # of six steps
}


@pytest.mark.parametrize(
    ("budget", "updates"),
    [
        ({"steps": 3, "batch_size": 4}, 6),
        ({"epochs": 2, "batch_size": 30}, 2),
        ({"epochs": 2, "steps_per_epoch": 3, "batch_size": 4}, 12),  # of two stages
    ],
)
def test_every_stage_has_its_share_of_all_updates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, budget: Any, updates: int
) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "joint_stream", budget=budget)
    world = session.prepare()
    row = row_of(session, world)
    sites = {case.name: case.site for case in world.cases()}
    shares: list[int] = []
    real = GradientStep.__call__

    def watched(self: GradientStep, batch: Any) -> Any:
        shares.append(sum(sites[name] == "a" for name in batch.cases))
        return real(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", watched)
    (stage,) = session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0))
    assert len(shares) == updates
    assert set(shares) == {budget["batch_size"] // 2}
    assert stage.seen == ("a", "b", "d")
