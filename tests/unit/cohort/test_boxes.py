"""Boxes: read, brought to the study's grid and back, given anew, padded in a batch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allograft.batch import Batch, Boxes, collate
from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.cohort.boxes import boxes_from_grid, boxes_to_grid, inside, read_boxes
from allograft.cohort.geometry import geometry, to_grid
from allograft.cohort.picture import Picture
from allograft.errors import AllograftError, ImageError, ManifestError, SpecError

BOXES = Boxes(torch.tensor([[2.0, 4.0, 8.0, 6.0], [0.0, 0.0, 3.0, 3.0]]), torch.tensor([1, 2]))


def _file(folder: Path, content: object) -> Path:
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def _cohort(folder: Path, preprocessing: Preprocessing | None = None) -> Cohort:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (12, 20), dtype=np.uint8)).save(folder / "a.png")
    Image.fromarray(rng.integers(0, 255, (16, 10), dtype=np.uint8)).save(folder / "b.png")
    _file(folder, {"boxes": [[2, 4, 8, 6], [0, 0, 3, 3]], "labels": ["cell", "debris"]})
    (folder / "b.json").write_text('{"boxes": [], "labels": []}')
    rows = "image,boxes,subject,site\na.png,a.json,1,s\nb.png,b.json,2,s\n"
    (folder / "manifest.csv").write_text(rows)
    return Cohort.read(folder / "manifest.csv", Coding(boxes=("cell", "debris")), preprocessing=preprocessing)


def test_a_file_is_read_in_the_images_own_pixels(tmp_path: Path) -> None:
    path = _file(tmp_path, {"boxes": [[2, 4, 8, 6], [0, 0, 3, 3]], "labels": ["cell", "debris"]})
    boxes = read_boxes(path, ("cell", "debris"), (12, 20))
    assert torch.equal(boxes.xyxy, BOXES.xyxy)
    assert torch.equal(boxes.label, BOXES.label)
    assert len(read_boxes(_file(tmp_path, {"boxes": [], "labels": []}), ("cell",), (12, 20))) == 0


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("{", ImageError, "cannot be read as boxes"),
        ([], ImageError, "cannot be read as boxes"),
        ({"labels": []}, ImageError, "cannot be read as boxes"),
        ({"boxes": [[0, 0, 1]], "labels": ["cell"]}, ImageError, "cannot be read as boxes"),
        ({"boxes": [[0, 0, 1, 1, 2, 2, 3, 3]], "labels": ["cell"]}, ImageError, "a box of 8 numbers"),
        ({"boxes": [[0, 0, 1, 1]], "labels": []}, ImageError, "1 boxes and 0 labels"),
        ({"boxes": [[0, 0, 21, 1]], "labels": ["cell"]}, ImageError, "20 x 12 pixels"),
        ({"boxes": [[0, 0, 1, 13]], "labels": ["cell"]}, ImageError, "20 x 12 pixels"),
        ({"boxes": [[3, 0, 3, 1]], "labels": ["cell"]}, ImageError, "x0 < x1"),
        ({"boxes": [[0, 0, 1, float("nan")]], "labels": ["cell"]}, ImageError, "box 0"),
        ({"boxes": [[0, 0, 1, 1]], "labels": ["cel"]}, ManifestError, "cell"),
    ],
)
def test_what_is_no_box_of_the_image_is_refused(
    tmp_path: Path, content: object, error: type[AllograftError], words: str
) -> None:
    with pytest.raises(error, match=words):
        read_boxes(_file(tmp_path, content), ("cell",), (12, 20))
    with pytest.raises(ImageError, match="cannot be read"):
        read_boxes(tmp_path / "none.json", ("cell",), (12, 20))


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(size=(24, 10)),
        Preprocessing(spacing=(1.0, 0.5), size=(30, 50)),
        Preprocessing(spacing=(1.5, 1.0), orientation="LAS"),
        Preprocessing(spacing=(1.0, 1.0), orientation="ARS", size=(16, 16)),
        Preprocessing(),
    ],
    ids=["resized", "padded", "mirrored", "transposed", "as stored"],
)
def test_boxes_follow_their_pixels_to_the_grid_and_back(preprocessing: Preprocessing) -> None:
    stored = np.zeros((1, 12, 20), dtype=np.float32)
    stored[:, 4:6, 2:8] = 1
    affine = np.diag([1.0, 1.0, 1.0, 1.0]) if preprocessing.spacing else None
    grid = geometry(Picture(stored, affine), preprocessing, "a")
    one = Boxes(BOXES.xyxy[:1], BOXES.label[:1])
    moved = boxes_to_grid(one, grid)
    pixels = torch.from_numpy(to_grid(stored, grid, nearest=True))[0] > 0.5
    rows, columns = (pixels.any(axis).nonzero()[:, 0] for axis in (1, 0))
    bounds = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
    assert moved.xyxy[0].tolist() == pytest.approx(bounds, abs=0.75)
    torch.testing.assert_close(boxes_from_grid(moved, grid).xyxy, one.xyxy)


def test_what_the_grid_cuts_off_is_cut_from_the_boxes(tmp_path: Path) -> None:
    assert inside(BOXES, (5, 5)).xyxy.tolist() == [[2, 4, 5, 5], [0, 0, 3, 3]]
    assert inside(BOXES, (4, 5)).label.tolist() == [2]


def test_a_cohort_shows_boxes_on_the_grid_and_a_judge_their_own(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path, Preprocessing(size=(24, 20)))
    (boxes,) = cohort.case(0).labels["boxes"]
    assert isinstance(boxes, Boxes)
    assert boxes.xyxy.tolist() == [[2, 8, 8, 12], [0, 0, 3, 6]]
    (none,) = cohort.case(1).labels["boxes"]
    assert none is not None
    assert len(none) == 0
    whole = cohort.whole(0)
    assert torch.equal(whole.boxes.xyxy, BOXES.xyxy)
    assert whole.batch.labels == {}
    assert cohort.unlabelled().case(0).labels == {}
    with pytest.raises(KeyError):
        _ = cohort.unlabelled().whole(0).boxes


def test_other_boxes_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    other = cohort.relabelled({"a.png": BOXES[torch.tensor([0])]})
    (boxes,) = other.case(0).labels["boxes"]
    assert boxes is not None
    assert len(boxes) == 1
    same = cohort.relabelled({"a.png": BOXES[torch.tensor([0])]})
    moved = cohort.relabelled({"a.png": BOXES[torch.tensor([1])]})
    assert other.fingerprint() == same.fingerprint()
    assert len({str(each.fingerprint()) for each in (cohort, other, moved)}) == 3
    assert other.where(lambda case: case.name == "b.png").fingerprint() == (
        cohort.where(lambda case: case.name == "b.png").fingerprint()
    )
    assert other.unlabelled().case(0).labels == {}
    with pytest.raises(SpecError, match=r"'c\.png'"):
        cohort.relabelled({"c.png": BOXES})


def test_other_boxes_are_labels_too_and_hidden_with_them(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    hidden = cohort.relabelled({"a.png": BOXES}).unlabelled()
    assert hidden.given == {}
    assert hidden.case(0).labels == {}
    assert hidden == cohort.unlabelled()


def test_other_boxes_are_added_to_and_replace_those_given_before(tmp_path: Path) -> None:
    one, two = BOXES[torch.tensor([0])], BOXES[torch.tensor([1])]
    cohort = _cohort(tmp_path).relabelled({"a.png": one, "b.png": one}).relabelled({"a.png": two})
    shown = [cohort.case(number).labels["boxes"][0] for number in (0, 1)]
    assert [boxes.xyxy.tolist() for boxes in shown if boxes is not None] == [two.xyxy.tolist(), one.xyxy.tolist()]


def test_further_readers_have_boxes_of_their_own_and_a_method_sees_none_of_them(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path, Preprocessing(size=(24, 20)))
    (tmp_path / "second.json").write_text('{"boxes": [[1, 2, 3, 4]], "labels": ["debris"]}')
    rows = "image,boxes,boxes_reader2,subject,site,age\na.png,a.json,second.json,1,s,3\nb.png,b.json,,2,s,\n"
    (tmp_path / "manifest.csv").write_text(rows)
    cohort = Cohort.read(tmp_path / "manifest.csv", cohort.prepared.coding, preprocessing=cohort.prepared.preprocessing)
    first = cohort.cases[0]
    assert (first.attributes, first.labels["boxes_reader2"]) == ({"age": "3"}, tmp_path / "second.json")
    further = cohort.whole(0).further_boxes
    assert {name: boxes.xyxy.tolist() for name, boxes in further.items()} == {"reader2": [[1, 2, 3, 4]]}
    assert further["reader2"].label.tolist() == [2]
    assert torch.equal(cohort.whole(0).boxes.xyxy, BOXES.xyxy)
    assert cohort.prepared.boxes(first, "boxes_reader2").xyxy.tolist() == [[1, 4, 3, 8]]
    hidden = cohort.one_reader().cases[0]
    assert (hidden.labels, hidden.attributes) == ({"boxes": tmp_path / "a.json"}, {"age": "3"})
    (tmp_path / "manifest.csv").write_text(rows.replace("second.json", "../second.json"))
    with pytest.raises(ManifestError, match=r"row 2, boxes_reader2: '\.\./second\.json' leaves the data folder"):
        Cohort.read(tmp_path / "manifest.csv")


def test_images_of_several_sizes_share_a_batch(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path, Preprocessing(intensity="none"))
    batch = collate([cohort.case(0), cohort.case(1)])
    assert tuple(batch.image.shape) == (2, 1, 16, 20)
    assert batch.extent is not None
    assert batch.extent.tolist() == [[12, 20], [16, 10]]
    assert torch.equal(batch.image[0, :, 2:14], cohort.case(0).image[0])
    assert torch.equal(batch.inside()[1, 0].nonzero().amin(0), torch.tensor([0, 5]))
    first, second = batch.labels["boxes"]
    assert isinstance(first, Boxes)
    assert first.xyxy.tolist() == [[2, 6, 8, 8], [0, 2, 3, 5]]
    assert isinstance(second, Boxes)
    assert len(second) == 0
    with pytest.raises(SpecError, match="cannot share a batch"):
        collate([Batch(torch.zeros(1, 1, 2, size), torch.tensor([0]), ("a",)) for size in (2, 3)])
