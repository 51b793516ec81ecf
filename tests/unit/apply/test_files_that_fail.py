"""Files that cannot be predicted: each is named, and the others go on."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.apply.squares import write_square
from tests.unit.apply.test_millimetres import CARD, PLANE, Bright

from allograft.apply.model import Model
from allograft.apply.predictions import _check_names
from allograft.cohort.prepared_images import file_hash
from allograft.errors import AllograftError, ImageError


def model(**preprocessing: object) -> Model:
    return Model(Bright(), CARD | {"preprocessing": {"intensity": "none", **preprocessing}}, torch.device("cpu"))


def test_a_file_that_is_gone_fails_alone(tmp_path: Path) -> None:
    write_square(tmp_path / "a.png")
    write_square(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere")
    made, failed = model(), dict[str, AllograftError]()
    found = made.predictions(made.cases(tmp_path), failed=failed)
    names = [next(found).name]
    (tmp_path / "b.png").unlink()  # after it was listed
    names += [one.name for one in found]
    assert (names, list(failed)) == (["a.png"], ["b.png", "c.png"])
    assert "cannot be read (No such file or directory)" in str(failed["b.png"])
    assert "c.png: a link to a file that is not there (datalad get" in str(failed["c.png"])


def test_a_hash_of_nothing_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"a.png: cannot be read"):
        file_hash(tmp_path / "a.png")


def test_names_that_clash_are_refused_before_anything_is_predicted(tmp_path: Path) -> None:
    write_square(tmp_path / "x" / "a.png")
    write_square(tmp_path / "y" / "a.png")
    _check_names(model().cases(tmp_path))
    nibabel.save(nibabel.Nifti1Image(PLANE[..., None], np.eye(4)), tmp_path / "x" / "a.nii.gz")
    with pytest.raises(ImageError, match=r"x/a.png: 'x/a.nii.gz' would write the same files"):
        _check_names(model().cases(tmp_path))


def test_an_image_of_other_axes_is_not_told_to_change_a_setting(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(np.stack([PLANE] * 3, -1), np.eye(4)), tmp_path / "a.nii.gz")
    words = r"size \(4, 6\) has 2 numbers, the image 3 axes; the model was trained on other images"
    with pytest.raises(ImageError, match=words):
        list(model(size=[4, 6]).predict([tmp_path / "a.nii.gz"]))


def test_arrays_are_predicted_like_the_files_that_hold_them(tmp_path: Path) -> None:
    write_square(tmp_path / "a.png")
    stored = np.asarray(Image.open(tmp_path / "a.png"))
    made = model()
    found = made.predict([tmp_path / "a.png", stored, stored[None].astype(np.float32)])
    assert isinstance(found, list)
    assert [one.name for one in found] == ["a.png", "array-1.npy", "array-2.npy"]
    for one in found:
        assert one.answer.mask is not None
        assert found[0].answer.mask is not None
        assert one.answer.mask.equal(found[0].answer.mask)
    (alone,) = made.predict(stored)
    assert alone.name == "array-0.npy"
    assert not list(tmp_path.glob("**/*.npy"))


def test_an_array_of_objects_is_refused() -> None:
    with pytest.raises(ImageError, match="array-0: holds object; expected numbers; convert it with astype"):
        model().predict(np.array([[object()]]))


def test_an_array_with_its_colours_last_is_refused_with_the_way_to_turn_it() -> None:
    with pytest.raises(ImageError, match=r"np\.moveaxis\(array, -1, 0\)"):
        model().predict(np.zeros((8, 9, 3)))
