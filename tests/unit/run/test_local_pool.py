"""What the processes of the local executor say is said with their number."""

from __future__ import annotations

import io
from pathlib import Path

from allograft.run.executors.jobs import Asked, Job
from allograft.run.executors.local import LocalPool


def test_jobs_are_counted_from_one() -> None:
    said: list[str] = []
    pool = LocalPool(Asked("cpu", "32-true", 0, 60.0, ()), said.append, [{}, {}])
    pool._show(0, io.StringIO("one\ntwo  \n"))
    pool._show(1, io.StringIO("three\n"))
    pool._show(1, None)
    assert said == ["job 1: one", "job 1: two", "job 2: three"]


def test_there_is_room_while_a_process_has_no_job() -> None:
    pool = LocalPool(Asked("cpu", "32-true", 0, 60.0, ()), print, [{}, {}])
    room = [pool.has_room()]
    for key in range(2):
        pool.busy[key] = Job(Path(), str(key), "")
        room.append(pool.has_room())
    assert room == [True, True, False]
