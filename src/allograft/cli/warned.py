"""Warnings of this package as one line in a terminal."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TextIO

from allograft.cli.channel import LOGGER, say

_PACKAGE = str(Path(__file__).parents[1])


def say_warnings_plainly() -> None:
    """From now on a warning that this package raises is printed as ``warning: TEXT``; others as
    Python has them."""
    usual = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if file is None and filename.startswith(_PACKAGE):
            if LOGGER.handlers:  # of a command that has a log
                say(f"warning: {message}")
            else:
                print(f"warning: {message}", file=sys.stderr)
        else:
            usual(message, category, filename, lineno, file, line)

    warnings.showwarning = show
