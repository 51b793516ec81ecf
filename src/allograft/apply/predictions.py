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
from allograft.apply.dicom_segmentation import ENDING, check_segments, segments_of, write_segmentation
from allograft.apply.model import Predicted
from allograft.cohort import Case
from allograft.cohort.readers import read_image
from allograft.cohort.writers import write_image, write_mask
from allograft.errors import AllograftError, ImageError, OutputError, UnitsFailed
from allograft.grey import plane
from allograft.predictor.abstention import Abstention
from allograft.predictor.deployment import Deployment
from allograft.predictor.whole import stem
from allograft.report import draw_overlay, slice_of
from allograft.report.boxes import draw_boxes
from allograft.tasks import Answer
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
        say: told which threshold that is, and its coverage of held-out cases.

    Returns:
        How many images were predicted.

    Raises:
        UnitsFailed: some images failed, after the others were written.
        ModelError, ImageError, ManifestError, OutputError: the model, a list of one image, or OUT
            cannot be used.
    """
    loaded, table = load(model, device=device, precision=precision), ResultsTable(out / "results.csv")
    asked = None if abstain is None else Abstention.from_predictor(loaded.predictor, abstain, loaded.deployment)
    rule = asked or Abstention.by_default(loaded.predictor, loaded.deployment)
    for line in (*described(loaded.deployment), *([] if rule is None else [str(rule)])):
        say(line)
    if dicom_seg:
        check_segments(loaded.task)
    failed: dict[str, AllograftError] = {}
    names: dict[str, str] = {}
    found: list[Predicted] = []
    cases = loaded.cases(list(images))
    _check_names(cases)
    for one in loaded.predictions(cases, failed=failed):
        name = output_name(one.name)
        row, is_far = row_of(one, rule)
        is_far = is_far and asked is not None
        if is_far and rule is not None:
            blank, score = dict.fromkeys(one.answer.values, ""), one.facts[rule.column]
            named = f"{rule.column} {score:.3g} is above {rule.threshold:.3g}"
            row |= {**blank, "warnings": f"abstained: {named}"}
        segments = segments_of(loaded.task) if dicom_seg else None
        try:
            made = {} if is_far else written_hidden(one, out / name, overlay=overlay, probabilities=probabilities,
                                                    segments=segments)  # fmt: skip
        except ImageError as error:  # an image that has no place for a segmentation; the others follow
            failed[one.name] = error
            continue
        names[name] = one.name
        table.add_failed(failed, list(row))
        table.add(row)
        for hidden, path in made.items():
            replace_file(hidden, path)
        if one.answer.boxes is not None:
            found.append(one)
    if found:
        write_json(out / "coco.json", coco(found))
    if len(failed) == 1 and not names:
        raise next(iter(failed.values()))
    table.add_failed(failed, table.columns or ["image", "warnings"])
    if not names and not failed:
        table.add({"image": ""})
    if failed:
        reason = str(next(iter(failed.values())))
        raise UnitsFailed(
            f"{len(failed)} of {len(failed) + len(names)} images failed; {out / 'results.csv'} says why; the first: "
            f"{reason}"
        )
    return len(names)


def row_of(one: Predicted, rule: Abstention | None) -> tuple[dict[str, Any], bool]:
    """An image's row of ``results.csv``, and whether it is farther from the training images than
    the rule lets through."""
    unit = {} if one.answer.unit is None else {"unit": one.answer.unit}
    said = {key: fact for key, fact in one.facts.items() if key != "warnings"}
    said |= {key: " ".join(map(str, fact)) for key, fact in said.items() if isinstance(fact, list)}
    is_far = rule is not None and one.facts[rule.column] > rule.threshold
    said |= {} if rule is None else {"abstain": "yes" if is_far else "no"}
    return {"image": one.name, **unit, **one.answer.values, **said, "warnings": "; ".join(one.answer.warnings)}, is_far


def described(known: Deployment | None) -> list[str]:
    """What a model knows of its validation, in lines: calibration by site, and groups of
    patients."""
    if known is None:
        return []
    lines = []
    for site, one in known.facts["calibration"].items():
        lines.append(
            f"validated at {site} on {one['cases']} cases: calibration error {one['error_before']:.3f}, "
            f"{one['error_after']:.3f} at temperature {one['temperature']:.2f} (fitted on these cases; not applied)"
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
                found = list(csv.DictReader(file, strict=True))
            self.columns = list(found[0]) if found else []
            self.rows = {output_name(row["image"]): row for row in found}

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


def boxes_file(answer: Answer) -> dict[str, list[Any]]:
    """Boxes as a manifest's column ``boxes`` names them, with their scores."""
    boxes, classes = answer.boxes, list(answer.values)  # a count of each class, in their order
    assert boxes is not None
    assert boxes.score is not None
    return {
        "boxes": boxes.xyxy.tolist(),
        "labels": [classes[label - 1] for label in boxes.label.tolist()],
        "scores": boxes.score.tolist(),
    }


def coco(predicted: Sequence[Predicted]) -> dict[str, list[dict[str, Any]]]:
    """Boxes of several images in COCO's form: x, y, width and height in pixels."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, one in enumerate(predicted, 1):
        rows, columns = one.grid.shape
        images.append({"id": number, "file_name": one.name, "height": rows, "width": columns})
        boxes = one.answer.boxes
        assert boxes is not None
        assert boxes.score is not None
        for (x0, y0, x1, y1), label, score in zip(
            boxes.xyxy.tolist(), boxes.label.tolist(), boxes.score.tolist(), strict=True
        ):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": 0, "score": score}
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label, **box})
    classes = enumerate(predicted[0].answer.values, 1)
    categories = [{"id": label, "name": name} for label, name in classes]
    return {"images": images, "categories": categories, "annotations": annotations}


def written_hidden(
    one: Predicted, path: Path, *, overlay: bool, probabilities: bool, segments: Sequence[str] | None = None
) -> dict[Path, Path]:
    """Write the pictures of an answer; a class alone leaves none.

    Args:
        segments: the names of the classes, for a DICOM segmentation in the place of a mask.

    Returns:
        Hidden file, with the ending by which its format is chosen -> the name it is to have.
    """
    answer, suffix, made = one.answer, ".png" if one.affine is None else ".nii.gz", dict[Path, Path]()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be written ({error.strerror}); choose another --out") from error

    def beside(ending: str) -> Path:
        hidden = path.with_name(f".unfinished-{path.name}_{ending}")
        made[hidden] = path.with_name(f"{path.name}_{ending}")
        return hidden

    if answer.mask is not None:
        if segments is None:
            write_mask(beside(f"mask{suffix}"), answer.mask.numpy(), one.affine, axis=one.grid.axis)
        else:
            write_segmentation(beside(ENDING), one, segments)
        if overlay:
            image, found = read_image(one.files, nan=0.0).array, answer.mask.numpy()
            index = slice_of(image, found)
            drawn = draw_overlay(plane(image, index), None, plane(found[None], index), classes=len(answer.maps))
            write_bytes(beside("overlay.png"), drawn)
    if answer.boxes is not None:
        write_json(beside("boxes.json"), boxes_file(answer))
        if overlay:
            image = plane(read_image(one.files, nan=0.0).array)
            write_bytes(beside("overlay.png"), draw_boxes(image, None, answer.boxes))
    if probabilities or answer.mask is None:  # an image that was made is the answer itself
        # a PNG holds shares of 65535
        low, high = answer.span if one.affine is not None else (0.0, 1.0)
        for name, values in answer.maps.items():
            write_image(beside(f"{name}{suffix}"), low + (high - low) * values.numpy(), one.affine, axis=one.grid.axis)
    return made
