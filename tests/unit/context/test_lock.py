"""Locks: one holder at a time; the dead are taken over, the living are not; who was taken over
writes and releases nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import SoftFileLease

import allograft
from allograft.context import lock
from allograft.context.journal import STOP, Journal, Stopped
from allograft.context.lock import Lease, held_elsewhere, locked
from allograft.errors import LeaseLost, OutputError

DEAD = 2**22 + 1
"""Above any process number."""


def held_by(path: Path, *, host: str = "", process: int = DEAD) -> Path:
    """A lock file as another process leaves it, of this machine or of another one."""
    with locked(path):
        text = path.read_text()
    text = re.sub("token=.*", "token=another", re.sub("pid=.*", f"pid={process}", re.sub("start=.*\n", "", text)))
    path.write_text(re.sub("host=.*", f"host={host}", text) if host else text)
    return path


def owner(path: Path) -> tuple[int, str | None]:
    found = SoftFileLease(path).owner
    assert found is not None
    return found.pid, found.token


def test_held_and_released(tmp_path: Path) -> None:
    path = tmp_path / "unit" / "lock"
    with locked(path) as lease:
        assert held_elsewhere(path)
        assert owner(path)[0] == os.getpid()
        lease.check()
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
    path = held_by(tmp_path / "lock")
    assert not held_elsewhere(path)
    with locked(path, wait=lambda: pytest.fail("waited for the dead")):
        assert owner(path)[0] == os.getpid()


class Clock:
    """Stands for ``time.monotonic``; runs when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("process", [1, DEAD], ids=["a number that lives here", "a number that is dead here"])
def test_another_machine_is_respected_while_its_heart_beats(
    process: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process number says nothing here: only a heartbeat that is not seen to move for the time
    of a lease does."""
    path, clock, beats = held_by(tmp_path / "lock", host="another", process=process), Clock(), 50
    monkeypatch.setattr(time, "monotonic", clock)
    assert held_elsewhere(path)
    waits: list[float] = []

    def wait() -> None:
        clock.now += lock.LEASE / 2
        waits.append(clock.now)
        assert owner(path) == (process, "another")
        if len(waits) <= beats:  # a clock that goes wrong there: what counts is that the time moves
            os.utime(path, (len(waits), len(waits)))

    with locked(path, wait=wait):
        assert owner(path)[0] == os.getpid()
    assert len(waits) == beats + 2  # two halves of a lease after the last beat


def test_a_stopped_heart_of_another_machine_looks_free(tmp_path: Path) -> None:
    path = held_by(tmp_path / "lock", host="another")
    old = path.stat().st_mtime - lock.LEASE - 1
    os.utime(path, (old, old))
    assert not held_elsewhere(path)


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.01)
    path = tmp_path / "lock"
    with locked(path):
        os.utime(path, (0, 0))
        until = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < until:
            time.sleep(0.01)
        assert path.stat().st_mtime > 0


def test_another_version_with_another_lease_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = held_by(tmp_path / "lock", host="another")
    monkeypatch.setattr(lock, "LEASE", 30.0)
    with pytest.raises(OutputError, match="one version of Allograft"), locked(path):
        pytest.fail("entered")


# ---------------------------------------------------------- a lease that was lost
def test_who_was_taken_over_neither_writes_nor_releases(tmp_path: Path) -> None:
    path = tmp_path / "unit" / "lock"
    journal = tmp_path / "unit" / "journal"
    with locked(path) as lease:
        mine = Journal(journal, seconds=0, check=lease.check)
        mine.keep("train", lambda: {"at": 1})
        path.unlink()
        held_by(path, host="another").touch()
        with pytest.raises(LeaseLost):
            mine.keep("train", lambda: pytest.fail("made what is not to be written"))
        with pytest.raises(LeaseLost):
            mine.clear()
        with pytest.raises(LeaseLost, match="unit/lock: this process was suspended"):
            lease.check()
    assert owner(path) == (DEAD, "another")
    assert Journal(journal).open("train", range(4))["at"] == 1  # type: ignore[index]


def test_a_look_at_a_lock_is_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever examines a lock moves its file aside for a moment."""
    path = tmp_path / "lock"
    with locked(path) as lease:
        path.rename(tmp_path / "aside")
        monkeypatch.setattr(lock, "_sleep", lambda: (tmp_path / "aside").rename(path))
        lease.check()


def test_whoever_needs_no_lock_has_lost_none() -> None:
    Lease().check()


SLEEPER = """
import sys
from pathlib import Path
from allograft.context import lock
from allograft.context.journal import Journal
from allograft.errors import LeaseLost
lock.LEASE, lock.BEAT = 1.0, 0.1
folder = Path(sys.argv[1])
try:
    with lock.locked(folder / "lock") as lease:
        journal = Journal(folder / "journal", check=lease.check)
        print("held", flush=True)
        sys.stdin.readline()
        journal.keep("train", lambda: {"at": 2})
        print("written", flush=True)
except LeaseLost:
    print("lost", flush=True)
"""


def test_a_stalled_owner_that_wakes_up_finds_its_lease_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process, stopped for longer than the lease, while this one takes the lock over and
    works on."""
    monkeypatch.setattr(lock, "LEASE", 1.0)
    monkeypatch.setattr(lock, "BEAT", 0.1)
    source = str(Path(allograft.__file__).parents[1])
    sleeper = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert sleeper.stdin is not None
    assert sleeper.stdout is not None
    try:
        assert sleeper.stdout.readline() == "held\n"
        os.kill(sleeper.pid, signal.SIGSTOP)
        with locked(tmp_path / "lock") as lease:
            Journal(tmp_path / "journal", check=lease.check).keep("train", lambda: {"at": 3})
            os.kill(sleeper.pid, signal.SIGCONT)
            said, _ = sleeper.communicate("go on\n", timeout=60)
            assert said == "lost\n"
            lease.check()
            assert owner(tmp_path / "lock")[0] == os.getpid()
    finally:
        sleeper.kill()
    assert not (tmp_path / "lock").exists()
    assert Journal(tmp_path / "journal").open("train", range(4))["at"] == 3  # type: ignore[index]


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
