"""``allograft freeze``: fix what a study will do before its first test score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allograft.cli.options import Set
from allograft.cli.show import say_to_stderr

freezing = typer.Typer(rich_markup_mode=None)


@freezing.command(
    short_help="Freeze what a study will do before its first test score.",
    epilog="Example: allograft freeze examples/vessels.yaml --out runs/vessels",
)
def freeze(
    file: Annotated[Path, typer.Argument(help="The study file; see examples/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder in which the study will run.")],
    set_: Set = None,
    after_scores: Annotated[
        bool,
        typer.Option("--after-scores", help="Freeze even if there are test scores already; the report then states it."),
    ] = False,
) -> None:
    """Freeze a study, its splits, its rules and its primary row before the first test score. The
    folder then refuses any other study."""
    from allograft.freeze import freeze_study
    from allograft.results.protocol import protocol_sentence
    from allograft.study import read_study

    made = freeze_study(read_study(file, set_ or ()), out, after_scores=after_scores, say=say_to_stderr)
    print(f"{protocol_sentence(out)}: {out / 'protocol.json'}")
    print(f"hash {made.hash}, for a registry or a letter")
