"""What the commands that train print: a dry run, the tables, the verdict, the way on."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from allograft.errors import MirrorIncomplete, MissingWeightsError, UnitsFailed

if TYPE_CHECKING:
    from allograft.run.closing import Result
    from allograft.run.parted import PartsResult
    from allograft.run.session import Session


def show_plan(session: Session) -> None:
    """What would run, part by part."""
    from rich.console import Console

    from allograft.run.parted import part_sessions
    from allograft.run.preview import preview, preview_table

    console = Console(width=None if Console().is_terminal else 160, highlight=False, markup=False)
    for name, part in part_sessions(session).items():
        title = [f"== {name}"] if name else []
        try:
            console.print(*title, preview_table(preview(part)), sep="\n")
        except MissingWeightsError as error:
            if not name:
                raise
            console.print(*title, f"missing: {error}", sep="\n")


def show(result: Result | PartsResult, unmirrored: Sequence[str] = ()) -> None:
    """The tables, where the report lies, and the commands to go on with.

    Args:
        unmirrored: why MLflow or TensorBoard lack a part of it.
    """
    from allograft.report.how_many_labels import label_sections
    from allograft.results.table import print_over
    from allograft.run.parted import PartsResult

    parts = list(result.parts.values()) if isinstance(result, PartsResult) else [result]
    for part in parts:
        _show_part(part, how=not isinstance(result, PartsResult))
    if isinstance(result, PartsResult):
        print_over(result.study, parts[0].plan, [part.lines for part in parts])
        for section in label_sections(result.named_parts):
            print(f"{section.title}. {' '.join(section.answers)}")
        for name, why in result.missing.items():
            print(f"{name}: missing: {why}")
        print(f"report over all parts: {result.out / 'report.html'}")
    raise_failed(result, unmirrored)


def raise_failed(result: Result | PartsResult, unmirrored: Sequence[str] = ()) -> None:
    """``UnitsFailed`` or ``MirrorIncomplete``, for exit code 3, where some runs failed, or the
    mirror of the study did."""
    from allograft.run.parted import PartsResult

    mirror = (
        f"the mirror is incomplete: {'; '.join(unmirrored)}; the study itself is in its folder: fix the cause and run "
        "the same command again to mirror it"
    )
    if result.failed:
        parts = list(result.parts.values()) if isinstance(result, PartsResult) else [result]
        runs = sum(len(line.runs) for part in parts for line in part.lines)
        also = f"\nerror: {mirror}" if unmirrored else ""
        raise UnitsFailed(f"{result.failed} of {runs} runs failed; the table shows which and why{also}")
    if unmirrored:
        raise MirrorIncomplete(mirror)


def _show_part(result: Result, *, how: bool) -> None:
    from allograft.results.models import predict_command
    from allograft.results.sentence import unfinished
    from allograft.results.table import print_tables

    print_tables(result.study, result.plan, result.lines)
    print(f"report: {result.out / 'report.html'}")
    now = result.standing
    if not now.verdicts:
        print(f"{unfinished(now.done, now.total)}; its models so far are kept")
    for target, verdict in now.verdicts.items():
        print(verdict.sentence)
        chosen = next((line for line in result.lines if line.target == target and line.chosen), None)
        if chosen is not None and (chosen.title, target) in result.models:
            print(f"  {predict_command(result.models[chosen.title, target])}")
        elif result.models:
            print(f"  its models are in {next(iter(result.models.values())).parent}")
        for line in ("how this was decided:", *verdict.how) if how else ():
            print(f"  {line}")


def say_to_stderr(line: str) -> None:
    """A line of progress, beside what a command prints for another program."""
    print(line, file=sys.stderr, flush=True)
