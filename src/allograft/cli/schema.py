"""``allograft schema``: what editors and other programs need to check our files."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

schemas = typer.Typer(rich_markup_mode=None)


class Kind(StrEnum):
    """A file that Allograft reads or writes."""

    study = "study"
    record = "record"
    card = "card"


@schemas.command(
    short_help="Write the JSON schema of a file, for editors.", epilog="Example: allograft schema -o study.schema.json"
)
def schema(
    kind: Annotated[
        Kind,
        typer.Argument(help="Which schema: of a study file, of a record in OUT/records, or of a model's card.json."),
    ] = Kind.study,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The file to write; without it, print the schema.")
    ] = None,
) -> None:
    """Write the JSON schema of a file. Editors use it to complete and check the keys.

    The schema includes the methods, networks and tasks of installed packages: write it again after
    you install one.
    """
    from allograft.tree import write_bytes

    text = json.dumps(_made(kind), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
        return
    write_bytes(out, text.encode())
    print(f"{kind.value} schema: {out}")
    if kind is Kind.study:
        print("next: make this the first line of each study file in the same folder (allograft init adds it for you):")
        print(schema_line(out.name))


def schema_line(name: str) -> str:
    """The first line of a study file whose schema is this file next to it, as editors read it.

    >>> schema_line("study.schema.json")
    '# yaml-language-server: $schema=study.schema.json'
    """
    return f"# yaml-language-server: $schema={name}"


def _made(kind: Kind) -> dict[str, Any]:
    if kind is Kind.study:
        from allograft.study.schema import study_schema

        return study_schema()
    if kind is Kind.record:
        from allograft.results.record import record_schema

        return record_schema()
    from allograft.predictor.card_schema import card_schema

    return card_schema()
