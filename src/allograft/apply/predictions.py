"""Predictions as files: a table of numbers and warnings, and masks, overlays and probabilities on
each image's own grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allograft.apply import load
from allograft.apply.dicom_objects import DicomObjects
from allograft.apply.model import Predicted
from allograft.apply.prediction_files import coco, written_hidden
from allograft.cohort import Case
from allograft.errors import AllograftError, ImageError, UnitsFailed
from allograft.predictor.abstention import Abstention
from allograft.predictor.deployment import Deployment
from allograft.predictor.whole import stem
from allograft.tree import append_bytes, replace_file, write_bytes, write_json


def write_predictions(
    model: Path,
    images: Iterable[Path],
    out: Path,
    *,
    overlay: bool = False,
    probabilities: bool = False,
    device: str = "auto",
    precision: str = "32-true",
    abstain: float | None = None,
    dicom_seg: bool = False,
    dicom_sr: bool = False,
    dicom_codes: Path | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Predict and write ``OUT/results.csv``: volumes or class probabilities, and warnings, a row an
    image.

    Models that find boxes leave ``OUT/NAME_boxes.json`` of each image, which a manifest's column
    ``boxes`` can name, and ``OUT/coco.json`` with those of all images of this call, in COCO's form.
    Models that segment leave ``OUT/NAME_mask.png`` (or ``.nii.gz`` with the image's affine and
    shape) for each image. Files and row of an image appear one after the other when all of them are
    made, the row first, so that no mask is without its row, however the process ends. Rows of other
    images that are in OUT already stay. An image that cannot be predicted gets a row whose warnings
    say ``failed`` and why, and the others follow. Models that score an image, or choose among
    several, have columns for it.

    Args:
        abstain: the share of images like the training images that are to be answered; an image
            whose score is above the threshold has a row that says so, and no numbers or files.
        dicom_seg: write ``OUT/NAME_seg.dcm`` in the place of a mask, see ``write_segmentation``.
        dicom_sr: write ``OUT/NAME_sr.dcm``, see ``write_report``.
        dicom_codes: what the classes are in a coding scheme, see ``read_codes``.
        say: told which threshold that is, and its coverage of held-out cases.

    Returns:
        How many images were predicted.

    Raises:
        UnitsFailed: some images failed, after the others were written.
        ModelError, ImageError, ManifestError, OutputError: the model, a list of one image, or OUT
            cannot be used.
    """
    loaded, table = load(model, device=device, precision=precision), ResultsTable(out / "results.csv")
    dicom = DicomObjects.of(loaded, model, segmentation=dicom_seg, report=dicom_sr, codes=dicom_codes)
    asked = None if abstain is None else Abstention.from_predictor(loaded.predictor, abstain, loaded.deployment)
    rule = asked or Abstention.by_default(loaded.predictor, loaded.deployment)
    for line in (*described(loaded.deployment), *([] if rule is None else [str(rule)])):
        say(line)
    failed: dict[str, AllograftError] = {}
    names: dict[str, str] = {}
    predicted: list[Predicted] = []
    cases = loaded.cases(list(images))
    _check_names(cases)
    for answered in loaded.predictions(cases, failed=failed):
        name = output_name(answered.name)
        row, is_far = row_of(answered, rule)
        is_far = is_far and asked is not None
        if is_far and rule is not None:
            row |= _withheld(answered, rule)
        try:
            made = {} if is_far else written_hidden(answered, out / name, overlay=overlay, probabilities=probabilities,
                                                    dicom=dicom, rule=rule)  # fmt: skip
        except ImageError as error:  # an image that no DICOM object can be made of; the others follow
            failed[answered.name] = error
            continue
        names[name] = answered.name
        table.add_failed(failed, list(row))
        table.add(row)
        for hidden, path in made.items():
            replace_file(hidden, path)
        if answered.answer.boxes is not None:
            predicted.append(answered)
    if predicted:
        write_json(out / "coco.json", coco(predicted))
    if len(failed) == 1 and not names:
        raise next(iter(failed.values()))
    table.add_failed(failed, table.columns or ["image", "warnings"])
    if not names and not failed:
        table.add({"image": ""})
    if failed:
        raise _failure(failed, len(names), out / "results.csv")
    return len(names)


def _failure(failed: Mapping[str, AllograftError], predicted: int, table: Path) -> UnitsFailed:
    reason = str(next(iter(failed.values())))
    return UnitsFailed(
        f"{len(failed)} of {len(failed) + predicted} images failed; {table} says why; the first: {reason}"
    )


def row_of(predicted: Predicted, rule: Abstention | None) -> tuple[dict[str, Any], bool]:
    """An image's row of ``results.csv``, and whether it is farther from the training images than
    the rule lets through."""
    unit = {} if predicted.answer.unit is None else {"unit": predicted.answer.unit}
    said = {key: fact for key, fact in predicted.facts.items() if key != "warnings"}
    said |= {key: " ".join(map(str, fact)) for key, fact in said.items() if isinstance(fact, list)}
    is_far = rule is not None and predicted.facts[rule.column] > rule.threshold
    said |= {} if rule is None else {"abstain": "yes" if is_far else "no"}
    return {
        "image": predicted.name,
        **unit,
        **predicted.answer.values,
        **said,
        "warnings": "; ".join(predicted.answer.warnings),
    }, is_far


def _withheld(predicted: Predicted, rule: Abstention) -> dict[str, Any]:
    """What the row of an image says that is not answered: no numbers, and why."""
    score = predicted.facts[rule.column]
    why = f"{rule.column} {score:.3g} is above {rule.threshold:.3g}"
    return {**dict.fromkeys(predicted.answer.values, ""), "warnings": f"abstained: {why}"}


def described(known: Deployment | None) -> list[str]:
    """What a model knows of its validation, in lines: calibration by site, and groups of
    patients."""
    if known is None:
        return []
    lines = []
    for site, calibration in known.facts["calibration"].items():
        lines.append(
            f"validated at {site} on {calibration['cases']} cases: calibration error "
            f"{calibration['error_before']:.3f}, {calibration['error_after']:.3f} at temperature "
            f"{calibration['temperature']:.2f} (fitted on these cases; not applied)"
        )
    for audit in known.facts["fairness"]:
        scored = [
            f"{group['name']} {score:.3f} ({group['subjects']} subjects)"
            for group in audit["groups"]
            if (score := group["scores"].get(audit["headline"])) is not None
        ]
        if scored:
            lines.append(f"validated by {audit['attribute']}, {audit['headline']}: {', '.join(scored)}")
    return [*lines, *known.facts["notes"]]


def _check_names(cases: Sequence[Case]) -> None:
    """Refuse, before anything is predicted, two images whose files would have one name."""
    names: dict[str, str] = {}
    for case in cases:
        name = output_name(case.name)
        if name in names:
            raise ImageError(
                f"{case.name}: '{names[name]}' would write the same files; rename one, or predict them into different "
                "folders"
            )
        names[name] = case.name


def output_name(image: str) -> str:
    """What the files of an image are called below OUT, without ending: its path from the folder on,
    and never out of OUT.

    >>> output_name("../scans/a.nii.gz")
    'scans/a'
    """
    return "/".join(part for part in Path(stem(image)).parts if part not in ("/", ".", ".."))


@dataclass
class ResultsTable:
    """``results.csv``, which gains a row with each image; rows that are there already stay, unless
    their columns are others.

    Args:
        path: of the file.
    """

    path: Path
    columns: list[str] = field(default_factory=list)
    rows: dict[str, Mapping[str, object]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        with suppress(OSError, ValueError, csv.Error):
            with open(self.path, newline="", encoding="utf-8") as file:
                kept = list(csv.DictReader(file, strict=True))
            self.columns = list(kept[0]) if kept else []
            self.rows = {output_name(row["image"]): row for row in kept}

    def add(self, row: Mapping[str, object]) -> None:
        """Write a row: at the end, or in the place of the one of the same name."""
        if list(row) != self.columns:
            self.columns, self.rows = list(row), {}
        name = output_name(str(row["image"]))
        is_new = bool(self.rows) and name not in self.rows
        self.rows[name] = row
        if is_new:
            append_bytes(self.path, self._lines([row]))
        else:
            header = dict(zip(self.columns, self.columns, strict=True))
            write_bytes(self.path, self._lines([header, *self.rows.values()]))

    def add_failed(self, failed: Mapping[str, AllograftError], columns: Sequence[str]) -> None:
        """A row for each image that failed since the last call."""
        for name in (name for name in failed if name not in self.listed):
            self.add({**dict.fromkeys(columns, ""), "image": name, "warnings": f"failed: {failed[name]}"})
        self.listed |= failed.keys()

    def _lines(self, rows: Iterable[Mapping[str, object]]) -> bytes:
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="\n").writerows(rows)
        return text.getvalue().encode()
