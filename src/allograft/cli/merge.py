"""``allograft merge``: scores that other hospitals sent, in one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

merging = typer.Typer(rich_markup_mode=None)


@merging.command(
    short_help="Combine the records of other hospitals in one table.",
    epilog="Example: allograft merge runs/vessels north.json south.json",
)
def merge(
    out: Annotated[Path, typer.Argument(help="The output folder of the study that made the models.")],
    files: Annotated[list[Path], typer.Argument(help="Records written by 'evaluate --record'.", metavar="FILE...")],
) -> None:
    """Combine the records of other hospitals in one table: every model at every site."""
    from rich.console import Console

    from allograft.apply.site_table import merge as merged
    from allograft.apply.site_table import printed

    table = merged(out, files)
    Console(width=None if Console().is_terminal else 160, highlight=False, markup=False).print(printed(table))
    print(f"every metric: {out / 'sites.csv'}")
