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
            help="Abstain from images that are unlike the training images. The threshold is chosen to let this share "
            "of similar images through: 0.95"
        ),
    ] = None,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="For DICOM series: write masks as DICOM segmentations, NAME_seg.dcm.")
    ] = False,
    dicom_sr: Annotated[
        bool,
        typer.Option(
            "--dicom-sr",
            help="For DICOM series: write volumes, classes and probabilities as structured reports, NAME_sr.dcm. For "
            "masks, add --dicom-seg too.",
        ),
    ] = False,
    dicom_codes: Annotated[
        Path | None,
        typer.Option(
            help="A YAML or JSON file with a code for each class, in SNOMED CT or another scheme: --dicom-seg "
            "--dicom-sr --dicom-codes codes.yaml"
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str, typer.Option(help="32-true; bf16-mixed and 16-mixed are faster, but less exact.")
    ] = "32-true",
) -> None:
    """Predict images with a model. Masks are written on each image's own grid, and volumes or
    class probabilities to results.csv."""
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
        list[str] | None, typer.Option(help="For masks: the classes, in the order of mask values: --classes vessel")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Also write every case's metrics to this JSON file.")
    ] = None,
    missed: Annotated[
        str,
        typer.Option(
            help="How distances to a class that only the truth or only the prediction has are reported: 'undefined', "
            "or 'diagonal' to add hd95_diagonal and asd_diagonal, where they count as the image's diagonal."
        ),
    ] = "undefined",
    surface_dice: Annotated[
        float | None, typer.Option(help="Also compute surface Dice, at this tolerance in mm: --surface-dice 1.0")
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            help="Also write the scores to this file, by case number, without names or images, for 'allograft merge'."
        ),
    ] = None,
    sites: Annotated[
        list[str] | None,
        typer.Option(
            "--site", help="Name of a site in the record, in the manifest's order; by default sites have no names."
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Evaluate a model, or predictions, on labelled cases. Images that the model was trained on are
    refused."""
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
        str | None,
        typer.Option("--format", help="zip, onnx or torch-export; by default, the ending of the file name decides."),
    ] = None,
    with_images: Annotated[
        bool, typer.Option("--with-images", help="Also export a model that holds images of patients.")
    ] = False,
) -> None:
    """Pack a model to share it. As .onnx or .pt2, its network runs in other programs. A model that
    holds patients' images is refused without --with-images."""
    from allograft.apply.export import export_model
    from allograft.apply.graph import export_graph, form_of

    form = form_of(out, format_)
    if form is None:
        print(export_model(model, out, with_images=with_images))
        return
    made = export_graph(model, out, form)
    sizes = "any size" if made.is_flexible else f"size {made.sizes[0]}"
    print(f"{made.path}: images of {sizes}; differs from allograft predict by at most {made.difference:.1e}")
