"""The bar that a training shows on a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from allograft.train import History


@dataclass
class Bar:
    """A progress line with steps a second, loss terms and time left; silent when nobody watches.

    Args:
        title: what is trained.
        span: its steps.
        start: the step that it goes on from.
        wanted: whether to show it on a terminal.
    """

    title: str
    span: range
    start: int
    wanted: bool
    shown: Progress | None = None
    task: TaskID | None = None

    def __enter__(self) -> Bar:
        if self.wanted and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.shown = Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[terms]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self.shown.start()
            done = self.start - self.span.start
            self.task = self.shown.add_task(self.title, total=len(self.span), completed=done, terms="", speed="")
        return self

    def show(self, number: int, history: History) -> None:
        """Say that the steps before this one are done."""
        if self.shown is None or self.task is None:
            return
        row = self.shown.tasks[0]
        terms = "  ".join(f"{key} {value:.3f}" for key, value in history.last.items())
        self.shown.update(
            self.task, completed=number - self.span.start, terms=terms, speed=f"{row.speed or 0:.1f} steps/s"
        )

    def __exit__(self, *reason: object) -> None:
        if self.shown is not None:
            self.shown.stop()
