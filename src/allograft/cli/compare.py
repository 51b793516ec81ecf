"""``allograft compare``: two models, or two sets of predictions, on labelled cases."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from allograft.cli.options import Device
from allograft.errors import SpecError

comparison = typer.Typer(rich_markup_mode=None)
SHOWN = 20
"""Unmatched cases that are named; ``cases.csv`` names all."""
Side = Annotated[Path, typer.Argument(help="A model folder, a folder of masks, or the results.csv of predict.")]


@comparison.command(
    short_help="Compare two models, or two sets of predictions.",
    epilog="Example: allograft compare old-masks/ new-masks/ manifest.csv -o runs/compare --classes vessel",
)
def compare(
    a: Side,
    b: Side,
    manifest: Annotated[Path, typer.Argument(help="The labelled cases to compare on.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for compare.html, cases.csv and summary.csv.")],
    classes: Annotated[
        list[str] | None,
        typer.Option(help="For two folders of masks: the classes, in the order of mask values: --classes vessel"),
    ] = None,
    names: Annotated[
        str | None, typer.Option(help="Names of the two in the tables: --names old,new", metavar="A,B")
    ] = None,
    surface_dice: Annotated[
        float | None, typer.Option(help="Also compute surface Dice, at this tolerance in mm: --surface-dice 1.0")
    ] = None,
    device: Device = "auto",
) -> None:
    """Compare two models, or two sets of predictions, on the same cases.

    The differences are B minus A, paired by case, subject and site, with an interval and an exact
    test. The page shows the worst cases as pictures.
    """
    from allograft.apply.compare import compare as compared
    from allograft.report.head_to_head import sentence, site_lines

    task = {"segmentation": {"classes": classes}} if classes else None
    both = _pair(names)
    compared_ = compared(a, b, manifest, out, task=task, names=both, surface_dice=surface_dice, device=device)
    print("\n".join(site_lines(compared_)))
    for unmatched in compared_.unmatched[:SHOWN]:
        print(f"left out: {unmatched.case}: {unmatched.name} {unmatched.reason}")
    if (rest := len(compared_.unmatched) - SHOWN) > 0:
        print(f"left out: {rest} more cases, see {out / 'cases.csv'}")
    if compared_.unlabelled:
        print(f"{compared_.unlabelled} cases have no label and are not compared")
    for text in compared_.warnings:
        print(f"warning: {text}", file=sys.stderr)
    print(": ".join(sentence(compared_)))
    print(f"page: {out / 'compare.html'}; numbers: {out / 'summary.csv'}, {out / 'cases.csv'}")


def _pair(names: str | None) -> tuple[str, str] | None:
    if names is None:
        return None
    first, comma, second = (part.strip() for part in names.partition(","))
    if not comma or "," in second:
        raise SpecError(f"--names {names}: expected two names with a comma between them, for example --names old,new")
    return first, second
