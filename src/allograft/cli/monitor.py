"""The command that compares new images with those of a model's validation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

monitoring = typer.Typer(rich_markup_mode=None)


@monitoring.command(
    short_help="Compare new images with those of a model's validation.",
    epilog="Example: allograft monitor runs/vessels/models/finetune@chase march/results.csv -o runs/march",
)
def monitor(
    model: Annotated[Path, typer.Argument(help="The model folder that made the predictions.")],
    results: Annotated[list[Path], typer.Argument(help="One or several results.csv of predict.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for monitor.html and monitor.csv.")],
) -> None:
    """Compare new images with those that a model was validated on: volumes, distances, confidence,
    and how many are far from the training images."""
    from allograft.apply.monitor import monitor as monitored

    compared = monitored(model, results, out)
    for drift in compared.drifts:
        print(f"{drift.name}: {drift.words}")
    print(": ".join(compared.sentence))
    print(f"page: {out / 'monitor.html'}; numbers: {out / 'monitor.csv'}")
