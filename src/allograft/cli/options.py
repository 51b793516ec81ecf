"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda or cuda:1.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Override a key: --set budget.steps=20", metavar="KEY=VALUE")
]
