"""One process at a time on a unit: exclusive creation of a file and a heartbeat, safe on network file systems."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from allograft.errors import OutputError

BEAT = 10.0
"""Seconds between two heartbeats."""
STALE = 60.0
"""A lock whose heart has not beaten for so long belongs to a process that is gone."""


@contextmanager
def locked(path: Path, *, wait: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock file; wait while another process holds it, and take it over when that process is gone.

    Ages are measured by the file system's own clock, so that machines whose clocks differ may share a folder.

    Args:
        path: the lock file; its folder is made.
        wait: called between two tries; sleeps one second by default.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    while not _taken(path):
        if _age(path) > STALE:
            _break(path)
        else:
            (wait or _sleep)()
    stop = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, stop), daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()
        path.unlink(missing_ok=True)


def held_elsewhere(path: Path) -> bool:
    """Whether a living process holds a lock."""
    return path.exists() and _age(path) <= STALE


def _taken(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    except FileExistsError:
        return False
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        with os.fdopen(handle, "w") as file:
            json.dump({"host": socket.gethostname(), "process": os.getpid()}, file)
    except OSError as error:
        path.unlink(missing_ok=True)  # a lock without a holder would be waited for
        raise _unwritable(path, error) from error
    return True


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error}); free some space or choose another --out")


def _age(path: Path) -> float:
    """Seconds since the last heartbeat; 0 when the lock went away."""
    try:
        holder = json.loads(path.read_text() or "{}")
        if holder.get("host") == socket.gethostname() and not _alive(int(holder["process"])):
            return float("inf")
        probe = path.with_name(f".clock.{os.getpid()}")
        probe.touch()
        now = probe.stat().st_mtime
        probe.unlink()
        return now - path.stat().st_mtime
    except (OSError, ValueError, KeyError):
        return 0.0


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _break(path: Path) -> None:
    """Remove a stale lock; of several waiting processes one at a time, so that none removes the lock that another has just taken."""
    guard = path.with_name(f"{path.name}.breaking")
    if _taken(guard):
        if _age(path) > STALE:
            path.unlink(missing_ok=True)
        guard.unlink(missing_ok=True)
    elif _age(guard) > STALE:
        guard.unlink(missing_ok=True)


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        try:
            os.utime(path)
        except OSError:
            return


def _sleep() -> None:
    time.sleep(1.0)
