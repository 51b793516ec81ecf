"""``OUT/looks.jsonl``: a line for every command that printed or wrote test scores."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from allograft import tree
from allograft.context.lock import locked
from allograft.errors import OutputError

FILE = "looks.jsonl"


@dataclass(frozen=True)
class Look:
    """One command that showed test scores.

    Args:
        time: when, in UTC.
        command: its name, such as ``study``.
        what: what it showed, without a name of a patient or file.
    """

    time: datetime
    command: str
    what: str


@dataclass
class Looking:
    """Adds one line to a study's looks the first time that it is called, which is before the first
    score is written or printed.

    Args:
        out: the study's folder; None keeps nothing.
    """

    out: Path | None = None
    command: str = ""
    what: str = ""
    is_kept: bool = field(default=False, compare=False)

    def __call__(self) -> None:
        """Raises ``OutputError`` where the line cannot be written: then nothing is shown either."""
        if self.out is not None and not self.is_kept:
            add_look(self.out, self.command, self.what)
            self.is_kept = True


def add_look(out: Path, command: str, what: str) -> None:
    """Add a line, in one piece and on the disk when this returns. What a killed process left of its
    own line is ended first, so that no other is lost with it; two processes take turns.

    Raises:
        OutputError: the file cannot be written.
    """
    path = out / FILE
    line = json.dumps({"time": now().isoformat(timespec="seconds"), "command": command, "what": what})
    with locked(out / "looks.lock"):
        if not path.exists():
            tree.write_bytes(path, b"")
        ended = path.read_bytes()[-1:] in (b"", b"\n")
        tree.append_bytes(path, (("" if ended else "\n") + line + "\n").encode())


def look_at_model(model: Path, command: str, what: str) -> None:
    """Add a line to the study that a model folder lies in, if it lies in one.

    Raises:
        OutputError: the line cannot be written, and the study has a frozen protocol.
    """
    out = model.resolve().parent.parent
    if model.resolve().parent.name == "models" and (out / "study.json").exists():
        with suppress(*([] if (out / "protocol.json").exists() else [OutputError])):
            add_look(out, command, what)


def looks(out: Path) -> list[Look]:
    """All lines; one that a killed process did not finish showed nothing and is left out."""
    found = []
    for line in (out / FILE).read_text(encoding="utf-8").splitlines() if (out / FILE).exists() else ():
        with suppress(ValueError, KeyError, TypeError):
            kept = json.loads(line)
            found.append(Look(datetime.fromisoformat(kept["time"]), kept["command"], kept["what"]))
    return found


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)
