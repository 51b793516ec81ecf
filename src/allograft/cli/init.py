"""``allograft init``: a first study for a cohort."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allograft.cli.schema import schema_line
from allograft.errors import OutputError

first = typer.Typer(rich_markup_mode=None)
Sites = list[str] | None
SCHEMA = "study.schema.json"
"""Where it is next to a study, the study's first line names it for editors."""


@first.command(
    short_help="Write a first study that fits your images.",
    epilog="Example: allograft init data/vessels/manifest.csv -o study.yaml --source drive --target chase",
)
def init(
    manifest: Annotated[Path, typer.Argument(help="The manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The study file to write.")],
    source: Annotated[Sites, typer.Option(help="A site to train on; by default the one with the most labels.")] = None,
    target: Annotated[Sites, typer.Option(help="A site to adapt to; by default all others.")] = None,
) -> None:
    """Write a commented study that fits your images, sites and labels. Run it as it is, or change
    it.

    If study.schema.json is in the same folder (allograft schema -o study.schema.json), the first
    line names it, so that editors can complete and check the keys.
    """
    from allograft.run.first_study import first_study
    from allograft.run.study_text import study_text
    from allograft.study import read_study
    from allograft.tree import write_bytes

    if out.exists():
        raise OutputError(f"{out}: already exists, and would be replaced; choose another --out, or remove it")
    made = first_study(manifest, source=source or (), target=target or ())
    line = f"{schema_line(SCHEMA)}\n" if (out.parent / SCHEMA).is_file() else ""
    write_bytes(out, (line + study_text(made, str(out))).encode())
    study = read_study(out)
    for note in made.notes:
        print(f"note: {note}")
    print(f"{', '.join(study.source)} to {', '.join(study.target)}: {out}")
    print(f"next: allograft study {out} --out runs/first --plan")
