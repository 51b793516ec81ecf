"""The start itself: nothing is trained, and what is judged is the network as it came."""

from __future__ import annotations

from pathlib import Path

from tests.contract.world import run, session_of, write_cohort

from allograft.context import Store
from allograft.tree import digest

CONTRACT = {"trains": False}


def test_what_is_kept_is_the_start(tmp_path: Path) -> None:
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "start")
    world, row, records = run(session)
    found = Store(tmp_path / "out" / "units" / row.unit).load()
    assert found is not None
    assert digest(found[0].network) == digest(session.start(world, 0))
    own = [record for record in records.values() if record.unit == row.unit]
    assert {(record.source, record.target, record.labelled_subjects) for record in own} == {
        ((), None, ())
    }  # it saw no case
