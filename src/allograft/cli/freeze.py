"""``allograft freeze``: fix what a study will do before its first test score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allograft.cli.options import Set
from allograft.cli.show import say_to_stderr

freezing = typer.Typer(rich_markup_mode=None)


@freezing.command(
    short_help="Fix what a study will do before its first test score.",
    epilog="Example: allograft freeze examples/vessels.yaml --out runs/vessels",
)
def freeze(
    file: Annotated[Path, typer.Argument(help="A study, see examples/.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the study will run.")],
    set_: Set = None,
    after_scores: Annotated[
        bool,
        typer.Option("--after-scores", help="Freeze even though there are test scores; the report will state it."),
    ] = False,
) -> None:
    """Fix study, splits, rules and primary row before the first test score; a different study is
    then refused in that folder."""
    from allograft.freeze import freeze_study
    from allograft.results.protocol import protocol_sentence
    from allograft.study import read_study

    made = freeze_study(read_study(file, set_ or ()), out, after_scores=after_scores, say=say_to_stderr)
    print(f"{protocol_sentence(out)}: {out / 'protocol.json'}")
    print(f"hash {made.hash}, for a registry or a letter")
