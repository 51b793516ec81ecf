"""Predictions as files: a table of numbers and warnings, and masks, overlays and probabilities on each image's own grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from allograft.apply import load
from allograft.apply.model import Predicted
from allograft.cohort.readers import read_image
from allograft.cohort.writers import write_image, write_mask
from allograft.errors import AllograftError, ImageError, OutputError, UnitsFailed
from allograft.grey import plane
from allograft.predictor.whole import stem
from allograft.report import draw_overlay, slice_of
from allograft.tree import write_bytes


def write_predictions(
    model: Path, images: Iterable[Path], out: Path, *, overlay: bool = False, probabilities: bool = False, device: str = "cpu"
) -> int:
    """Predict and write ``OUT/results.csv``: volumes or class probabilities, and warnings, a row an image.

    Models that segment also leave ``OUT/NAME_mask.png`` (or ``.nii.gz`` with the image's affine and shape) for each image, written just
    before its row. An image that cannot be predicted gets a row whose warnings say ``failed`` and why, and the others follow.

    Returns:
        How many images were predicted.

    Raises:
        UnitsFailed: some images failed, after the others were written.
        ModelError, ImageError, ManifestError, OutputError: the model, a list of one image, or OUT cannot be used.
    """
    loaded = load(model, device=device)
    failed: dict[str, AllograftError] = {}
    table = _Table(out / "results.csv")
    names: dict[str, str] = {}
    for one in loaded.predict(list(images), failed=failed):
        name = "/".join(part for part in Path(stem(one.name)).parts if part not in ("/", ".", ".."))  # never out of OUT
        if name in names:
            raise ImageError(f"{one.name}: '{names[name]}' would write the same files; rename one, or predict them into different folders")
        names[name] = one.name
        _write(one, out / name, overlay=overlay, probabilities=probabilities)
        unit = {} if one.answer.unit is None else {"unit": one.answer.unit}
        table.add({"image": one.name, **unit, **one.answer.values, "warnings": "; ".join(one.answer.warnings)}, failed)
    if len(failed) == 1 and not names:
        raise next(iter(failed.values()))
    table.close(failed)
    if failed:
        reason = str(next(iter(failed.values())))
        raise UnitsFailed(f"{len(failed)} of {len(failed) + len(names)} images failed; {out / 'results.csv'} says why; the first: {reason}")
    return len(names)


class _Table:
    """A CSV that grows by a row an image, so that an end in the middle leaves the rows of the masks that are there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns: list[str] = []
        self.told: set[str] = set()

    def add(self, row: Mapping[str, object], failed: Mapping[str, AllograftError]) -> None:
        """A row, after those of the images that failed before it."""
        if not self.columns:
            self.columns = list(row)
            write_bytes(self.path, self._text([dict(zip(row, row, strict=True))]))
        self._append([*self._failures(failed), row])

    def close(self, failed: Mapping[str, AllograftError]) -> None:
        """The rows of the images that failed last."""
        if not self.columns:
            self.columns = ["image", "warnings"] if failed else ["image"]
            write_bytes(self.path, self._text([{name: name for name in self.columns}]))
        self._append(self._failures(failed))

    def _failures(self, failed: Mapping[str, AllograftError]) -> list[Mapping[str, object]]:
        new = [name for name in failed if name not in self.told]
        self.told.update(new)
        return [{"image": name, "warnings": f"failed: {failed[name]}"} for name in new]

    def _append(self, rows: Sequence[Mapping[str, object]]) -> None:
        try:
            with open(self.path, "ab") as file:
                file.write(self._text(rows))
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); free some space or choose another --out") from error

    def _text(self, rows: Sequence[Mapping[str, object]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, restval="", lineterminator="\n").writerows(rows)
        return text.getvalue().encode()


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
