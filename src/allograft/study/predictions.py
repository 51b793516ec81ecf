"""Predictions as files: masks on each image's own grid, volumes and warnings, overlays, probabilities."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from allograft.cohort.readers import read_image, write_image, write_mask
from allograft.errors import ImageError, OutputError
from allograft.predictor import load
from allograft.predictor.model import Predicted, stem
from allograft.study.report import draw_overlay, plane, slice_of
from allograft.tree import write_bytes


def write_predictions(
    model: Path, images: Iterable[Path], out: Path, *, overlay: bool = False, probabilities: bool = False, device: str = "cpu"
) -> int:
    """Predict and write ``OUT/NAME_mask.png`` (or ``.nii.gz`` with the image's affine) for each image, and ``OUT/results.csv``.

    Returns:
        How many images were predicted.

    Raises:
        ModelError, ImageError, ManifestError, OutputError.
    """
    loaded = load(model, device=device)
    images = list(images)
    rows: list[dict[str, object]] = []
    names: dict[str, str] = {}
    for one in loaded.predict(images):
        name = "/".join(part for part in Path(stem(one.name)).parts if part not in ("/", ".", ".."))  # never out of OUT
        if name in names:
            raise ImageError(f"{one.name}: '{names[name]}' would write the same files; rename one, or predict them into different folders")
        names[name] = one.name
        _write(one, out / name, loaded.task.names, overlay=overlay, probabilities=probabilities)
        unit = "pixels" if one.affine is None else "mm3"
        rows.append({"image": one.name, "unit": unit, **one.volumes, "warnings": "; ".join(one.warnings)})
    text = io.StringIO()
    writer = csv.DictWriter(text, ["image", "unit", *loaded.task.names, "warnings"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / "results.csv", text.getvalue().encode())
    return len(rows)


def _write(one: Predicted, path: Path, classes: Iterable[str], *, overlay: bool, probabilities: bool) -> None:
    suffix = ".png" if one.affine is None else ".nii.gz"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be written ({error.strerror}); choose another --out") from error
    write_mask(path.with_name(f"{path.name}_mask{suffix}"), one.mask.numpy(), one.affine)
    if probabilities:
        for index, name in enumerate(classes, 1):
            write_image(path.with_name(f"{path.name}_{name}{suffix}"), one.probabilities[index].numpy(), one.affine)
    if overlay:
        image, found = read_image(one.files).array, one.mask.numpy()
        index = slice_of(image, found)
        picture = draw_overlay(plane(image, index), None, plane(found[None], index))
        write_bytes(path.with_name(f"{path.name}_overlay.png"), picture)
