"""What ``predict`` and ``load`` are told arrives: each option writes its own files, and a model is given what its card
says, image by image."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.apply.squares import write_square
from tests.unit.apply.test_millimetres import CARD, Bright
from tests.unit.tiny import write_rows

from allograft.apply import predictions
from allograft.apply.model import Model, Predicted
from allograft.apply.prediction_files import boxes_file, coco, written_hidden
from allograft.batch import Batch, Boxes
from allograft.cohort.picture import Grid
from allograft.cohort.prepared_images import PreparedImages
from allograft.errors import ImageError, ModelError
from allograft.tasks import Answer
from allograft.tasks.segmentation import Segmentation


@dataclass(frozen=True)
class Listening:
    """Bright, which keeps what it was given and has something to say."""

    given: list[Batch] = field(default_factory=list)
    channels: int = 2

    def __call__(self, batch: Batch) -> dict[str, Any]:
        self.given.append(batch)
        found = Bright()(batch)["mask"][:, :1].expand(-1, self.channels, *[-1] * (batch.image.ndim - 2))
        return {"mask": found, "warnings": tuple("from the predictor" for _ in batch.cases)}


def model(predictor: Any = None, **card: Any) -> Model:
    return Model(predictor or Bright(), CARD | card, torch.device("cpu"))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[dict[str, Any]]]:
    """From now on this model is loaded; how is listed."""

    def of(made: Model) -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = []

        def load(folder: Path, **how: Any) -> Model:
            calls.append(how)
            return made

        monkeypatch.setattr(predictions, "load", load)
        return calls

    return of


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("probabilities", [False, True])
def test_each_option_writes_its_own_files_and_no_other(
    overlay: bool, probabilities: bool, loaded: Callable[..., list[dict[str, Any]]], tmp_path: Path
) -> None:
    write_square(tmp_path / "a.png")
    calls, out = loaded(model()), tmp_path / "out"
    predictions.write_predictions(
        tmp_path, [tmp_path / "a.png"], out, overlay=overlay, probabilities=probabilities, device="x", precision="y"
    )
    assert calls == [{"device": "x", "precision": "y"}]
    wanted = {"results.csv", "a_mask.png"} | ({"a_overlay.png"} if overlay else set())
    wanted |= {"a_blob.png"} if probabilities else set()
    assert {path.name for path in out.iterdir()} == wanted


def test_an_overlay_shows_the_slice_with_most_of_the_mask_and_every_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = np.zeros((12, 13, 6), np.uint8)
    volume[2:9, 3:10, 4] = 1
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii.gz")
    drawn: list[Any] = []
    module = "allograft.apply.prediction_files.draw_overlay"
    monkeypatch.setattr(module, lambda image, truth, mask, classes: drawn.append((image, mask, classes)) or b"")
    two = model(Listening(channels=3), task={"segmentation": {"classes": ["blob", "rim"]}})
    (one,) = two.predict([tmp_path / "a.nii.gz"])
    answer = replace(one.answer, mask=torch.from_numpy(volume.astype(np.int64)))
    written_hidden(replace(one, answer=answer), tmp_path / "out" / "a", overlay=True, probabilities=False)
    ((image, mask, classes),) = drawn
    assert (int(mask.sum()), classes) == (49, 2)
    assert image.max() > image.min()


def test_what_the_answer_and_the_predictor_say_is_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_square(tmp_path / "a.png")
    answered = Segmentation.answer
    monkeypatch.setattr(Segmentation, "answer", lambda *given: replace(answered(*given), warnings=("from the answer",)))
    (one,) = model(Listening()).predict([tmp_path / "a.png"])
    assert one.answer.warnings == ("from the answer", "from the predictor")


def test_a_predictor_is_given_no_label_the_sites_of_its_card_and_one_image_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("1", "2", "mask"):
        write_square(tmp_path / f"{name}.png")
    rows = [{"image": f"{name}.png", "mask": "mask.png", "subject": name, "site": site} for name, site in ("1b", "2z")]
    manifest = write_rows(tmp_path / "manifest.csv", rows)
    predictor = Listening()
    made = model(predictor, sites=["a", "b"])
    assert not any(case.labels for case in made.cases(manifest))
    prepared = PreparedImages(made.prepared().preprocessing, made.prepared().coding)
    monkeypatch.setattr(Model, "prepared", lambda self: prepared)
    for _ in made.predictions(manifest):
        assert not prepared.memory
    assert [(batch.site.tolist(), dict(batch.labels)) for batch in predictor.given] == [([1], {}), ([-1], {})]


def test_a_table_in_parquet_is_a_manifest_too(tmp_path: Path) -> None:
    import pandas

    write_square(tmp_path / "1.png")
    pandas.DataFrame({"image": ["1.png"], "subject": ["s"], "site": ["a"]}).to_parquet(tmp_path / "m.parquet")
    (case,) = model().cases(tmp_path / "m.parquet")
    assert (case.subject, case.image) == ("s", (tmp_path / "1.png",))


@pytest.mark.parametrize(("stored", "expected"), [(3, 1), (1, 3)])
def test_more_and_fewer_channels_than_in_the_training_are_refused(stored: int, expected: int, tmp_path: Path) -> None:
    shape = (8, 8, 3) if stored == 3 else (8, 8)
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(tmp_path / "a.png")
    words = f"a.png: has {stored} channels, the model was trained on {expected}; convert the image"
    with pytest.raises(ImageError, match=words):
        model(channels=expected).predict(tmp_path / "a.png")


def test_a_predictor_with_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    write_square(tmp_path / "a.png")
    with pytest.raises(ModelError, match="gives 3 channels for 'mask', its task has 2"):
        model(Listening(channels=3)).predict(tmp_path / "a.png")


@pytest.mark.parametrize("key", ["task", "preprocessing", "channels"])
def test_a_card_that_says_too_little_is_refused_when_it_is_loaded(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from allograft.apply import load

    card = {name: value for name, value in CARD.items() if name != key}
    monkeypatch.setattr("allograft.apply.model.load_predictor", lambda folder, **_: (Bright(), card))
    with pytest.raises(ModelError, match=f"the card lacks '{key}'"):
        load(tmp_path, device="cpu")


# ---------------------------------------------------------- boxes
def found(name: str, shape: tuple[int, int], *boxes: tuple[list[float], int, float]) -> Predicted:
    made = Boxes(
        torch.tensor([xyxy for xyxy, _, _ in boxes]).reshape(-1, 4),
        torch.tensor([label for _, label, _ in boxes], dtype=torch.int64),
        torch.tensor([score for *_, score in boxes], dtype=torch.float64),
    )
    return Predicted(name, (Path(name),), Grid(shape, None), Answer({"red": 1.0, "white": 1.0}, boxes=made))


ONE = found("1.png", (20, 30), ([1.0, 2.0, 4.0, 9.0], 2, 0.25), ([0.0, 1.0, 5.0, 3.0], 1, 0.75))
TWO = found("2.png", (40, 50), ([2.0, 2.0, 6.0, 3.0], 2, 0.5))


def test_boxes_are_written_as_a_manifest_names_them() -> None:
    assert boxes_file(ONE.answer) == {
        "boxes": [[1.0, 2.0, 4.0, 9.0], [0.0, 1.0, 5.0, 3.0]],
        "labels": ["white", "red"],
        "scores": [0.25, 0.75],
    }


def test_boxes_of_all_images_are_in_coco_s_form() -> None:
    made = coco([ONE, found("0.png", (5, 6)), TWO])
    assert made["categories"] == [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]
    assert [tuple(image.values()) for image in made["images"]] == [
        (1, "1.png", 20, 30),
        (2, "0.png", 5, 6),
        (3, "2.png", 40, 50),
    ]
    assert list(made["images"][0]) == ["id", "file_name", "height", "width"]
    keys = ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "score")
    assert [tuple(box[key] for key in keys) for box in made["annotations"]] == [
        (1, 1, 2, [1.0, 2.0, 3.0, 7.0], 21.0, 0, 0.25),
        (2, 1, 1, [0.0, 1.0, 5.0, 2.0], 10.0, 0, 0.75),
        (3, 3, 2, [2.0, 2.0, 4.0, 1.0], 4.0, 0, 0.5),
    ]


def test_boxes_of_one_call_are_in_one_file(loaded: Callable[..., Any], tmp_path: Path) -> None:
    """Masks leave none."""
    write_square(tmp_path / "a.png")
    loaded(model())
    predictions.write_predictions(tmp_path, [tmp_path / "a.png"], tmp_path / "out")
    assert not (tmp_path / "out" / "coco.json").exists()
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["unit"], row["blob"]) == ("pixels", "25.0")
    assert json.dumps(coco([ONE]))
