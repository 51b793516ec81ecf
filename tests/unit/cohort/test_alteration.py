"""Altered cases: image, mask and region move together, by what was drawn, and only they do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from tests.unit.tiny import VESSEL, write_photographs, write_rows

from allograft.cohort import Coding, Cohort, Preprocessing
from allograft.cohort.alteration import Alteration, drawn_alteration
from allograft.errors import SpecError, SplitError
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.keys import Transformed
from allograft.study.reading import make_study

NOTHING: dict[str, Any] = {"scale": (1.0, 1.0, 1.0), "degrees": (0.0, 0.0, 0.0), "mm": (0.0, 0.0, 0.0)}


def altered(**changes: Any) -> Alteration:
    return Alteration(**{"low": 0.0, "high": 1.0, **NOTHING, **changes})


def test_nothing_changes_nothing_and_a_movement_is_in_mm() -> None:
    array = np.random.default_rng(0).random((2, 6, 5, 4))
    np.testing.assert_allclose(altered().moved(array, (1, 2, 3), nearest=False), array)
    np.testing.assert_allclose(altered().squeezed(array), array)
    moved = altered(mm=(2.0, 2.0, -3.0)).moved(array, (1, 2, 3), nearest=False)
    np.testing.assert_allclose(moved[:, 2:, 1:, :-1], array[:, :-2, :-1, 1:], atol=1e-12)
    assert moved[0, 0, 0, 0] == array[0].min()


def test_a_quarter_turn_and_twice_the_size() -> None:
    mask = np.zeros((1, 9, 9), np.int64)
    mask[0, 4, 6] = 1
    turned = altered(degrees=(90.0, 0.0, 0.0)).moved(mask, (1, 1), nearest=True)
    assert np.argwhere(turned[0]).tolist() == [[2, 4]]  # to the other axis, by the sign of the matrix
    square = np.zeros((1, 9, 9), np.int64)
    square[0, 3:6, 3:6] = 1
    assert altered(scale=(2.0, 1.0, 1.0)).moved(square, (1, 1), nearest=True).sum() == pytest.approx(18, abs=3)
    assert (
        altered(scale=(1.0, 1.0, 0.5)).moved(square[:, :, :, None].repeat(9, 3), (1, 1, 1), nearest=True).sum() < 9 * 9
    )


def test_a_turn_keeps_lengths_in_mm_on_anisotropic_voxels() -> None:
    places = np.zeros((1, 21, 11), np.float64)
    places[0, 10, 8] = 1.0  # 6 mm from the centre along an axis of 2 mm voxels
    turned = altered(degrees=(90.0, 0.0, 0.0)).moved(places, (1, 2), nearest=False)
    assert np.argwhere(turned[0] > 0.5).tolist() == [[4, 5]]  # 6 voxels of 1 mm


def test_intensities_are_squeezed_into_shares_of_their_own_range() -> None:
    array = np.stack([np.linspace(-4, 6, 11), np.linspace(0, 1, 11)])[:, :, None]
    found = altered(low=0.1, high=0.9).squeezed(array)
    assert (found[0].min(), found[0].max()) == pytest.approx((-3, 5))
    assert (found[1].min(), found[1].max()) == pytest.approx((0.1, 0.9))
    np.testing.assert_allclose(np.diff(found[0, :, 0]), 0.8)


def test_draws_are_by_name_and_grow_with_the_strength() -> None:
    options: dict[str, Any] = {"intensity": (0.1, 0.9), "scale": (0.8, 1.2), "degrees": 15.0, "mm": 5.0}
    half, full = (drawn_alteration("a", strength, **options) for strength in (0.5, 1.0))
    assert drawn_alteration("a", 1.0, **options) == full != drawn_alteration("b", 1.0, **options)
    assert (half.low, half.high, full.low, full.high) == pytest.approx((0.05, 0.95, 0.1, 0.9))
    np.testing.assert_allclose(np.array(half.degrees) * 2, full.degrees)
    np.testing.assert_allclose((np.array(half.scale) - 1) * 2, np.array(full.scale) - 1)
    many = [drawn_alteration(str(n), 1.0, **options) for n in range(200)]
    for key, low, high in (("scale", 0.8, 1.2), ("degrees", -15, 15), ("mm", -5, 5)):
        values = np.array([getattr(one, key) for one in many])
        assert low <= values.min() < low + 0.1 * (high - low)
        assert high >= values.max() > high - 0.1 * (high - low)


def volumes(folder: Path, count: int) -> Path:
    folder.mkdir()
    rows = []
    for number in range(count):
        mask = np.zeros((12, 12, 12), np.uint8)
        mask[3:8, 4:8, 5:9] = 1
        image = (100.0 * mask + number).astype(np.float32)
        for name, values in (("image", image), ("mask", mask)):
            nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), folder / f"{number}-{name}.nii.gz")  # type: ignore[attr-defined]
        rows.append(
            {"image": f"{number}-image.nii.gz", "mask": f"{number}-mask.nii.gz", "subject": f"s{number}", "site": "a"}
        )
    return write_rows(folder / "manifest.csv", rows)


def test_image_mask_and_truth_of_a_case_move_together(tmp_path: Path) -> None:
    cohort = Cohort.read(volumes(tmp_path / "v", 1), VESSEL.coding, preprocessing=Preprocessing(intensity="minmax"))
    change = altered(low=0.1, high=0.9, mm=(2.0, 0.0, -1.0), degrees=(0.0, 0.0, 10.0))
    moved = replace(cohort, cases=(replace(cohort.cases[0], alteration=change),))
    plain, case = cohort.case(0), moved.case(0)
    assert cohort.fingerprint() != moved.fingerprint()
    assert (float(case.image.min()), float(case.image.max())) == pytest.approx((0.1, 0.9))
    assert not np.array_equal(case.labels["mask"], plain.labels["mask"])
    inside = case.image[case.labels["mask"] > 0]  # type: ignore[operator]
    assert float(inside.mean()) > 0.75  # the bright block is where its mask is
    assert np.array_equal(moved.whole(0).mask, case.labels["mask"][0, 0])


def test_a_case_is_moved_in_mm_of_its_own_file_and_turned_about_its_own_axes(tmp_path: Path) -> None:
    """Voxels of 1 x 2 x 3 mm whose axes are not in the order of the study's grid."""
    values = np.random.default_rng(0).integers(1, 9, (6, 5, 4)).astype(np.int16)
    affine = np.array([[0, 0, -3.0, 0], [1.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1]])
    for name, array in (("image", values), ("mask", values % 2), ("paired", values)):
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"{name}.nii.gz")  # type: ignore[attr-defined]
    row = {name: f"{name}.nii.gz" for name in ("image", "mask", "paired")}
    manifest = write_rows(tmp_path / "rows.csv", [{**row, "subject": "s", "site": "a"}])
    coding = Coding(mask={"vessel": (1,)}, paired=1, paired_range=(0.0, 10.0))
    cohort = Cohort.read(manifest, coding, preprocessing=Preprocessing(intensity="none"))
    moved = replace(cohort, cases=(replace(cohort.cases[0], alteration=altered(mm=(2.0, 2.0, 3.0))),))
    whole = moved.whole(0)
    assert whole.geometry.spacing != whole.geometry.stored_spacing == (1.0, 2.0, 3.0)
    assert np.array_equal(whole.mask[2:, 1:, 1:], values[:-2, :-1, :-1] % 2)
    np.testing.assert_allclose(whole.paired[0, 2:, 1:, 1:], values[:-2, :-1, :-1] / 10, atol=1e-5)
    back = whole.on_image(whole.batch.image.repeat(1, 2, 1, 1, 1))[1]
    np.testing.assert_allclose(back[2:, 1:, 1:], values[:-2, :-1, :-1], atol=1e-4)


def test_each_angle_turns_two_axes_and_each_channel_is_filled_with_its_own_minimum() -> None:
    for angle, axes in enumerate(((1, 2), (0, 2), (0, 1))):
        matrix = altered(degrees=tuple(90.0 * (number == angle) for number in range(3))).matrix(3)
        still = ({0, 1, 2} - set(axes)).pop()
        assert matrix[still].round(9).tolist() == np.eye(3)[still].tolist()
        assert matrix[axes[0]].round(9).tolist() == (-np.eye(3)[axes[1]]).tolist()
    array = np.stack([np.full((4, 5), 3.0), np.full((4, 5), -2.0)])
    moved = altered(mm=(2.0, 0.0, 0.0)).moved(array, (1, 1), nearest=False)
    assert moved[:, 0, 0].tolist() == [3.0, -2.0]
    options: dict[str, Any] = {"intensity": (0.1, 0.9), "scale": (0.8, 1.2), "degrees": 1.0, "mm": 1.0}
    drawn = drawn_alteration("a", 1.0, **options)
    assert len({*drawn.degrees, *drawn.mm, *((side - 1) / 0.2 for side in drawn.scale)}) == 9


def world_of(manifest: Path, out: Path, **changes: Any) -> Any:
    tree = {
        "cohort": str(manifest),
        "task": {"segmentation": {"classes": ["vessel"]}},
        "network": {"unet": {"spatial_dims": 3, "channels": [2, 4], "norm": "batch"}},
        "stream": {"transformed": {"sites": ["a"], "stages": 3, **changes}},
        "recipes": ["sequential"],
        "near_duplicates": "warn",
        "seeds": 1,
    }
    session = Session(make_study(tree), out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    return session.prepare()


def test_a_transformed_stream_divides_subjects_and_alters_more_with_each_stage(tmp_path: Path) -> None:
    world = world_of(volumes(tmp_path / "v", 12), tmp_path / "out")
    names = world.study.phases
    assert names == tuple((f"a transformed, {stage} of 3",) for stage in (1, 2, 3))
    (question,) = world.study.questions
    stages = world.scenario(question, 0, 0).stream
    sizes = [
        len(stage.subjects) + len(world.part(name, "test", 0).subjects)
        for stage, (name,) in zip(stages, names, strict=True)
    ]
    assert sizes == [4, 4, 4]
    assert all(case.alteration is None for case in stages[0].cases)
    for stage, high in zip(stages[1:], (0.95, 0.9), strict=True):
        assert all(case.alteration is not None and case.alteration.high == pytest.approx(high) for case in stage.cases)
    tested = world.part(names[2][0], "test", 0)
    assert all(case.alteration is not None for case in tested.cases)  # test cases are those of their stage


def test_what_makes_no_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SplitError, match=r"stream.transformed: 5 subjects cannot fill 3 stages"):
        world_of(volumes(tmp_path / "v", 5), tmp_path / "out")
    with pytest.raises(SpecError, match=r"stream.transformed: found 1 sites and 1 stages"):
        Transformed(("a",), 1)
    with pytest.raises(SpecError, match=r"intensity \[0.9, 0.1\].*expected shares from 0 to 1"):
        Transformed(("a",), intensity=(0.9, 0.1))


def test_photographs_are_altered_in_pixels(tmp_path: Path) -> None:
    cohort = Cohort.read(
        write_photographs(tmp_path, {"a": 1}), VESSEL.coding, preprocessing=Preprocessing(intensity="none")
    )
    moved = replace(cohort, cases=(replace(cohort.cases[0], alteration=altered(mm=(1.0, 2.0, 9.0))),))
    mask = cohort.case(0).labels["mask"]
    assert np.array_equal(moved.case(0).labels["mask"][..., 1:, 2:], mask[..., :-1, :-2])
