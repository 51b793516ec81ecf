"""Locks: one holder at a time, the dead are taken over, the living are not."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path

import pytest

from allograft.context import lock
from allograft.context.journal import STOP, Journal, Stopped
from allograft.context.lock import held_elsewhere, locked


def test_held_and_released(tmp_path: Path) -> None:
    path = tmp_path / "unit" / "lock"
    with locked(path):
        assert held_elsewhere(path)
        assert json.loads(path.read_text()) == {"host": socket.gethostname(), "process": os.getpid()}
    assert not path.exists()
    assert not held_elsewhere(path)


def test_released_when_the_work_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), locked(tmp_path / "lock"):
        raise RuntimeError
    assert not (tmp_path / "lock").exists()


def test_a_waiting_process_gets_its_turn(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []
    waiting, done = threading.Event(), threading.Event()

    def second() -> None:
        def wait() -> None:
            waiting.set()
            done.wait(5)

        with locked(path, wait=wait):
            order.append("second")

    with locked(path):
        other = threading.Thread(target=second)
        other.start()
        assert waiting.wait(5)
        order.append("first")
    done.set()
    other.join(10)
    assert order == ["first", "second"]


def test_a_dead_process_of_this_machine_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": socket.gethostname(), "process": 2**22 + 1}))  # above any process number
    assert not held_elsewhere(path)
    with locked(path, wait=lambda: pytest.fail("waited for the dead")):
        assert json.loads(path.read_text())["process"] == os.getpid()


def test_another_machine_is_alive_while_its_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lock"
    path.write_text(json.dumps({"host": "another", "process": 1}))
    assert held_elsewhere(path)
    old = path.stat().st_mtime - lock.STALE - 1
    os.utime(path, (old, old))
    assert not held_elsewhere(path)
    with locked(path, wait=lambda: pytest.fail("waited for a stopped heart")):
        assert json.loads(path.read_text())["host"] == socket.gethostname()


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path, beaten = tmp_path / "lock", threading.Event()
    real = os.utime

    def counted(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        beaten.set()

    monkeypatch.setattr(lock.os, "utime", counted)
    with locked(path):
        assert beaten.wait(5)


def test_asked_to_stop_the_journal_keeps_first(tmp_path: Path) -> None:
    journal = Journal(tmp_path, seconds=1e9)
    assert not journal.due()
    STOP.set()
    try:
        assert journal.due()
        with pytest.raises(Stopped):
            journal.keep("train", lambda: {"at": 2})
    finally:
        STOP.clear()
    assert Journal(tmp_path).open("train", range(4))["at"] == 2  # type: ignore[index]
