"""What is written of a prediction besides its row: masks, overlays and probabilities on the image's
own grid, and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from allograft.apply.dicom_objects import DicomObjects
from allograft.apply.model import Predicted
from allograft.cohort.readers import read_image
from allograft.cohort.writers import write_image, write_mask
from allograft.errors import ImageError, OutputError
from allograft.grey import plane
from allograft.predictor.abstention import Abstention
from allograft.report import draw_overlay, slice_of
from allograft.report.boxes import draw_boxes
from allograft.tasks import Answer
from allograft.tree import write_bytes, write_json


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
    for number, predicted_ in enumerate(predicted, 1):
        rows, columns = predicted_.grid.shape
        images.append({"id": number, "file_name": predicted_.name, "height": rows, "width": columns})
        boxes = predicted_.answer.boxes
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
    predicted: Predicted,
    path: Path,
    *,
    overlay: bool,
    probabilities: bool,
    dicom: DicomObjects | None = None,
    rule: Abstention | None = None,
) -> dict[Path, Path]:
    """Write the pictures of an answer; a class alone leaves none.

    Args:
        dicom: the DICOM objects to write.
        rule: what they say of the image's distance from the training images.

    Returns:
        Hidden file, with the ending by which its format is chosen -> the name it is to have.
    """
    answer, suffix, made = predicted.answer, ".png" if predicted.affine is None else ".nii.gz", dict[Path, Path]()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path.parent}: cannot be written ({error.strerror}); choose another --out") from error

    def beside(ending: str) -> Path:
        hidden = path.with_name(f".unfinished-{path.name}_{ending}")
        made[hidden] = path.with_name(f"{path.name}_{ending}")
        return hidden

    if dicom is not None:
        try:
            dicom.write(predicted, rule, beside)
        except ImageError:
            for hidden in made:
                hidden.unlink(missing_ok=True)
            raise
    if answer.mask is not None:
        if dicom is None or not dicom.has_segmentation:
            write_mask(beside(f"mask{suffix}"), answer.mask.numpy(), predicted.affine, axis=predicted.grid.axis)
        if overlay:
            overlaid = _mask_overlay(predicted, answer.mask.numpy())
            write_bytes(beside("overlay.png"), overlaid)
    if answer.boxes is not None:
        write_json(beside("boxes.json"), boxes_file(answer))
        if overlay:
            image = plane(read_image(predicted.files, nan=0.0).array)
            write_bytes(beside("overlay.png"), draw_boxes(image, None, answer.boxes))
    if probabilities or answer.mask is None:  # an image that was made is the answer itself
        # a PNG holds shares of 65535
        low, high = answer.span if predicted.affine is not None else (0.0, 1.0)
        for name, values in answer.maps.items():
            drawn = low + (high - low) * values.numpy()
            write_image(beside(f"{name}{suffix}"), drawn, predicted.affine, axis=predicted.grid.axis)
    return made


def _mask_overlay(predicted: Predicted, mask: NDArray[Any]) -> bytes:
    """A PNG of the slice that shows most of a mask."""
    image = read_image(predicted.files, nan=0.0).array
    index = slice_of(image, mask)
    return draw_overlay(plane(image, index), None, plane(mask[None], index), classes=len(predicted.answer.maps))
