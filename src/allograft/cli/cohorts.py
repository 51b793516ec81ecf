"""The commands that look at, label and make images: doctor, label, phantom."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from allograft.errors import SpecError
from allograft.table import rows

cohorts = typer.Typer(rich_markup_mode=None)
label = typer.Typer(help="Label images automatically.", no_args_is_help=True, rich_markup_mode=None)
cohorts.add_typer(label, name="label")


@cohorts.command(
    short_help="Check images, labels and sites before they are used.",
    epilog="Example: allograft doctor data/vessels/manifest.csv --html doctor.html",
)
def doctor(
    manifest: Annotated[Path | None, typer.Argument(help="The manifest to check.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write the result as a page to this HTML file.")] = None,
    without_images: Annotated[
        bool, typer.Option("--without-images", help="Leave patients' images out of the page.")
    ] = False,
    system: Annotated[bool, typer.Option("--system", help="Describe this machine instead.")] = False,
) -> None:
    """Check a manifest before you use it: files, sites, labels, duplicates, and how far apart the
    sites are."""
    if system or manifest is None:
        from allograft.cohort.system import describe_system

        for name, value in describe_system().items():
            print(f"{name:24} {value}")
        return
    from allograft.cohort.doctor import examine
    from allograft.cohort.doctor_text import to_text

    diagnosis = examine(manifest)
    print(to_text(diagnosis), end="")
    if html is not None:
        from allograft.report.examination import write_examination

        write_examination(html, diagnosis, None if without_images else manifest)


@label.command("skin-tone", epilog="Example: allograft label skin-tone photographs/ -o tones.csv")
def skin_tone(
    images: Annotated[list[Path], typer.Argument(help="Photographs of lesions, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The CSV file to write: image, angle, type, patch, note.")],
    skin: Annotated[
        Literal["patches", "ycbcr"],
        typer.Option(help="Measure in eight patches at the border, or in all pixels of skin colour."),
    ] = "patches",
    thresholds: Annotated[
        Literal["default", "kinyanjui", "calibrate"],
        typer.Option(
            help="Angles that separate the types: default and kinyanjui are the same; calibrate fits them to --human."
        ),
    ] = "default",
    human: Annotated[
        Path | None, typer.Option(help="A CSV file of human labels to compare with: columns image and type (1 to 6).")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw the first photographs with their eight patches to this PNG file.")
    ] = None,
) -> None:
    """Estimate the skin tone of each photograph: typology angle and Fitzpatrick type, or unknown
    with the reason."""
    from allograft.apply.skin_tones import label_skin_tones

    if sheet is not None:
        from allograft.apply.skin_sheet import check_sheet

        check_sheet(sheet, skin)
    done = label_skin_tones(images, out, skin=skin, thresholds=thresholds, human=human)
    limits = ", ".join(f"{limit:g}" for limit in done.thresholds)
    print(f"{len(done.tones)} images in {out}, {done.unknown} unknown; limits {limits} degrees")
    if done.doubtful:
        print(f"{done.doubtful} of the darkest type may be lesions over all borders: check those with a note")
    if done.within_one is not None:
        note = " (on the labels that the limits were fitted to)" if thresholds == "calibrate" else ""
        few = f"{done.judged} of {len(done.tones)} images"
        left = f", {done.named - done.judged} of unknown tone left out" if done.named > done.judged else ""
        print(f"within one type of the human labels: {done.within_one:.1%} of {few}{left}{note}")
    if sheet is not None:
        from allograft.apply.skin_sheet import write_sheet

        print(f"{write_sheet(done.tones, sheet)} photographs with their patches in {sheet}")


@label.command("boxes", epilog="Example: allograft label boxes slides/ -o weak --method hough --radius 8,20")
def boxes(
    images: Annotated[list[Path], typer.Argument(help="Images of cells, or folders of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for boxes.csv, and boxes/NAME.json per image.")],
    radius: Annotated[
        str,
        typer.Option(
            help="Smallest and largest radius of a cell, in pixels or in the unit of --pixel-size.", metavar="LOW,HIGH"
        ),
    ],
    method: Annotated[
        Literal["hough", "watershed", "edges"],
        typer.Option(help="Find circles, separate regions, or what edges enclose."),
    ] = "hough",
    name: Annotated[str, typer.Option(help="The class of the boxes.")] = "cell",
    pixel_size: Annotated[float, typer.Option(help="Side length of a pixel, for example in micrometres.")] = 1.0,
) -> None:
    """Find boxes by image processing alone. They are weak labels, which sissi corrects while it
    trains."""
    from allograft.apply.box_labels import label_boxes

    low, _, high = radius.partition(",")
    try:
        limits = float(low), float(high)
    except ValueError:
        raise SpecError(f"--radius {radius}: expected LOW,HIGH, for example --radius 8,20") from None
    counts = label_boxes(images, out, method=method, radius=limits, pixel_size=pixel_size, name=name)
    none = sum(count == 0 for count in counts.values())
    print(f"{sum(counts.values())} boxes on {len(counts)} images in {out / 'boxes.csv'}; {none} images have none")


@cohorts.command(
    short_help="Write synthetic sites with a known shift.",
    epilog="Example: allograft phantom skin phantoms/skin --subjects 300 --site a=none --site d=none --confounding "
    "a=0.6",
)
def phantom(
    name: Annotated[str, typer.Argument(help=f"The phantom: {', '.join(rows('phantom'))}.")],
    out: Annotated[Path, typer.Argument(help="Folder for images, masks and manifest.csv.")],
    dims: Annotated[int, typer.Option(help="Number of dimensions: 2 or 3.")] = 2,
    subjects: Annotated[int, typer.Option(help="Subjects per site.")] = 12,
    size: Annotated[int, typer.Option(help="Pixels along each side.")] = 64,
    site: Annotated[
        list[str] | None, typer.Option(help="A site and its shift: --site a=none --site b=severe", metavar="NAME=SHIFT")
    ] = None,
    confounding: Annotated[
        list[str] | None,
        typer.Option(
            help="For skin: the correlation of melanoma with light skin at a site, -1 to 1: --confounding a=0.6",
            metavar="NAME=NUMBER",
        ),
    ] = None,
    structure: Annotated[
        str | None, typer.Option(help="For brain: what is labelled, tissue or sulcus (absent, small or present).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the images.")] = 0,
) -> None:
    """Write synthetic sites with a known shift, described in shift.json next to the manifest."""
    from inspect import signature

    from allograft.table import find

    write = find("phantom", name)
    more: dict[str, Any] = {"sites": dict(_pair("site", text, "b=severe") for text in site)} if site else {}
    if confounding:
        if "confounding" not in signature(write).parameters:
            raise SpecError(
                f"--confounding {confounding[0]}: the {name} phantom has none; leave it out, or choose skin"
            )
        more["confounding"] = dict(_number("confounding", text, "a=0.6") for text in confounding)
    if structure is not None:
        if "structure" not in signature(write).parameters:
            raise SpecError(f"--structure {structure}: the {name} phantom has none; leave it out, or choose brain")
        more["structure"] = structure
    print(write(out, dims=dims, subjects=subjects, size=size, seed=seed, **more))


def _number(option: str, text: str, example: str) -> tuple[str, float]:
    name, value = _pair(option, text, example)
    try:
        return name, float(value)
    except ValueError:
        raise SpecError(
            f"--{option} {text}: found '{value}', expected a number, for example --{option} {example}"
        ) from None


def _pair(option: str, text: str, example: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise SpecError(f"--{option} {text}: expected NAME=VALUE, for example --{option} {example}")
    return name, value
