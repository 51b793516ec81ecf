"""Options that the commands of ``allograft import`` share, and how they reach the importers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from allograft.errors import SpecError

if TYPE_CHECKING:
    from allograft.cohort.importers import Options

Src = Annotated[Path, typer.Argument(help="What to import.", metavar="SRC")]
Out = Annotated[
    Path,
    typer.Argument(
        help="Where to write the manifest: a folder that contains all files, or a path that ends in .csv.",
        metavar="OUT",
    ),
]
Site = Annotated[str, typer.Option(help="Hospital, scanner or laboratory of the images.")]
Images = Annotated[Path, typer.Option(help="The folder of the images.")]
Subject = Annotated[
    str | None,
    typer.Option(
        help="Where the patient's ID is in the file name: --subject '{subject}_*', '{subject:2}*' for two characters"
    ),
]
Once = Annotated[bool, typer.Option("--one-image-per-subject", help="Treat every image as a separate patient.")]
Unlabelled = Annotated[bool, typer.Option("--unlabelled", help="Include the test images, which have no masks.")]
Class = Annotated[
    list[str] | None, typer.Option("--class", help="Name a stored label: --class 0=normal", metavar="STORED=NAME")
]
Append = Annotated[bool, typer.Option("--append", help="Add to an existing manifest.")]
Split = Annotated[str | None, typer.Option(help="Split of the rows that have none yet: train, val or test.")]
Prefix = Annotated[str, typer.Option("--subject-prefix", help="Prefix for subject IDs that clash between hospitals.")]
Shared = Annotated[bool, typer.Option("--shared-subjects", help="Treat a subject ID at two sites as one patient.")]
Mask = Annotated[
    str | None,
    typer.Option(help="The masks: a pattern of paths below SRC; for a table, a column or a pattern of columns."),
]
Paired = Annotated[
    str | None, typer.Option(help="The registered images of another modality, in the same form as --mask.")
]
Region = Annotated[str | None, typer.Option(help="Masks of the pixels that count, in the same form as --mask.")]


def shared_options(append: bool, split: str | None, prefix: str, shared: bool) -> Options:
    """As the importers take them."""
    return {"append": append, "split": split, "subject_prefix": prefix, "shared_subjects": shared}


def named_classes(pairs: list[str] | None) -> dict[str, str]:
    """Stored label -> class name, from ``--class STORED=NAME``."""
    parts = [pair.partition("=") for pair in pairs or ()]
    if wrong := [stored for stored, equals, name in parts if not (equals and name)]:
        raise SpecError(f"--class {wrong[0]}: expected STORED=NAME, for example --class 0=normal")
    return {stored: name for stored, _, name in parts}
