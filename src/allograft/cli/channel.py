"""How much a long command says, and where: the terminal, a log file, or both."""

from __future__ import annotations

import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from allograft.errors import OutputError, SpecError

Quiet = Annotated[bool, typer.Option("--quiet", help="Print only warnings, errors and the result, no progress.")]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", help="Also print the time of day, and the duration and scores of each finished run."),
]
Log = Annotated[Path | None, typer.Option("--log", help="Append everything, with times, to this file.", metavar="FILE")]
LOGGER = logging.getLogger("allograft")
STAMP = "%(asctime)s %(message)s"
GRAVE = ("warning: ", "missing: ", "the new model is worse")
"""How a line starts that the quiet have to know too."""


@contextmanager
def opened(quiet: bool, verbose: bool, log: Path | None) -> Iterator[Callable[[str], None]]:
    """The function that a command says its progress with, one line a call.

    Raises:
        SpecError: both quiet and verbose.
        OutputError: the log file cannot be written.
    """
    if quiet and verbose:
        raise SpecError("--quiet and --verbose: found both; give one of them, and --log FILE to keep the rest")
    screen = logging.StreamHandler(sys.stderr)
    screen.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
    screen.setFormatter(logging.Formatter(STAMP if verbose else "%(message)s", "%H:%M:%S"))
    handlers: list[logging.Handler] = [screen]
    if log is not None:
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            file = logging.FileHandler(log, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"--log {log}: cannot be written ({error.strerror}); choose another file") from error
        file.setFormatter(logging.Formatter(STAMP))
        handlers.append(file)
    before = LOGGER.level, LOGGER.propagate
    LOGGER.setLevel(logging.DEBUG)
    LOGGER.propagate = False
    for handler in handlers:
        LOGGER.addHandler(handler)
    LOGGER.debug("command: %s", command())
    try:
        yield say
    except BaseException as reason:
        if log is not None:  # the terminal has it from ``main``
            record = f"ended by {type(reason).__name__}: {reason}".removesuffix(": ")
            handlers[1].emit(logging.makeLogRecord({"msg": record, "levelno": logging.ERROR}))
        raise
    finally:
        LOGGER.setLevel(before[0])
        LOGGER.propagate = before[1]
        for handler in handlers:
            LOGGER.removeHandler(handler)
            handler.close()


def say(line: str) -> None:
    """One line of progress; warnings and failures are said to the quiet too."""
    grave = line.startswith(GRAVE) or "] failed: " in line
    LOGGER.log(logging.WARNING if grave else logging.INFO, "%s", line)


def command() -> str:
    """The command that runs, to copy."""
    return shlex.join(["allograft", *sys.argv[1:]])


def resumption(reason: str, kept: str) -> str:
    """What a command that was stopped says: of one that resumes, what is kept and how."""
    name = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if name not in ("study", "adapt", "train"):
        return reason
    return f"{reason}; {kept} is kept. To resume, run the same command again:\n  {command()}"
