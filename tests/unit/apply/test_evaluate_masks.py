"""Another tool's masks: found by their path, brought to the image's axes, or refused."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from tests.unit.apply.squares import write_square

from allograft.apply.evaluate import evaluate, summary
from allograft.errors import ImageError, ModelError, SpecError

TASK = {"segmentation": {"classes": ["blob"]}}
AFFINE = np.diag([1.0, 1, 3, 1])
MASK = np.zeros((7, 8, 9), np.uint8)
MASK[2:5, 3:7, 1:4] = 1


def volume(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), affine), path)


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    volume(tmp_path / "data" / "c1.nii.gz", MASK * 50)
    volume(tmp_path / "data" / "c1_m.nii.gz", MASK)
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc1.nii.gz,c1_m.nii.gz,1,a\n")
    return tmp_path


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two sites that count alike."""
    rows = []
    for site in "ab":
        write_square(tmp_path / "data" / site / "1.png")
        write_square(tmp_path / "data" / site / "1_truth.png")
        rows.append(f"{site}/1.png,{site}/1_truth.png,{site},{site}\n")
    write_square(tmp_path / "data" / "a" / "2.png")
    write_square(tmp_path / "data" / "a" / "2_truth.png")
    rows.append("a/2.png,a/2_truth.png,a2,a\n")
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\n" + "".join(rows))
    return tmp_path


def test_other_axes_score_as_the_same_place(scans: Path) -> None:
    for number, turn in enumerate(([[0, -1], [1, -1], [2, 1]], [[1, 1], [0, 1], [2, 1]], [[2, 1], [0, -1], [1, 1]])):
        made = nibabel.Nifti1Image(MASK, AFFINE).as_reoriented(np.array(turn))
        volume(scans / f"p{number}" / "c1.nii.gz", np.asarray(made.dataobj), made.affine)
        assert evaluate(scans / f"p{number}", scans / "data" / "manifest.csv", task=TASK).metrics["a"]["dice"] == 1.0


def test_a_mask_one_voxel_away_in_the_file_scores_less(scans: Path) -> None:
    volume(scans / "p" / "c1.nii.gz", np.roll(MASK, 1, 0))
    # 36 voxels each, 24 shared
    assert evaluate(scans / "p", scans / "data" / "manifest.csv", task=TASK).metrics["a"]["dice"] == pytest.approx(
        48 / 72
    )


@pytest.mark.parametrize("what", ["far", "size", "shape", "bare"])
def test_other_places_are_refused(scans: Path, what: str) -> None:
    far = AFFINE.copy()
    far[:3, 3] = 500
    path = scans / "p" / "c1.nii.gz"
    if what == "bare":
        path.parent.mkdir()
        np.save(scans / "p" / "c1.npy", MASK)
    else:
        volume(path, MASK[:, :, :8] if what == "shape" else MASK, {"far": far, "size": np.eye(4)}.get(what, AFFINE))
    words = {
        "far": r"866\.0 mm",
        "size": "1 x 1 x 1 mm, expected 1 x 1 x 3 mm",
        "shape": "shape",
        "bare": "no voxel size and position",
    }
    with pytest.raises(ImageError, match=words[what]):
        evaluate(scans / "p", scans / "data" / "manifest.csv", task=TASK)


def test_predictions_are_found_by_their_path(pictures: Path) -> None:
    for site, shift in (("a", 0), ("b", 2)):
        write_square(pictures / "p" / site / "1.png", shift)
    write_square(pictures / "p" / "a" / "2_mask.png")
    metrics = evaluate(pictures / "p", pictures / "data" / "manifest.csv", task=TASK).metrics
    # 15 of 25 shared
    assert (metrics["a"]["dice"], metrics["b"]["dice"]) == (1.0, pytest.approx(0.6))


def test_a_bare_name_is_enough_where_it_is_one_of_a_kind(pictures: Path) -> None:
    for site in "ab":
        write_square(pictures / "p" / site / "1.png")
    write_square(pictures / "p" / "somewhere" / "2.png")
    assert evaluate(pictures / "p", pictures / "data" / "manifest.csv", task=TASK).metrics["a"]["dice"] == 1.0


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["1.png", "2.png"], "2 cases and 1 predictions are called '1'"),
        (["a/1.png", "b/1.png", "x/2.png", "y/2.png"], "1 cases and 2 predictions are called '2'"),
        (["a/1.png", "a/1.bmp", "b/1.png", "2.png"], "1.png is a prediction for 'a/1.png' too"),
        (["a/1_mask.png", "b/1.png"], "holds no prediction for 'a/2.png'"),
    ],
)
def test_names_that_do_not_say_which(pictures: Path, files: list[str], words: str) -> None:
    for name in files:
        write_square(pictures / "p" / name)
    with pytest.raises(ModelError, match=words):
        evaluate(pictures / "p", pictures / "data" / "manifest.csv", task=TASK)


def test_the_hard_class_missed_is_no_better_than_found_a_voxel_off(tmp_path: Path) -> None:
    truth = np.zeros((20, 24, 10), np.uint8)
    truth[3:9, 4:12, 2:6], truth[12:17, 14:20, 5:9] = 1, 2
    volume(tmp_path / "data" / "c.nii.gz", truth * 50, np.eye(4))
    volume(tmp_path / "data" / "c_m.nii.gz", truth, np.eye(4))
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\nc.nii.gz,c_m.nii.gz,1,a\n")
    off = np.where(truth == 1, 1, 0).astype(np.uint8)
    volume(tmp_path / "misses" / "c.nii.gz", off.copy(), np.eye(4))
    off[12:17, 13:19, 5:9] = 2
    volume(tmp_path / "finds" / "c.nii.gz", off, np.eye(4))
    task = {"segmentation": {"classes": ["one", "two"]}}
    asked = [tmp_path / "data" / "manifest.csv"]
    misses, finds = (evaluate(tmp_path / name, *asked, task=task, missed="diagonal") for name in ("misses", "finds"))
    assert (misses.metrics["a"]["hd95"], finds.metrics["a"]["hd95"]) == (None, 0.5)
    # (20, 24, 10) voxels of 1 mm
    assert misses.metrics["a"]["hd95_diagonal"] == pytest.approx((400 + 576 + 100) ** 0.5 / 2)
    assert finds.metrics["a"]["hd95_diagonal"] == 0.5
    told = summary(misses, "a")
    assert "hd95 undefined (1 of 1 cases undefined)" in told
    assert "undefined/" not in told
    assert "hd95" not in {key for key in evaluate(tmp_path / "finds", *asked, task=task).metrics["a"] if "diag" in key}
    with pytest.raises(SpecError, match=r"missed: .* 'diagnal'; did you mean 'diagonal'"):
        evaluate(tmp_path / "finds", *asked, task=task, missed="diagnal")  # type: ignore[arg-type]


def test_a_prediction_that_has_another_case_s_name_is_that_case_s(tmp_path: Path) -> None:
    rows = []
    for name in ("1", "1_mask"):
        write_square(tmp_path / "data" / f"{name}.png")
        write_square(tmp_path / "data" / "truth" / f"{name}.png")
        rows.append(f"{name}.png,truth/{name}.png,{name},a\n")
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\n" + "".join(rows))
    write_square(tmp_path / "found" / "1_mask.png")
    with pytest.raises(ModelError, match=r"no prediction for '1\.png'"):
        evaluate(tmp_path / "found", tmp_path / "data" / "manifest.csv", task=TASK)
    write_square(tmp_path / "found" / "1.png")
    assert evaluate(tmp_path / "found", tmp_path / "data" / "manifest.csv", task=TASK).metrics["a"]["dice"] == 1.0


def test_two_images_of_one_name_cannot_share_a_prediction(tmp_path: Path) -> None:
    rows = []
    for suffix in ("png", "bmp"):
        write_square(tmp_path / "data" / f"1.{suffix}")
        write_square(tmp_path / "data" / "truth" / f"1_{suffix}.png")
        rows.append(f"1.{suffix},truth/1_{suffix}.png,{suffix},a\n")
    (tmp_path / "data" / "manifest.csv").write_text("image,mask,subject,site\n" + "".join(rows))
    write_square(tmp_path / "found" / "1.png")
    with pytest.raises(ModelError, match="2 cases called '1' differ only in their suffix"):
        evaluate(tmp_path / "found", tmp_path / "data" / "manifest.csv", task=TASK)
