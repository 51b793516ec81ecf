"""The command that makes one model of several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ensembles = typer.Typer(rich_markup_mode=None)


@ensembles.command(
    short_help="Combine several models into one model folder.",
    epilog="Example: allograft ensemble runs/vessels/models/finetune@chase runs/vessels/models/dsbn@chase -o both",
)
def ensemble(
    models: Annotated[list[Path], typer.Argument(help="Model folders with the same task, classes and preprocessing.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
) -> None:
    """Combine several models into one model folder, which predicts the mean of their
    probabilities."""
    from allograft.apply.ensemble import make_ensemble
    from allograft.results.models import predict_command

    print(predict_command(make_ensemble(models, out)))
