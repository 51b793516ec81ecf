"""RWalk: what is carried from stage to stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort

from allograft.methods import rw
from allograft.study.plan import scenario_of

CONTRACT = {
    "study": {"stream": [["a"], ["d", "b"]], "source": [], "target": [], "target_labels": "none"},
    "options": {"strength": 10.0, "momentum": 0.5, "every": 1},
}


def test_weights_are_held_where_the_last_stage_ended_by_what_is_normalised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", {"rw": {"every": 1}}, stream=[["a"], ["d"], ["b"]]
    )
    world = session.prepare()
    row = row_of(session, world)
    held: list[Any] = []
    real = rw.Held.__call__

    def watched(self: Any, network: Any, batch: Any) -> Any:
        if not held or held[-1] is not self:
            held.append(self)
        return real(self, network, batch)

    monkeypatch.setattr(rw.Held, "__call__", watched)
    ended = []
    for stage in session.context(0).run(row.recipe, scenario_of(world, row), session.start(world, 0)):
        ended.append({name: p.detach().clone() for name, p in stage.predictor.network.named_parameters()})  # type: ignore[union-attr]
    assert [bool(one.centre) for one in held] == [False, True, True]
    for one, before in zip(held[1:], ended, strict=False):
        assert all(torch.equal(one.centre[name], value) for name, value in before.items())
        every = torch.cat([value.flatten() for value in one.weight.values()])
        assert every.min() >= 0
        assert 1 <= every.max() <= 2  # both parts reach 1


def test_a_weight_that_did_not_move_is_scored_by_epsilon() -> None:
    still = rw.path_score(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([0.0]), 0.5)
    assert still.tolist() == [2.0]
