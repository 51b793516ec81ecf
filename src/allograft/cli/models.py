"""``allograft predict``, ``evaluate`` and ``export``: what one does with a model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from allograft.cli.options import Device

models = typer.Typer(rich_markup_mode=None)


@models.command(
    short_help="Predict images with a model.",
    epilog="Example: allograft predict runs/vessels/models/finetune@chase photographs/ -o predictions --overlay",
)
def predict(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, a folder, or a manifest.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for masks and results.csv.")],
    overlay: Annotated[bool, typer.Option(help="Also write a picture of each result.")] = False,
    probabilities: Annotated[bool, typer.Option(help="Also write the probability of each class.")] = False,
    abstain: Annotated[
        float | None,
        typer.Option(
            help="Predict this share of the images that are like the training images, and abstain from images "
            "farther away: 0.95"
        ),
    ] = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="For DICOM series: write masks as DICOM segmentations, NAME_seg.dcm.")
    ] = False,
    dicom_sr: Annotated[
        bool,
        typer.Option(
            "--dicom-sr",
            help="Of DICOM series: volumes, classes and probabilities as a structured report, NAME_sr.dcm; for masks "
            "together with --dicom-seg.",
        ),
    ] = False,
    dicom_codes: Annotated[
        Path | None,
        typer.Option(
            help="A YAML or JSON file with the SNOMED CT or other code of each class: --dicom-seg --dicom-sr "
            "--dicom-codes codes.yaml"
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[str, typer.Option(help="32-true; faster but rounded: bf16-mixed, 16-mixed.")] = "32-true",
) -> None:
    """Predict images with a model: masks on each image's own grid, volumes or class probabilities
    in results.csv."""
    from allograft.apply.predictions import write_predictions

    written = write_predictions(
        model,
        images,
        out,
        overlay=overlay,
        probabilities=probabilities,
        device=device,
        precision=precision,
        abstain=abstain,
        dicom_seg=dicom_seg,
        dicom_sr=dicom_sr,
        dicom_codes=dicom_codes,
        say=print,
    )
    print(
        f"{written} predictions in {out}; numbers and warnings in {out / 'results.csv'}. Research use only, not a "
        "medical device."
    )


@models.command(
    short_help="Evaluate a model, or predictions, on labelled cases.",
    epilog="Example: allograft evaluate runs/vessels/models/finetune@chase third-site/manifest.csv",
)
def evaluate(
    judged: Annotated[Path, typer.Argument(help="A model folder, or a folder of another tool's masks.")],
    manifest: Annotated[Path, typer.Argument(help="The labelled cases to evaluate on.")],
    classes: Annotated[
        list[str] | None, typer.Option(help="For masks: the classes, in order; --classes vessel")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write every case's metrics to this JSON file.")
    ] = None,
    missed: Annotated[
        str,
        typer.Option(
            help="The distance to a class that only the truth or only the prediction has: 'undefined', or 'diagonal' "
            "to add hd95_diagonal and asd_diagonal, with the image's diagonal in its place."
        ),
    ] = "undefined",
    surface_dice: Annotated[
        float | None, typer.Option(help="Also surface Dice, at this tolerance in mm: --surface-dice 1.0")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(help="Also write the scores by case number, without names or images, for 'allograft merge'."),
    ] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option("--site", help="Names of the sites in the record, in the manifest's order; without it, none."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Evaluate a model or predictions on a manifest; images that it was trained on are refused."""
    from allograft.apply.evaluate import evaluate as judge
    from allograft.apply.evaluate import summary, write_evaluation
    from allograft.apply.travelling import check_record, site_record

    task = {"segmentation": {"classes": classes}} if classes else None
    how: dict[str, Any] = {"missed": cast(Any, missed), "surface_dice": surface_dice, "device": device}
    if record is not None:
        check_record(judged, manifest, sites or ())
    evaluation = judge(judged, manifest, task=task, **how)
    for site in evaluation.metrics:
        print(summary(evaluation, site))
    if evaluation.unlabelled:
        print(f"{evaluation.unlabelled} cases have no label and are not measured")
    for text in evaluation.warnings:
        print(f"warning: {text}", file=sys.stderr)
    if out is not None:
        write_evaluation(evaluation, out)
    if record is not None:
        site_record(evaluation, judged, manifest, sites=sites or (), surface_dice=surface_dice).write(record)


@models.command(
    short_help="Pack a model to share it, also as ONNX.",
    epilog="Example: allograft export runs/vessels/models/finetune@chase finetune-chase.zip",
)
def export(
    model: Annotated[Path, typer.Argument(help="A model folder.")],
    out: Annotated[Path, typer.Argument(help="The file to write: .zip, .onnx or .pt2.")],
    format_: Annotated[
        str | None, typer.Option("--format", help="zip, onnx or torch-export; by default from the file's ending.")
    ] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Also export a model that holds images of patients.")
    ] = False,
) -> None:
    """Pack a model to share it; a model that holds patients' images is refused without
    --with-images. As .onnx or .pt2, its network runs in other programs."""
    from allograft.apply.export import export_model
    from allograft.apply.graph import export_graph, form_of

    form = form_of(out, format_)
    if form is None:
        print(export_model(model, out, with_images=with_images))
        return
    made = export_graph(model, out, form)
    sizes = "any size" if made.is_flexible else f"size {made.sizes[0]}"
    print(f"{made.path}: images of {sizes}; differs from allograft predict by at most {made.difference:.1e}")
