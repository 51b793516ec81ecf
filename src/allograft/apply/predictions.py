"""Predictions as files: a table of numbers and warnings, and masks, overlays and probabilities on each image's own grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from allograft.apply import load
from allograft.apply.model import Predicted
from allograft.cohort.readers import read_image
from allograft.cohort.writers import write_image, write_mask
from allograft.errors import ImageError, OutputError
from allograft.grey import plane
from allograft.predictor.whole import stem
from allograft.report import draw_overlay, slice_of
from allograft.tree import write_bytes


def write_predictions(
    model: Path, images: Iterable[Path], out: Path, *, overlay: bool = False, probabilities: bool = False, device: str = "cpu"
) -> int:
    """Predict and write ``OUT/results.csv``: volumes or class probabilities, and warnings, a row an image.

    Models that segment also leave ``OUT/NAME_mask.png`` (or ``.nii.gz`` with the image's affine and shape) for each image.

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
        _write(one, out / name, overlay=overlay, probabilities=probabilities)
        unit = {} if one.answer.unit is None else {"unit": one.answer.unit}
        rows.append({"image": one.name, **unit, **one.answer.values, "warnings": "; ".join(one.answer.warnings)})
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["image"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_bytes(out / "results.csv", text.getvalue().encode())
    return len(rows)


def _write(one: Predicted, path: Path, *, overlay: bool, probabilities: bool) -> None:
    """The pictures of an answer; a class alone leaves none."""
    answer, suffix = one.answer, ".png" if one.affine is None else ".nii.gz"
    if answer.mask is not None:
        write_mask(_beside(path, f"mask{suffix}"), answer.mask.numpy(), one.affine, axis=one.grid.axis)
        if overlay:
            image, found = read_image(one.files, nan=0.0).array, answer.mask.numpy()
            index = slice_of(image, found)
            write_bytes(_beside(path, "overlay.png"), draw_overlay(plane(image, index), None, plane(found[None], index)))
    if probabilities or answer.mask is None:  # an image that was made is the answer itself
        low, high = answer.span if one.affine is not None else (0.0, 1.0)  # a PNG holds shares of 65535
        for name, values in answer.maps.items():
            write_image(_beside(path, f"{name}{suffix}"), low + (high - low) * values.numpy(), one.affine, axis=one.grid.axis)


def _beside(path: Path, ending: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be written ({error.strerror}); choose another --out") from error
    return path.with_name(f"{path.name}_{ending}")
