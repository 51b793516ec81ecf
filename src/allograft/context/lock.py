"""One process at a time on a unit: a lease on a lock file, safe on network file systems, and how
its loss is noticed."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from allograft.errors import LeaseLost, OutputError

LEASE = 60.0
"""Seconds without a heartbeat after which a lock is taken over; the same for every process that
shares a folder."""
BEAT = 10.0
"""Seconds between two heartbeats."""


@dataclass(frozen=True)
class Lease:
    """A lock that is held, or, without a file, the right of whoever needs none."""

    held: SoftFileLease | None = None

    def check(self) -> None:
        """To be called before whatever the lock protects is written.

        Raises:
            LeaseLost: this process stood still beyond ``LEASE`` and another one holds the lock now.
            OutputError: the folder of the lock is gone.
        """
        if self.held is None or _is_ours(self.held):
            return
        _sleep()  # whoever examines whether a lock is stale moves its file aside for a moment
        if not (folder := Path(self.held.lock_file).parent).is_dir():
            raise gone(folder)
        if not _is_ours(self.held):
            raise LeaseLost(
                f"{self.held.lock_file}: this process was suspended for more than {LEASE:.0f} s, and another one took "
                "over its work; this one has written nothing since; run the same command again to use the other one's "
                "results"
            )


def gone(folder: Path) -> OutputError:
    """Of a folder that this process has written to, on a disk or share that is no longer there."""
    return OutputError(
        f"{folder}: is no longer there; mount the disk or share that it is on again, or move it back, then run the "
        "same command to resume"
    )


@contextmanager
def locked(path: Path, *, wait: Callable[[], None] | None = None) -> Iterator[Lease]:
    """Hold a lock file; wait while another process holds it, and take it over when that process is
    gone.

    Gone is a process of this machine that no longer runs, or one whose heartbeat was not seen to
    move for ``LEASE`` seconds of this process's own clock, so that machines whose clocks differ may
    share a folder. A process that stood still for so long keeps running when it wakes: it must ask
    ``Lease.check`` before it writes, and leaves the lock to its new owner.

    Args:
        path: the lock file; its folder is made.
        wait: called between two tries; sleeps one second by default.
    """
    held = _lease(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _taken(held):
            (wait or _sleep)()
    except LeaseSettingsMismatch as error:
        raise OutputError(
            f"{path}: {error}; use one version of Allograft in all processes that share the folder"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out"
        ) from error
    try:
        yield Lease(held)
    finally:
        held.release()  # leaves a lock that is another process's now


def held_elsewhere(path: Path) -> bool:
    """Whether a living process seems to hold a lock: a hint, by the clock of the file system;
    ``locked`` alone decides."""
    if not path.exists():
        return False
    owner = _lease(path).owner
    if owner is not None and owner.hostname.partition("?")[0] == socket.gethostname() and not _alive(owner.pid):
        return False
    return _age(path) <= LEASE


def _lease(path: Path) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=LEASE, heartbeat_interval=BEAT, thread_local=False)


def _is_ours(lease: SoftFileLease) -> bool:
    owner = lease.owner
    # what cannot be read is not lost
    named = owner.token == lease.token if owner else os.path.exists(lease.lock_file)
    return named and lease.compromise is None


def _taken(lease: SoftFileLease) -> bool:
    try:
        lease.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _age(path: Path) -> float:
    """Seconds since the last heartbeat; infinite when the lock went away, 0 when that cannot be
    known."""
    probe = path.with_name(f".clock.{os.getpid()}")
    try:
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return math.inf
    except OSError:
        return 0.0


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sleep() -> None:
    time.sleep(1.0)
