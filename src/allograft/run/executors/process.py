"""The process of the local executor, ``python -m allograft.run.executors.process``: jobs come in by
lines, and answers go out."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from allograft.context.journal import STOP, Stopped
from allograft.run.executors.jobs import Asked, Ended, Job
from allograft.run.executors.local import STOPPED
from allograft.run.executors.worker import Worker


def _answer(ended: Ended) -> str:
    """The line that answers a job."""
    return json.dumps({"crash": ended.crash, "is_lost": ended.is_lost, "fatal": ended.fatal})


def main() -> None:
    """Read what is asked, then a job per line; write a line for each that has ended. Where the
    other end goes away, keep the place and end."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever is printed is for people
    signal.signal(signal.SIGTERM, lambda *_: STOP.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process passes it on as SIGTERM
    arriving = _lines()
    kept = json.loads(next(arriving))
    worker = Worker(Asked(**{**kept, "continued": tuple(kept["continued"])}), _say)
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_listen, args=(arriving, lines), daemon=True).start()
    while not STOP.is_set():
        try:
            line = lines.get(timeout=0.2)
        except queue.Empty:
            continue
        fields = json.loads(line)
        try:
            ended = worker(Job(**{**fields, "part": Path(fields["part"])}))
        except Stopped:
            sys.exit(STOPPED)
        print(_answer(ended), file=answers, flush=True)


def _lines() -> Iterator[str]:
    """Lines of the standard input, read without a lock of Python's, which would stand in the way of
    an end in the middle of one."""
    kept = b""
    while more := os.read(0, 65536):
        *whole, kept = (kept + more).split(b"\n")
        yield from (line.decode() for line in whole)


def _listen(arriving: Iterator[str], lines: queue.Queue[str]) -> None:
    for line in arriving:
        lines.put(line)
    STOP.set()  # the first process is gone, or has no more to do


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
