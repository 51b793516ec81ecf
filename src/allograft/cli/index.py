"""The commands that change the database of a model that retrieves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from allograft.cli.options import Device

index = typer.Typer(
    help="Add cases to the database of a retrieval model, or remove those of a subject, without training.",
    short_help="Change the database of a retrieval model.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Model = Annotated[Path, typer.Argument(help="A model folder of the recipe mris.")]
SHOWN = 5
"""Unmatched rows that are named."""


@index.command(epilog="Example: allograft index add runs/knee/models/mris@b more/manifest.csv")
def add(
    model: Model,
    manifest: Annotated[Path, typer.Argument(help="A manifest of the cases to add, with the column paired.")],
    device: Device = "auto",
) -> None:
    """Add the paired images of a manifest to the database; nothing is trained."""
    from allograft.apply.index import add_to_index

    done = add_to_index(model, manifest, device=device)
    print(f"{done.changed} images added, {done.total} in the database")
    if done.unmatched:
        more = f" and {len(done.unmatched) - SHOWN} more" if len(done.unmatched) > SHOWN else ""
        print(f"without a paired image, left out: {', '.join(done.unmatched[:SHOWN])}{more}")


@index.command(epilog="Example: allograft index remove runs/knee/models/mris@b --subject a-007")
def remove(
    model: Model,
    subject: Annotated[str, typer.Option("--subject", help="The patient's ID in the manifest.")],
) -> None:
    """Remove a patient's images from the database, for example when consent is withdrawn."""
    from allograft.apply.index import remove_from_index

    done = remove_from_index(model, subject)
    print(f"{done.changed} images of {subject} removed, {done.total} in the database")
    print("the encoders have not changed: if they were trained on this patient, train the model again without them")


@index.command(epilog="Example: allograft index recall runs/knee/models/mris@b b/manifest.csv --where timepoint=0")
def recall(
    model: Model,
    manifest: Annotated[
        Path, typer.Argument(help="A manifest of cases that the model has not seen, with the column paired.")
    ],
    where: Annotated[
        list[str],
        typer.Option(
            "--where", help="Count only rows with this value, for example first visits.", metavar="COLUMN=VALUE"
        ),
    ] = [],  # noqa: B006 - typer copies it
    device: Device = "auto",
) -> None:
    """Measure how often the model finds an image's own paired image among all those of a
    manifest."""
    from allograft.apply.index import recall_of
    from allograft.errors import SpecError

    wanted = dict(each.split("=", 1) for each in where if "=" in each)
    if len(wanted) < len(where):
        raise SpecError(f"--where: found '{', '.join(where)}'; expected COLUMN=VALUE, a column once")
    recalls = recall_of(model, manifest, where=wanted, device=device)
    for number, band in enumerate(recalls.bands, 1):
        name = "" if len(recalls.bands) == 1 else f"band {number}: "
        shares = ", ".join(f"recall@{k} {share:.1%}" for k, share in band.items())
        print(f"{name}{shares}, of {recalls.pairs} pairs")
