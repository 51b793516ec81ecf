"""When the page of a study is written again: rarely while it runs, and not at all where nothing has
changed."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from allograft import __version__, tree


@dataclass
class Pace:
    """Interim reports: at most one every ``every`` seconds, and at most ``share`` of the time.

    Args:
        every: seconds from the start to the first report, and from one to the next.
        share: of all time, what reports may take: one that took a second is followed by none for
            nineteen.
        clock: seconds that only grow.

    Example:
        >>> times, written = iter([0.0, 29.0, 30.0, 30.0, 34.0, 109.0, 110.0, 110.0, 110.0]), []
        >>> pace = Pace(clock=lambda: next(times))
        >>> for name in ("a", "b", "c", "d"):
        ...     pace(lambda: written.append(name))
        >>> written  # "b" took 4 s, so nothing is written for 76 s
        ['b', 'd']
    """

    every: float = 30.0
    share: float = 0.05
    clock: Callable[[], float] = time.monotonic
    due: float = field(init=False)

    def __post_init__(self) -> None:
        self.due = self.clock() + self.every

    def __call__(self, write: Callable[[], object]) -> None:
        """Write a report, if it is time for one."""
        began = self.clock()
        if began < self.due:
            return
        write()
        ended = self.clock()
        self.due = ended + max(self.every, (ended - began) * (1 - self.share) / self.share)


@dataclass(frozen=True)
class Page:
    """What a finished report was made of, kept beside it in ``OUT/cache/report.key``.

    Args:
        out: the study's folder.
        study: a hash of all that the page depends on besides records, splits and version.
    """

    out: Path
    study: str

    def is_current(self) -> bool:
        """Whether the page that is there was made of what is there now, and is as it was
        written."""
        try:
            return (self.out / "cache" / "report.key").read_text(encoding="utf-8") == self._key()
        except OSError:
            return False

    def written(self) -> None:
        """Remember what the page was made of."""
        tree.write_bytes(self.out / "cache" / "report.key", self._key().encode())

    @staticmethod
    def forget(out: Path) -> None:
        """Before a page is written, which may not come to its end."""
        tree.remove(out / "cache" / "report.key")

    def _key(self) -> str:
        files = (self.out / "report.html", self.out / "splits.csv", *sorted((self.out / "records").glob("*.json")))
        seen = [[file.name, hashlib.blake2b(file.read_bytes()).hexdigest()] for file in files]
        return tree.content_hash(__version__, self.study, seen)
