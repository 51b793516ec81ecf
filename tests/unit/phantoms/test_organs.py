"""The phantom of organs: each shape is what its name says, its slices differ, and the same arguments
write the same bytes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from allograft.errors import SpecError
from allograft.phantoms import organs
from allograft.phantoms.parts import draws

SIZE = (40, 40, 40)


def written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def masks(shape: str, count: int = 8) -> list[np.ndarray]:
    forms = (organs.draw_form(draws(0, str(number))) for number in range(count))
    return [organs.label_organ(form, shape, SIZE) for form in forms]


def test_written_cohort(tmp_path: Path) -> None:
    sites = {"liver": "lobed", "vein": "tube"}
    one, two, fewer, other = (
        organs.write_organs(tmp_path / name, sites=sites, subjects=count, size=32, seed=seed)
        for name, count, seed in (("one", 2, 5), ("two", 2, 5), ("fewer", 1, 5), ("other", 2, 6))
    )
    assert written(one.parent) == written(two.parent)
    assert written(other.parent) != written(two.parent)
    more, less = written(one.parent), written(fewer.parent)
    assert all(more[name] == data for name, data in less.items() if name.endswith(".nii.gz"))
    lines = one.read_text().splitlines()
    assert lines[0] == "image,mask,subject,site"
    assert lines[-1] == "images/vein-001.nii.gz,masks/vein-001.nii.gz,vein-001,vein"
    image, mask = (nibabel.load(one.parent / name) for name in lines[1].split(",")[:2])
    assert image.shape == mask.shape == (32, 32, 32)
    assert image.get_data_dtype() == mask.get_data_dtype() == np.uint8
    assert np.unique(np.asarray(mask.dataobj)).tolist() == [0, 1]
    facts = json.loads((one.parent / "shift.json").read_text())
    assert (facts["phantom"], facts["dims"], facts["size"], facts["subjects"], facts["seed"]) == ("organs", 3, 32, 2, 5)
    assert facts["sites"]["vein"] == {"organ": "tube", **asdict(organs.ORGANS["tube"])}


@pytest.mark.parametrize("shape", organs.SHAPES)
def test_an_organ_is_in_one_piece_inside_the_image_with_slices_above_and_below(shape: str) -> None:
    for mask in masks(shape, 20):
        pieces, _ = ndimage.label(mask)
        assert np.bincount(pieces[pieces > 0]).max() > 0.97 * mask.sum()
        for axis in range(3):
            assert not np.take(mask, [0, -1], axis).any()
        shown = np.flatnonzero(mask.any((0, 1)))
        assert 8 < len(shown) < 40  # some slices show nothing
        early, middle = (mask[:, :, shown[len(shown) // part]] > 0 for part in (5, 2))
        assert (early & middle).sum() < 0.9 * (early | middle).sum()


def test_each_shape_is_what_its_name_says() -> None:
    def share_of_hull(mask: np.ndarray) -> float:
        from scipy.spatial import ConvexHull

        return float(mask.sum() / ConvexHull(np.argwhere(mask)).volume)

    for ball, tube, lobed, shell in zip(*map(masks, organs.SHAPES), strict=True):
        assert share_of_hull(ball) > 0.9
        assert share_of_hull(lobed) < 0.85
        assert ndimage.binary_fill_holes(shell).sum() > 1.3 * shell.sum()
        assert (ndimage.binary_fill_holes(shell) == (ball > 0)).all()
        extent = [int(tube.any(tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)]
        across = math.sqrt(tube.sum() / extent[2])  # the side of a square as large as a slice of it
        assert extent[2] > 3 * across
        for other in (ball, tube, shell):
            assert ndimage.binary_fill_holes(other).sum() == other.sum() or other is shell
    counts = [ndimage.label(lobed[:, :, at])[1] for lobed in masks("lobed") for at in range(40)]
    assert max(counts) >= 2


def test_what_looks_like_an_organ_is_not_always_one() -> None:
    quiet = replace(organs.ORGANS["ball"], texture=0.0, blur=0.0, noise=0.0)
    for number in range(5):
        form = organs.draw_form(draws(0, str(number)))
        image = organs.scan(form, quiet, np.random.default_rng(1), SIZE)
        mask = organs.label_organ(form, "ball", SIZE) > 0
        assert set(np.unique(image[mask])) == {np.rint(255 * (organs.BODY + 0.2))}
        beside = image[~mask] > 255 * organs.BODY + 1
        assert 20 < beside.sum() < 0.5 * mask.sum()
    dark = organs.scan(form, organs.ORGANS["lobed"], np.random.default_rng(1), SIZE)
    lobes = organs.label_organ(form, "lobed", SIZE) > 0
    assert dark[lobes].mean() < dark[~lobes].mean() - 20


def test_bad_requests(tmp_path: Path) -> None:
    for wrong, said in (
        ({"size": 8}, "at least 32"),
        ({"dims": 2}, "organs phantom: dims is 2; its images are volumes, so 3"),
        ({"sites": {"a": "tub"}}, "did you mean 'tube'"),
        ({"subjects": 0}, "at least one"),
    ):
        with pytest.raises(SpecError, match=said):
            organs.write_organs(tmp_path / "out", **wrong)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()
    for name, value in (("shape", "bal"), ("contrast", math.inf), ("noise", -1.0), ("blur", math.nan)):
        with pytest.raises(SpecError, match="organ: " + ("unknown shape 'bal'" if name == "shape" else name)):
            replace(organs.ORGANS["ball"], **{name: value})
