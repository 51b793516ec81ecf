"""How a study is to be computed reaches what its recipes run in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.contract.world import session_of, write_cohort

from allograft.context import Context
from allograft.run import preflight
from allograft.run.session import Session
from allograft.studies import run_study


class Reached(Exception):
    """The study is about to train."""


def test_workers_and_seconds_between_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contexts: list[Context] = []

    def run_all(self: Session, *_: Any, **__: Any) -> None:
        contexts.append(self.context(1))
        raise Reached

    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "supervised")
    monkeypatch.setattr(Session, "run_all", run_all)
    with pytest.raises(Reached):
        run_study(session.study, tmp_path / "out", fabric=session.fabric, workers=3, checkpoint_seconds=7.0)
    (context,) = contexts
    assert (context.workers, context.checkpoint_seconds, context.seeds.seed) == (3, 7.0, 1)
    assert context.fabric is session.fabric
    assert context.loader([session.prepare().part("a", "train", 0)], "source").workers == 3


@pytest.mark.parametrize("what", ["completed", "prepare"])
def test_the_session_as_it_is_is_told_to_the_checks(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "supervised")
    told: list[Session] = []
    monkeypatch.setattr(preflight, what, told.append)
    getattr(session, what)()
    assert told[0] is session
