"""Images larger than preprocessing.size: predicted window by window, by hand; or what was not looked at is said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import nibabel
import numpy as np
import pytest
import torch
from tests.unit.tiny import VESSEL, case, write_rows, write_volumes
from torch import Tensor

from allograft.apply.model import Model
from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing, Slices
from allograft.predictor.whole import case_facts, case_prediction, not_looked_at, sees_whole_images, windowed_prediction
from allograft.recipe import Stage
from allograft.run.fabric import local_fabric
from allograft.run.images import foreground_cut_off, prepare_images
from allograft.run.judge import Judge
from allograft.study.world import TestSet
from allograft.tasks.classification import Classification
from allograft.tasks.multitask import Multitask


@dataclass(frozen=True)
class Thresholded:
    """The class is what lies above ``level``, pixel by pixel; notes the batches it was given."""

    level: float = 0.5
    seen: list[Batch] = field(default_factory=list, compare=False)

    def __call__(self, batch: Batch) -> Mapping[str, Any]:
        self.seen.append(batch)
        return {"mask": torch.cat([torch.zeros_like(batch.image[:, :1]), batch.image[:, :1] - self.level], 1)}


@dataclass(frozen=True)
class Whole:
    """What must see images whole."""

    inner: Any
    sees_whole_images: ClassVar[bool] = True

    def __call__(self, batch: Batch) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.inner(batch)
        return found


@dataclass(frozen=True)
class Both:
    """A mask and a class; the class is 1 where the image it is shown has a bright pixel."""

    def __call__(self, batch: Batch) -> Mapping[str, Any]:
        bright = (batch.image.flatten(1).amax(1) > 0.5).float()
        return {**Thresholded()(batch), "label": torch.stack([-9 * bright, 9 * bright - 9], 1)}


@pytest.mark.parametrize(
    ("size", "window"),
    [((7, 9), (4, 4)), ((4, 9), (4, 4)), ((4, 4), (4, 4)), ((33, 5), (8, 5)), ((6, 7, 8), (4, 7, 3))],
)
def test_what_gives_back_its_image_does_so_everywhere(size: tuple[int, ...], window: tuple[int, ...]) -> None:
    image = torch.randn(3, 1, *size)
    batch = replace(case("a"), image=image, site=torch.zeros(3), cases=("a", "b", "c"))
    found = windowed_prediction(Thresholded(0.0), batch, window)
    torch.testing.assert_close(found["mask"][:, 1:], image, rtol=1e-5, atol=1e-6)
    assert torch.equal(batch.image, image)


def test_a_window_that_covers_the_image_is_the_plain_prediction() -> None:
    batch = replace(case("a"), image=torch.randn(1, 1, 6, 5))
    plain = Thresholded()(batch)["mask"]
    torch.testing.assert_close(windowed_prediction(Thresholded(), batch, (6, 5))["mask"], plain, rtol=1e-6, atol=1e-7)


@dataclass(frozen=True)
class First:
    """Everywhere the value of the window's first pixel, and a score for each image."""

    def __call__(self, batch: Batch) -> Mapping[str, Any]:
        first = batch.image[..., :1, :1]
        count = len(batch)
        return {"mask": first.expand_as(batch.image), "score": first.flatten(), "warnings": ("far",) * count}


def test_overlaps_are_gaussian_means_of_logits_by_hand() -> None:
    """Six columns, windows of four by steps of 3: they begin at 0 and at 2. The Gaussian's deviation is an eighth of
    the window, 0.5 pixels, so in columns 2 and 3 the weights are as exp(-0.5) to exp(-4.5), 1 to exp(-4)."""
    image = torch.arange(6.0).expand(1, 1, 4, 6)
    found = windowed_prediction(First(), replace(case("a"), image=image), (4, 4))
    near, far = 1 / (1 + math.exp(-4)), math.exp(-4) / (1 + math.exp(-4))
    expected = torch.tensor([0.0, 0.0, 2 * far, 2 * near, 2.0, 2.0])
    torch.testing.assert_close(found["mask"][0, 0, 1], expected, rtol=1e-5, atol=1e-6)
    assert case_facts(found) == {"score": 1.0, "warnings": ["far"]}  # (0 + 2) / 2


def test_a_quarter_of_a_window_overlaps() -> None:
    """20 columns, windows of 8: by steps of 6 they begin at 0, 6 and 12."""
    predictor = Thresholded()
    image = torch.arange(20.0).expand(1, 1, 8, 20)
    labelled = replace(case("a"), image=image, labels={"label": torch.tensor([1])})
    windowed_prediction(predictor, labelled, (8, 8))
    assert not any(batch.labels for batch in predictor.seen)
    assert [float(image[0, 0, 0]) for batch in predictor.seen for image in batch.image] == [0.0, 6.0, 12.0]


def blob(shape: tuple[int, ...], *corner: int, side: int = 2) -> np.ndarray:
    """A bright cube."""
    array = np.zeros(shape, np.uint8)
    array[tuple(slice(first, first + side) for first in corner)] = 1
    return array


def write_blobs(folder: Path, shape: tuple[int, ...] = (12, 8, 4), *, label: bool = False) -> Path:
    """Cubes of 8 voxels of 1 x 1 x 2 mm: one in the middle, one half and one wholly outside the middle 4 x 8 x 4."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, first in (("middle", 5), ("edge", 3), ("out", 0)):
        array = blob(shape, first, 3, 1)
        for ending in ("", "-mask"):
            nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1, 2, 1])), folder / f"{name}{ending}.nii.gz")
        row = {"image": f"{name}.nii.gz", "mask": f"{name}-mask.nii.gz", "subject": name, "site": "a"}
        rows.append({**row, "label": "x"} if label else row)
    return write_rows(folder / "manifest.csv", rows)


CUT = Preprocessing(spacing=(1, 1, 2), size=(4, 8, 4), intensity="none")


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort.read(write_blobs(tmp_path), VESSEL.coding, preprocessing=CUT)


@pytest.mark.parametrize("axis", [None, 0, 1, 2])
def test_a_whole_case_is_found_wherever_it_lies(axis: int | None, cohort: Cohort) -> None:
    cohort = replace(cohort, slices=None if axis is None else Slices(axis))
    for which in range(3):
        prediction = case_prediction(Thresholded(), cohort.whole(which), VESSEL)
        answer = VESSEL.answer(prediction, cohort.whole(which))
        assert answer.mask is not None
        assert torch.equal(answer.mask, cohort.whole(which).mask)
        assert answer.values == {"vessel": 16.0}  # 8 voxels of 2 mm3
        assert VESSEL.measure(prediction, cohort.whole(which))["dice"] == 1.0
        assert "warnings" not in prediction


def test_a_predictor_of_whole_images_sees_the_middle_and_says_what_it_missed(cohort: Cohort) -> None:
    """The middle 4 of 12 planes: 2/3 of 12 x 8 x 4 voxels of 2 mm3 are 512 mm3."""
    inner = Thresholded()
    for which, volume in enumerate((16.0, 8.0, 0.0)):
        prediction = case_prediction(Whole(inner), cohort.whole(which), VESSEL)
        assert inner.seen[-1].image.shape == (1, 1, 4, 8, 4)
        text = "512 mm3 (66.7%) were not looked at: they lie outside preprocessing.size"
        assert case_facts(prediction)["warnings"] == [text] == [not_looked_at(cohort.whole(which))]
        assert VESSEL.answer(prediction, cohort.whole(which)).values == {"vessel": volume}


def test_who_sees_images_whole() -> None:
    whole = Whole(Thresholded())
    assert sees_whole_images(whole)
    assert sees_whole_images(Whole) is False
    assert not sees_whole_images(Thresholded())

    @dataclass(frozen=True)
    class Pool:
        models: tuple[Any, ...]

    assert sees_whole_images(Pool((Thresholded(), whole)))
    assert not sees_whole_images(Pool((Thresholded(),)))


def test_a_class_is_of_the_middle_and_this_is_said(tmp_path: Path) -> None:
    task = Classification(("x", "y"))
    cohort = Cohort.read(write_blobs(tmp_path, label=True), task.coding, preprocessing=CUT)
    seen = [case_prediction(Both(), cohort.whole(which), task) for which in range(3)]
    assert [task.answer(one, cohort.whole(n)).values["label"] for n, one in enumerate(seen)] == ["y", "y", "x"]
    assert all(case_facts(one)["warnings"] == [not_looked_at(cohort.whole(0))] for one in seen)


def test_of_two_tasks_the_mask_is_of_all_and_the_class_of_the_middle(tmp_path: Path) -> None:
    task = Multitask(VESSEL, Classification(("x", "y")))
    cohort = Cohort.read(write_blobs(tmp_path, label=True), task.coding, preprocessing=CUT)
    prediction = case_prediction(Both(), cohort.whole(2), task)  # the cube lies outside
    answer = task.answer(prediction, cohort.whole(2))
    assert answer.values["vessel"] == 16.0
    assert prediction["label"].argmax(1).tolist() == [0]


def test_nothing_changes_where_nothing_is_cut_off(tmp_path: Path) -> None:
    for size in ((12, 8, 4), (16, 9, 6)):
        preprocessing = replace(CUT, size=size)
        cohort = Cohort.read(write_blobs(tmp_path), VESSEL.coding, preprocessing=preprocessing)
        predictor = Thresholded()
        found = case_prediction(predictor, cohort.whole(0), VESSEL)
        assert len(predictor.seen) == 1
        assert torch.equal(found["mask"], predictor(cohort.whole(0).batch)["mask"])
        assert torch.equal(cohort.whole(0).make_uncut().image, cohort.whole(0).batch.image)


def test_windows_know_what_is_padding_and_where_they_lie(tmp_path: Path) -> None:
    """Axis 0 is cut to windows of 4, axis 2 is padded from 4 to 6: one plane before and one behind."""
    manifest = write_volumes(tmp_path, [(9, 5, 4)])
    preprocessing = Preprocessing(spacing=(1, 2, 3), size=(4, 5, 6), intensity="none")
    cohort = Cohort.read(manifest, VESSEL.coding, preprocessing=preprocessing)
    predictor = Thresholded()
    case_prediction(predictor, cohort.whole(0), VESSEL)
    starts = []
    for window in predictor.seen:
        assert window.image.shape == (1, 1, 4, 5, 6)
        assert window.inside()[0, 0].sum((0, 1)).tolist() == [0, 20, 20, 20, 20, 0]
        assert not window.labels
        starts.append(float(window.image[0, 0, 0, 0, 1]) / 100)  # 100 i + 10 j + k
    assert starts == [0.0, 3.0, 5.0]


def test_judge_and_predict_are_one_path(cohort: Cohort, tmp_path: Path) -> None:
    judge = Judge((), VESSEL, tmp_path / "records", local_fabric(accelerator="cpu"))
    test = TestSet("a", "test", 0, cohort)
    cases = judge.measure(Stage("x", Thresholded(), sites=("a",)), test)
    assert [one["dice"] for one in cases] == [1.0, 1.0, 1.0]
    cases = judge.measure(Stage("x", Whole(Thresholded()), sites=("a",)), test)
    assert [one["dice"] for one in cases] == [1.0, pytest.approx(2 / 3), 0.0]  # half of the cube: 2 * 4 / (4 + 8)
    assert [one["warnings"] for one in cases] == [[not_looked_at(cohort.whole(0))]] * 3
    card = {
        "task": {"segmentation": {"classes": ["vessel"]}},
        "preprocessing": {"spacing": [1, 1, 2], "size": [4, 8, 4], "intensity": "none"},
        "channels": 1,
        "sites": [],
    }
    for predictor, volume, warned in (
        (Thresholded(), 16.0, ()),
        (Whole(Thresholded()), 0.0, (not_looked_at(cohort.whole(0)),)),
    ):
        (one,) = Model(predictor, card, torch.device("cpu")).predict([tmp_path / "out.nii.gz"])
        assert one.answer.values == {"vessel": volume}
        assert one.answer.warnings[-1:] == warned


def test_masks_that_are_cut_off_are_counted_and_not_called_empty(tmp_path: Path) -> None:
    manifest = write_blobs(tmp_path)
    empty = np.zeros((12, 8, 4), np.uint8)
    nibabel.save(nibabel.Nifti1Image(empty, np.diag([1.0, 1, 2, 1])), tmp_path / "none-mask.nii.gz")
    nibabel.save(nibabel.Nifti1Image(empty + 5, np.diag([1.0, 1, 2, 1])), tmp_path / "none.nii.gz")
    with manifest.open("a") as file:
        file.write("none.nii.gz,none-mask.nii.gz,none,a\n")
    cohort = Cohort.read(manifest, VESSEL.coding, preprocessing=CUT)
    assert [foreground_cut_off(cohort, one) for one in cohort.cases] == [0.0, 0.5, 1.0, None]
    lines: list[str] = []
    prepare_images([cohort], lines.append)
    assert lines[0].startswith("warning: 1 of 4 images have no foreground")
    assert "cuts foreground off 2 of 4 masks, and all of it off 1" in lines[1]


def test_windows_are_as_another_library_has_them() -> None:
    """Float64, by a loop over places written out, of a predictor that answers each window differently."""
    image = torch.randn(1, 1, 10, 7, dtype=torch.float64)

    @dataclass(frozen=True)
    class Standardised:
        def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
            space = (2, 3)
            return {
                "mask": (batch.image - batch.image.mean(space, keepdim=True)) / batch.image.std(space, keepdim=True)
            }

    found = windowed_prediction(Standardised(), replace(case("a"), image=image), (4, 5))["mask"][0, 0]
    total, weights = torch.zeros(10, 7, dtype=torch.float64), torch.zeros(10, 7, dtype=torch.float64)
    for top in (0, 3, 6):
        for left in (0, 2):
            window = image[0, 0, top : top + 4, left : left + 5]
            answer = (window - window.mean()) / window.std()
            for row in range(4):
                for column in range(5):
                    # an eighth of each side; never below 0.001
                    weight = math.exp(-((row - 1.5) ** 2) / (2 * 0.5**2) - (column - 2) ** 2 / (2 * 0.625**2))
                    weight = max(weight, 1e-3)
                    total[top + row, left + column] += weight * answer[row, column]
                    weights[top + row, left + column] += weight
    torch.testing.assert_close(found, total / weights, rtol=1e-6, atol=1e-6)
